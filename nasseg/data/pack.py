"""Writes any data set as Parquet shards that stream: ``pack(data, out)``; :mod:`nasseg.data.manifest` describes the files.

Images keep the bytes they have on disk; masks are written as PNG of class numbers after whatever mapping the data set applies. All is
written into a folder beside ``out`` that takes its name when complete.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nasseg.data.dataset import DataSet, Split
from nasseg.data.images import read_image
from nasseg.data.manifest import (
    FORMAT,
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    ROW_SCHEMA,
    Manifest,
    ShardFile,
    Shelf,
    content_fingerprint,
    row_checksum,
)
from nasseg.data.shards import Stored
from nasseg.errors import ConfigError, DataError, Problem
from nasseg.files import write_atomic

ROWS_PER_GROUP = 16
"""Images of a row group: small enough that a window of 256 images comes from 16 places of the data set."""
SHARD_MIB = 256
MOST_ROWS_PER_GROUP = 4096
MOST_SHARD_MIB = 1 << 20
GROUP_BYTES = 1 << 29
"""A row group closes at this many bytes whatever its rows: a column of one cannot hold more than 2 GiB."""

Progress = Callable[[int, int], None]
"""``progress(done, total)`` in images."""


class Row(NamedTuple):
    """A row of the shards, in the order of their columns."""

    id: str
    split: str
    height: int
    width: int
    image: bytes
    mask: bytes
    sha256: bytes


def pack(
    data: DataSet, out: str | Path, *, rows_per_group: int = ROWS_PER_GROUP, shard_mib: int = SHARD_MIB, progress: Progress | None = None
) -> tuple[Manifest, bool]:
    """Write every split of ``data`` into the folder ``out``; a shard closes once it has ``shard_mib`` MiB.

    Gives the manifest, and whether it was written now: a folder that already holds this data in these sizes is left as it is. Raises
    ConfigError for numbers out of range, DataError for an unreadable sample (nothing is left behind) and for a folder of anything else.
    """
    problems = [
        Problem("pack", name, f"a whole number from 1 to {most}", given, min(max(given, 1), most))
        for name, given, most in (("rows_per_group", rows_per_group, MOST_ROWS_PER_GROUP), ("shard_size", shard_mib, MOST_SHARD_MIB))
        if not 1 <= given <= most
    ]
    if problems:
        raise ConfigError(problems)
    target = Path(out).expanduser().resolve()
    writing = {"rows_per_group": rows_per_group, "shard_mib": shard_mib}
    try:
        there = _already_there(target, data, writing)
        return (there, False) if there else (_write(data, target, writing, progress or _silent), True)
    except OSError as error:
        raise DataError(f"{error.filename or target}: cannot be written ({error.strerror or error})") from error


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


def _already_there(target: Path, data: DataSet, writing: dict[str, int]) -> Manifest | None:
    """The manifest of the same data, None where there is nothing yet; DataError for anything else."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise DataError(f"{target}: is a file; give a new folder")
    held = sorted(entry.name for entry in target.iterdir())
    if not held:
        return None
    if MANIFEST not in held:
        raise DataError(f"{target}: is not empty (it holds {', '.join(held[:3])}{' …' if len(held) > 3 else ''}); give a new folder")
    manifest = Shelf(str(target)).manifest()
    if manifest.source.get("fingerprint") != data.fingerprint or dict(manifest.writing) != writing:
        raise DataError(f"{target}: holds other packed data ({manifest.name}), or in other sizes; give a new folder")
    for file in (manifest.index, *(file for files in manifest.splits.values() for file in files)):
        path = target / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise DataError(f"{path}: is missing or torn; delete the folder {target} and pack again")
    return manifest


def _write(data: DataSet, target: Path, writing: dict[str, int], progress: Progress) -> Manifest:
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        manifest = _write_files(data, folder, writing, progress)
        write_atomic(folder / MANIFEST, manifest.to_text())
        folder.chmod(0o755)
        _sync(folder)
        os.replace(folder, target)
        _sync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        raise
    return manifest


