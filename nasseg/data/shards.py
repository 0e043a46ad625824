"""Packed data as a data set: ``shards:FOLDER`` or ``shards:URL``, written by ``nasseg data pack``.

A sample is found by number, as in a folder; a row group is read whole and the groups used last stay in memory. Training's order keeps to
that: each pass permutes the row groups, takes them in windows of ``?buffer=`` images, and shuffles the rows within a window. Like any
order it is a function of (seed, pass), so ranks, workers and resumes change nothing. Every row is checked against its checksum.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from nasseg.data.dataset import ORDER_STREAM, DataSet, Order, Sample, Split
from nasseg.data.images import UInt8, read_image, read_mask
from nasseg.data.manifest import CURE, INDEX, INDEX_SCHEMA, ROW_SCHEMA, Manifest, ShardFile, Shelf, content_fingerprint, row_checksum
from nasseg.data.spec import DataSpec, whole_number
from nasseg.errors import DataError
from nasseg.files import digest

BUFFER = 256
"""Images of a window where ``?buffer=`` does not say. A process keeps as many encoded images in memory."""
MOST_BUFFER = 1_000_000

_COLUMNS = ["id", "image", "mask"]
_TORN = (pa.ArrowException, OSError, ValueError, KeyError, IndexError)


class State(NamedTuple):
    """Size and time of a stored image; a row has no time of its own."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An image file's content out of a row, with the words that name it in messages."""

    where: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.where

    def stat(self) -> State:
        """Its size."""
        return State(len(self.content), 0)

    def read_bytes(self) -> bytes:
        """Its content."""
        return self.content


