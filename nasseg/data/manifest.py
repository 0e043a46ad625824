"""The form of packed data: what ``manifest.json``, ``index.parquet`` and the shards of a folder hold, and how each is checked.

::

    manifest.json         classes, colours, fingerprint; of each file its rows, bytes, SHA-256 and row groups; a checksum of itself
    index.parquet         of every row, split by split: split, id, height, width, sha256
    train-00000.parquet   rows in the order of the index: id, split, height, width, image (a file's bytes), mask (PNG), sha256

A row's ``sha256`` is taken over its id, its image and its mask. The index repeats it, the manifest holds the index's own, so a row that
was altered, torn or moved does not agree with the index, and an altered index does not agree with the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import fsspec
import pyarrow as pa

from nasseg.data.palette import Palette
from nasseg.data.spec import PACKED_FILES
from nasseg.errors import DataError
from nasseg.files import digest

FORMAT = "nasseg-shards"
VERSION = 1
MANIFEST, INDEX = PACKED_FILES

_CHECKSUM = pa.binary(32)
INDEX_SCHEMA = pa.schema(
    [("split", pa.string()), ("id", pa.string()), ("height", pa.int32()), ("width", pa.int32()), ("sha256", _CHECKSUM)]
)
ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.binary()),
        ("mask", pa.binary()),
        ("sha256", _CHECKSUM),
    ]
)

CURE = "pack the data again, or fetch the file again"


def row_checksum(id_: str, image: bytes, mask: bytes) -> bytes:
    """SHA-256 over the three, each led by its length."""
    running = hashlib.sha256()
    for part in (id_.encode(), image, mask):
        running.update(len(part).to_bytes(8, "little"))
        running.update(part)
    return running.digest()


def content_fingerprint(classes: Sequence[str], rows: Mapping[str, Sequence[tuple[str, bytes]]]) -> str:
    """12 hex digits that follow class names and, of each split's rows, (id, checksum)."""
    return digest({"classes": list(classes), "splits": {name: [[id_, sha.hex()] for id_, sha in rows[name]] for name in rows}})


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file: rows of each of its row groups, and what it must look like."""

    name: str
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of all its groups."""
        return sum(self.row_groups)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {"file": self.name, "rows": self.rows, "bytes": self.bytes, "sha256": self.sha256, "row_groups": list(self.row_groups)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """KeyError, TypeError or ValueError for anything else than :meth:`to_dict` gives."""
        found = cls(str(raw["file"]), int(raw["bytes"]), str(raw["sha256"]), tuple(int(rows) for rows in raw["row_groups"]))
        if found.rows != raw["rows"] or "/" in found.name or min(found.row_groups, default=1) < 1:
            raise ValueError(found.name)
        return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` says. ``source`` names the data that was packed, ``writing`` the sizes that were asked for.

    ``original_labels`` as in :class:`nasseg.data.dataset.DataSet`: the packed masks hold class numbers.
    """

    name: str
    classes: tuple[str, ...]
    palette: Palette
    fingerprint: str
    source: Mapping[str, str]
    writing: Mapping[str, int]
    splits: Mapping[str, tuple[ShardFile, ...]]
    index: ShardFile
    original_labels: tuple[int, ...] | None = None

    def to_text(self) -> str:
        """JSON; its last field is the checksum of the others."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "classes": [
                {"id": number, "name": name, "colour": list(colour)}
                for number, (name, colour) in enumerate(zip(self.classes, self.palette, strict=True))
            ],
            "ignore_index": 255,
            "original_labels": None if self.original_labels is None else list(self.original_labels),
            "fingerprint": self.fingerprint,
            "source": dict(self.source),
            "writing": dict(self.writing),
            "columns": {field.name: str(field.type) for field in ROW_SCHEMA},
            "splits": {
                name: {"rows": sum(file.rows for file in files), "files": [file.to_dict() for file in files]}
                for name, files in self.splits.items()
            },
            "index": self.index.to_dict(),
        }
        return json.dumps({**body, "checksum": digest(body, 64)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: bytes, where: str) -> Self:
        """DataError for what is no manifest, one of another version, or an altered one."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: not readable as JSON, the file is torn; {CURE}") from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise DataError(f"{where}: is no manifest of packed data (format {FORMAT}); nasseg data pack writes one")
        if raw.get("version") != VERSION:
            raise DataError(f"{where}: format version {raw.get('version')!r}, this nasseg reads version {VERSION}; pack the data again")
        try:
            if digest({key: value for key, value in raw.items() if key != "checksum"}, 64) != raw["checksum"]:
                raise ValueError("checksum")
            return cls(
                name=raw["name"],
                classes=tuple(entry["name"] for entry in raw["classes"]),
                palette=tuple((r, g, b) for r, g, b in (entry["colour"] for entry in raw["classes"])),
                fingerprint=raw["fingerprint"],
                source=raw["source"],
                writing=raw["writing"],
                splits={name: tuple(map(ShardFile.from_dict, entry["files"])) for name, entry in raw["splits"].items()},
                index=ShardFile.from_dict(raw["index"]),
                original_labels=None if raw["original_labels"] is None else tuple(raw["original_labels"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: does not give its own checksum, it was altered after it was written; {CURE}") from error


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of packed data, on local disk or behind any URL that fsspec opens. Every call opens and closes; nothing is kept open."""

    root: str

    def at(self, name: str) -> str:
        """A file's full name, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    def open(self, name: str) -> Any:
        """The file, open for reading bytes. Raises DataError naming it."""
        try:
            # Found anew at each call: fsspec keeps one file system a process, and a child process must not use its parent's.
            system, path = fsspec.core.url_to_fs(self.root)
            return system.open(f"{path.rstrip('/')}/{name}", "rb")
        except FileNotFoundError as error:
            raise DataError(f"{self.at(name)}: no such file") from error
        except (OSError, ValueError, ImportError) as error:
            raise DataError(f"{self.at(name)}: cannot be opened ({_reason(error)})") from error

    def read(self, name: str) -> bytes:
        """The whole file. Raises DataError naming it."""
        with self.open(name) as file:
            try:
                return bytes(file.read())
            except OSError as error:
                raise DataError(f"{self.at(name)}: cannot be read ({_reason(error)})") from error

    def sha256(self, name: str) -> tuple[int, str]:
        """Bytes and SHA-256 of a file, read in pieces."""
        running, size = hashlib.sha256(), 0
        with self.open(name) as file:
            try:
                while piece := file.read(1 << 22):
                    running.update(piece)
                    size += len(piece)
            except OSError as error:
                raise DataError(f"{self.at(name)}: cannot be read ({_reason(error)})") from error
        return size, running.hexdigest()

    def manifest(self) -> Manifest:
        """The folder's manifest. Raises DataError."""
        try:
            text = self.read(MANIFEST)
        except DataError as error:
            hint = "; packed data begin with it: give the folder that nasseg data pack wrote, or its URL"
            raise DataError(f"{error}{hint if isinstance(error.__cause__, FileNotFoundError) else ''}") from error
        return Manifest.from_text(text, self.at(MANIFEST))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
