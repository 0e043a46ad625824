"""A table of paths, CSV or Parquet: one row an image, its mask and its split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from typing_extensions import override

from nasseg.data.folders import SPLITS
from nasseg.data.images import Source
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Layout, SplitFiles, Tree, listed, stem
from nasseg.errors import DataError


class PathTable(Layout):
    """Columns ``image``, ``mask`` and ``split`` (``?image=…&mask=…&split=…`` name others); paths are relative to the table's folder.

    Classes come from a ``classes.json`` beside the table, ``?classes=`` or the masks.
    """

    kind: ClassVar[str] = "csv"
    name = "table of paths"
    shape = "a .csv or .parquet file with the columns image, mask and split (train, val, test)"

    def fits(self, root: Path) -> bool:
        """A file, known by its suffix."""
        return False

    @override
    def read(self, spec: DataSpec) -> Tree:
        file = Path(spec.place)
        if not file.is_file():
            raise DataError(f"{file}: no such file; give a .csv or .parquet with the columns image, mask and split")
        columns = [spec.query.get(key, key) for key in ("image", "mask", "split")]
        rows = _rows(file, columns)
        known = {other: name for name, others in SPLITS.items() for other in others}
        strange = sorted({split for _, _, split in rows if split.lower() not in known})
        if strange:
            raise DataError(f"{file}: split {listed(map(repr, strange))} in column {columns[2]}; a row is of train, val or test")
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
        for image, mask, split in rows:
            found[known[split.lower()]].append((image, mask))
        splits = {name: _files(name, pairs, file) for name, pairs in found.items() if pairs}
        return Tree(file.parent, self, splits, lambda split: f"{file}: {split}")


def _rows(file: Path, columns: list[str]) -> list[tuple[str, str, str]]:
    try:
        if file.suffix.lower() == ".parquet":
            table = pa.parquet.read_table(file)
        else:
            options = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
            table = pa.csv.read_csv(file, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table ({str(error).splitlines()[0]})") from error
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise DataError(
            f"{file}: no column {listed(absent)}; it has {listed(table.column_names, 8)}; ?image=…&mask=…&split=… say which are meant"
        )
    values = [["" if value is None else str(value).strip() for value in table[name].to_pylist()] for name in columns]
    return list(zip(*values, strict=True))


def _files(name: str, pairs: list[tuple[str, str]], file: Path) -> SplitFiles:
    images: dict[str, Source] = {}
    masks: dict[str, Source] = {}
    twins, absent = [], []
    for image, mask in pairs:
        id_ = stem(image.lstrip("/"))
        if id_ in images:
            twins.append(id_)
        path = file.parent / image
        if not image or not path.is_file():
            absent.append(image or "an empty cell")
            continue
        images[id_] = path
        if mask and (file.parent / mask).is_file():
            masks[id_] = file.parent / mask
    return SplitFiles(
        name,
        file.parent,
        file,
        images,
        masks,
        tuple(sorted(set(twins))),
        absent=tuple(absent),
        origin=str(file),
        mask_rule="its row names none, or a file that is not there",
    )
