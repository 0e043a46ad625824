"""A Hugging Face ``datasets`` folder written by ``save_to_disk``: Arrow files with encoded images, read by pyarrow alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from nasseg.data.folders import SPLITS
from nasseg.data.images import Source
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Layout, SplitFiles, Tree, listed, need_folder
from nasseg.errors import DataError

IMAGES = ("image", "img", "pixel_values", "jpg")
MASKS = ("annotation", "mask", "label", "labels", "segmentation", "semantic_segmentation", "segmentation_mask", "png")
"""Columns looked for, in this order."""


class Size(NamedTuple):
    """A cell's state."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One encoded image in an Arrow file. Nothing stays open but a memory map, shared by a process's cells."""

    file: Path
    column: str
    row: int
    size: int

    def stat(self) -> Size:
        """Its bytes, and its file's time."""
        return Size(self.size, self.file.stat().st_mtime_ns)

    def read_bytes(self) -> bytes:
        """The image file the cell holds, or that its path names."""
        value = arrow_table(str(self.file), self.file.stat().st_mtime_ns)[self.column][self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None:
            return bytes(content)
        return _beside(self.file, str(value.get("path"))).read_bytes()

    def __str__(self) -> str:
        return f"{self.file} (row {self.row}, column {self.column})"


@lru_cache(maxsize=256)
def arrow_table(file: str, changed: int) -> Any:
    """The memory-mapped table of an Arrow stream or file. ``changed`` is its time, so that a new file is read anew."""
    try:
        source = pa.memory_map(file)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Arrow ({str(error).splitlines()[0]}); write the data set again") from error


class HuggingFace(Layout):
    """``dataset_dict.json`` with a folder a split (``train``, ``validation``, ``test``), each with ``state.json`` and ``data-*.arrow``.

    The columns are found by name (``image``; ``annotation``, ``mask``, ``label`` …) or named by ``?image=…&mask=…``. Classes come from a
    ``classes.json`` in the folder, ``?classes=`` or the masks.
    """

    kind: ClassVar[str] = "hf"
    name = "Hugging Face datasets"
    shape = "a save_to_disk folder: dataset_dict.json and train, validation with data-*.arrow"

    @override
    def fits(self, root: Path) -> bool:
        return (root / "dataset_dict.json").is_file()

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        splits: dict[str, SplitFiles] = {}
        for name, others in SPLITS.items():
            there = [root / other for other in others if (root / other / "state.json").is_file()]
            if len(there) > 1:
                raise DataError(f"{root}: {' and '.join(path.name for path in there)} both stand for the split {name}; keep one of them")
            if there:
                splits[name] = _split(name, there[0], spec)
        if not splits:
            raise DataError(f"{root}: no data set that datasets' save_to_disk wrote; looked for {self.shape}")
        return Tree(root, self, splits, lambda split: root / split)


def _split(name: str, folder: Path, spec: DataSpec) -> SplitFiles:
    images: dict[str, Source] = {}
    masks: dict[str, Source] = {}
    names: list[str] = []
    rows: list[tuple[Cell, Cell | None]] = []
    for file in _data_files(folder):
        table = arrow_table(str(file), file.stat().st_mtime_ns)
        image = _column(table, spec.query.get("image"), IMAGES, file, "image")
        mask = _column(table, spec.query.get("mask"), MASKS, file, "mask")
        image_sizes, mask_sizes = _sizes(table[image]), _sizes(table[mask])
        names += _names(table[image])
        rows += [
            (Cell(file, image, row, size), None if mask_size is None else Cell(file, mask, row, mask_size))
            for row, (size, mask_size) in enumerate(zip((size or 0 for size in image_sizes), mask_sizes, strict=True))
        ]
    if len(set(names)) < len(names) or not all(names):
        names = [f"{number:06}" for number in range(len(rows))]
    for id_, (cell, mask_cell) in zip(names, rows, strict=True):
        images[id_] = cell
        if mask_cell is not None:
            masks[id_] = mask_cell
    return SplitFiles(name, folder, folder, images, masks, origin=str(folder), mask_rule="its cell is empty")


def _data_files(folder: Path) -> list[Path]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'}: does not list the data files; write the data set again with save_to_disk") from error
    if state.get("_indices_data_files"):
        raise DataError(f"{folder}: rows are chosen by an index file; write it again with flatten_indices().save_to_disk(…)")
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(f"{folder}: state.json names {listed(absent)}, which is not there")
    return files


def _column(table: Any, given: str | None, usual: tuple[str, ...], file: Path, key: str) -> str:
    fitting = [field.name for field in table.schema if _holds_images(field.type)]
    wanted = [given] if given is not None else list(usual)
    found = next((name for name in wanted if name in fitting), None)
    if found is None:
        looked = given if given is not None else ", ".join(usual)
        raise DataError(f"{file}: no column of images named {looked}; columns of images are {listed(fitting, 8) or 'none'}; set ?{key}=…")
    return found


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [kind.field(index).name for index in range(kind.num_fields)]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _sizes(column: Any) -> list[int | None]:
    """Bytes of each cell, 0 where it only names a file, None where it is empty."""
    if not pa.types.is_struct(column.type):
        return list(pc.binary_length(column).to_pylist())
    sizes = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
    paths = _paths(column)
    return [size if size is not None else 0 if path else None for size, path in zip(sizes, paths, strict=True)]


def _paths(column: Any) -> list[str | None]:
    if not pa.types.is_struct(column.type) or "path" not in [field.name for field in column.type]:
        return [None] * len(column)
    return list(pc.struct_field(column, "path").to_pylist())


def _names(column: Any) -> list[str]:
    return [Path(path).stem if path else "" for path in _paths(column)]


def _beside(file: Path, path: str) -> Path:
    return Path(path) if Path(path).is_absolute() else file.parent / path