class Rows:
    """All rows of one packed split, by number: where each lies, and the row groups read last. Can be pickled; holds no open file."""

    def __init__(
        self, shelf: Shelf, name: str, files: Sequence[ShardFile], ids: Sequence[str], checksums: Sequence[bytes], most: int
    ) -> None:
        self.shelf = shelf
        self.name = name
        self.files = tuple(files)
        self.ids = tuple(ids)
        self.checksums = np.frombuffer(b"".join(checksums), dtype=np.uint8).reshape(-1, 32)
        sizes = [rows for file in self.files for rows in file.row_groups]
        self.starts: Order = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.places = [(number, group) for number, file in enumerate(self.files) for group in range(len(file.row_groups))]
        self.most = most + max(sizes, default=0)  # one window, and the group that the next begins with
        self._fresh()

    def _fresh(self) -> None:
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._footers: dict[int, pq.FileMetaData] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_groups", "_footers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def group_of(self, rows: Order) -> Order:
        """The row group, counted over all files, of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def row(self, number: int) -> tuple[Stored, Stored]:
        """Image and mask of a row, checked. Raises DataError naming file, row, id and what is wrong."""
        group = int(self.group_of(np.asarray([number]))[0])
        place, group_in_file = self.places[group]
        file = self.files[place]
        row_in_file = number - int(self.starts[group - group_in_file])
        where = f"{self.shelf.at(file.name)}: row {row_in_file} (id {self.ids[number]})"
        try:
            table = self._group(group)
            offset = number - int(self.starts[group])
            id_, image, mask = (table.column(name)[offset].as_py() for name in _COLUMNS)
        except _TORN as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{where}: row group {group_in_file} cannot be read, the file is torn or altered ({reason}); {CURE}") from error
        if id_ != self.ids[number]:
            raise DataError(f"{where}: the row holds id {id_!r}, the index says otherwise; the file was altered or exchanged: {CURE}")
        if row_checksum(id_, image, mask) != self.checksums[number].tobytes():
            raise DataError(f"{where}: image and mask do not give the checksum (sha256) of the index, the row was altered; {CURE}")
        return Stored(f"{where}: image", image), Stored(f"{where}: mask", mask)

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            table = self._groups.get(group)
            if table is not None:
                self._groups.move_to_end(group)
                return table
        table = self._read(group)
        with self._lock:
            self._groups[group] = table
            held = sum(len(kept) for kept in self._groups.values())
            while held > self.most and len(self._groups) > 1:
                held -= len(self._groups.popitem(last=False)[1])
        return table

    def _read(self, group: int) -> pa.Table:
        place, group_in_file = self.places[group]
        file = self.files[place]
        with self.shelf.open(file.name) as opened:
            footer = self._footers.get(place)
            if footer is None:
                size = opened.seek(0, 2)
                if size != file.bytes:
                    raise OSError(f"it has {size} bytes, the manifest says {file.bytes}")
                opened.seek(0)
            with pq.ParquetFile(opened, metadata=footer, pre_buffer=True) as reader:
                if footer is None:
                    if not reader.schema_arrow.equals(ROW_SCHEMA):
                        raise ValueError(f"its columns are {', '.join(reader.schema_arrow.names)}, not those of packed data")
                    self._footers[place] = reader.metadata
                table = reader.read_row_group(group_in_file, columns=_COLUMNS, use_threads=False)
        if len(table) != file.row_groups[group_in_file]:
            raise ValueError(f"it has {len(table)} rows, the manifest says {file.row_groups[group_in_file]}")
        return table


class ShardSplit(Split):
    """Rows of a packed split, perhaps not all of them; ``buffer`` is the shuffle window in images."""

    def __init__(self, name: str, source: Rows, rows: Order, num_classes: int, buffer: int, fingerprint: str) -> None:
        self.name = name
        self.source = source
        self.rows = rows
        self.ids = tuple(source.ids[row] for row in rows)
        self.num_classes = num_classes
        self.buffer = buffer
        self.fingerprint = fingerprint

    @property
    @override
    def key(self) -> str:
        return digest(["shards", self.fingerprint, self.source.name, self.rows.tolist(), self.buffer], 32)

    @override
    def read(self, index: int) -> Sample:
        image, mask = self.source.row(int(self.rows[index]))
        return Sample(read_image(image), read_mask(mask, self.num_classes))

    @override
    def mask(self, index: int) -> UInt8:
        return read_mask(self.source.row(int(self.rows[index]))[1], self.num_classes)

    @override
    def encoded(self, index: int) -> bytes:
        return self.source.row(int(self.rows[index]))[0].content

    @override
    def subset(self, indices: Sequence[int], name: str) -> ShardSplit:
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return ShardSplit(name, self.source, rows, self.num_classes, self.buffer, self.fingerprint)

    def order(self, seed: int, number: int) -> Order:
        """Row groups permuted; window w takes those whose first row comes at w·buffer … (w+1)·buffer − 1; rows shuffled within windows."""
        rng = np.random.default_rng([seed, ORDER_STREAM, number])
        _, group_of_row, sizes = np.unique(self.source.group_of(self.rows), return_inverse=True, return_counts=True)
        turn = rng.permutation(len(sizes))
        window = np.empty(len(sizes), dtype=np.int64)
        window[turn] = (np.cumsum(sizes[turn]) - sizes[turn]) // self.buffer
        return np.lexsort((rng.random(len(self)), window[group_of_row]))

    def spread(self, most: int) -> Sequence[int]:
        """Rows of whole groups that lie evenly over the split: a group is read at once, so its rows come cheap."""
        groups, group_of_row, sizes = np.unique(self.source.group_of(self.rows), return_inverse=True, return_counts=True)
        wanted = max(1, most // int(sizes.max()))
        chosen = np.linspace(0, len(groups) - 1, min(wanted, len(groups))).astype(np.int64)
        return [int(index) for index in np.flatnonzero(np.isin(group_of_row, chosen))[:most]]


HoldOut = Callable[[Split, DataSpec], Mapping[str, Split]]
"""``hold_out(train, spec)``: train without the samples of ``?holdout=``, and these."""


def open_shards(spec: DataSpec, hold_out: HoldOut) -> DataSet:
    """``shards:FOLDER_OR_URL[?buffer=256&holdout=…]``. Manifest and index are read and checked, no shard yet. Raises DataError."""
    buffer = whole_number(spec.query.get("buffer", str(BUFFER)), "buffer", str(spec), 1, MOST_BUFFER)
    shelf = Shelf(spec.place)
    manifest = shelf.manifest()
    splits: dict[str, Split] = {}
    for name, (ids, checksums) in read_index(shelf, manifest).items():
        source = Rows(shelf, name, manifest.splits[name], ids, checksums, buffer)
        splits[name] = ShardSplit(name, source, np.arange(len(ids)), len(manifest.classes), buffer, manifest.fingerprint)
    fingerprint = manifest.fingerprint
    if "holdout" in spec.query:
        splits.update(hold_out(splits["train"], spec))
        fingerprint = digest({"packed": fingerprint, "splits": {name: split.ids for name, split in splits.items()}})
    return DataSet(
        name=manifest.name,
        spec=str(spec),
        classes=manifest.classes,
        palette=manifest.palette,
        splits=splits,
        fingerprint=fingerprint,
        classes_from="manifest.json",
        original_labels=manifest.original_labels,
    )


def read_index(shelf: Shelf, manifest: Manifest) -> Mapping[str, tuple[list[str], list[bytes]]]:
    """Ids and checksums of every split, checked against the manifest. Raises DataError."""
    where = shelf.at(INDEX)
    content = shelf.read(INDEX)
    if hashlib.sha256(content).hexdigest() != manifest.index.sha256:
        raise DataError(f"{where}: does not give the checksum (sha256) of the manifest, it was torn or altered; {CURE}")
    table = pq.read_table(pa.BufferReader(content), schema=INDEX_SCHEMA)
    names = np.asarray(table.column("split").to_pylist(), dtype=object)
    ids, checksums = table.column("id").to_pylist(), table.column("sha256").to_pylist()
    out: dict[str, tuple[list[str], list[bytes]]] = {}
    for name, files in manifest.splits.items():
        rows = np.flatnonzero(names == name).tolist()
        if len(rows) != sum(file.rows for file in files):
            raise DataError(f"{where}: lists {len(rows)} rows of {name}, the manifest {sum(file.rows for file in files)}; {CURE}")
        out[name] = [ids[row] for row in rows], [checksums[row] for row in rows]
    fingerprint = content_fingerprint(manifest.classes, {name: list(zip(*pair, strict=True)) for name, pair in out.items()})
    if fingerprint != manifest.fingerprint:
        raise DataError(f"{where}: its rows give fingerprint {fingerprint}, the manifest says {manifest.fingerprint}; {CURE}")
    return out