def _write_files(data: DataSet, folder: Path, writing: dict[str, int], progress: Progress) -> Manifest:
    total, done = sum(map(len, data.splits.values())), 0
    files: dict[str, tuple[ShardFile, ...]] = {}
    listed: list[Row] = []
    for name, split in data.splits.items():
        with _ShardWriter(folder, name, data, writing) as writer:
            for row in _rows(name, split):
                writer.add(row)
                listed.append(row._replace(image=b"", mask=b""))
                done += 1
                progress(done, total)
            files[name] = writer.finish()
    index = pa.table({field.name: [getattr(row, field.name) for row in listed] for field in INDEX_SCHEMA}, schema=INDEX_SCHEMA)
    pq.write_table(index, folder / INDEX, compression="zstd", row_group_size=max(len(listed), 1))
    rows = {name: [(row.id, row.sha256) for row in listed if row.split == name] for name in data.splits}
    return Manifest(
        name=data.name,
        classes=data.classes,
        palette=data.palette,
        fingerprint=content_fingerprint(data.classes, rows),
        source={"name": data.name, "fingerprint": data.fingerprint},
        writing=writing,
        splits=files,
        index=_described(folder / INDEX, (len(listed),)),
        original_labels=data.original_labels,
    )


def _rows(name: str, split: Split) -> Iterator[Row]:
    """In the split's order, a few decoded ahead by threads: Pillow decodes outside the interpreter lock."""

    def row(index: int) -> Row:
        id_, sample, image = split.ids[index], split.read(index), split.encoded(index)
        if not np.array_equal(read_image(Stored(f"{name}/{id_}", image)), sample.image):
            raise DataError(f"{name}/{id_}: the image changed while it was packed; pack again when nothing writes to the data")
        buffer = io.BytesIO()
        Image.fromarray(sample.mask).save(buffer, "PNG")
        mask = buffer.getvalue()
        height, width = sample.mask.shape
        return Row(id_, name, height, width, image, mask, row_checksum(id_, image, mask))

    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(split), 4 * threads):
            yield from pool.map(row, range(start, min(start + 4 * threads, len(split))))


class _ShardWriter:
    """Rows of one split into files of about one size."""

    def __init__(self, folder: Path, split: str, data: DataSet, writing: dict[str, int]) -> None:
        self.folder = folder
        self.split = split
        self.most_rows = writing["rows_per_group"]
        self.most_bytes = writing["shard_mib"] << 20
        self.schema = ROW_SCHEMA.with_metadata({"format": FORMAT, "split": split, "classes": "\n".join(data.classes)})
        self.rows: list[Row] = []
        self.files: list[ShardFile] = []
        self.groups: list[int] = []
        self.bytes = self.group_bytes = 0
        self.writer: pq.ParquetWriter | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.files):05d}.parquet"

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of a file that was left half written."""
        if self.writer is not None:
            self.writer.close()

    def add(self, row: Row) -> None:
        """Take a row; write when a group is full."""
        self.rows.append(row)
        self.group_bytes += len(row.image) + len(row.mask)
        if len(self.rows) == self.most_rows or self.group_bytes >= GROUP_BYTES:
            self._flush()
            if self.bytes >= self.most_bytes:
                self._next_file()

    def finish(self) -> tuple[ShardFile, ...]:
        """Write what is left; all files of the split."""
        if self.rows:
            self._flush()
        if self.groups:
            self._next_file()
        return tuple(self.files)

    def _flush(self) -> None:
        if self.writer is None:
            # Encoded images do not compress; statistics and dictionaries of them are dead weight.
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="none", use_dictionary=False, write_statistics=False)
        columns = {field.name: [getattr(row, field.name) for row in self.rows] for field in ROW_SCHEMA}
        self.writer.write_table(pa.table(columns, schema=self.schema), row_group_size=len(self.rows))
        self.bytes += self.group_bytes
        self.groups.append(len(self.rows))
        self.rows, self.group_bytes = [], 0

    def _next_file(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.files.append(_described(self.path, tuple(self.groups)))
        self.writer, self.groups, self.bytes = None, [], 0


def _described(path: Path, row_groups: Sequence[int]) -> ShardFile:
    """A written file, brought to disk."""
    _sync(path)
    size, sha256 = Shelf(str(path.parent)).sha256(path.name)
    return ShardFile(path.name, size, sha256, tuple(row_groups))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
