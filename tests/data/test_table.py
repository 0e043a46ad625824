"""CSV and Parquet tables of paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kits_data import image, mask, save

from nasseg.data.layouts import open_data
from nasseg.errors import DataError

ROWS = (("a/1.jpg", "m/1.png", "train"), ("a/2.jpg", "m/2.png", "train"), ("a/3.jpg", "m/3.png", "Validation"), ("a/4.jpg", "", "test"))


def tree(root: Path, rows: tuple[tuple[str, str, str], ...] = ROWS, head: str = "image,mask,split") -> Path:
    for number, (path, target, _) in enumerate(ROWS):
        save(root / path, image(number))
        if target:
            save(root / target, mask(number))
    file = root / "set.csv"
    file.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return file


def test_csv_and_parquet(tmp_path: Path) -> None:
    file = tree(tmp_path)
    data = open_data(str(file))
    assert data.spec == f"csv:{file}"
    assert {name: split.ids for name, split in data.splits.items()} == {"train": ("a/1", "a/2"), "val": ("a/3",)}
    np.testing.assert_array_equal(data.splits["val"][0].mask, mask(2))
    columns = dict(zip(("image", "mask", "split"), zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "set.parquet")
    other = open_data(f"csv:{tmp_path}/set.parquet")
    assert other.fingerprint == data.fingerprint
    assert open_data(f"{file}?holdout=2").splits["holdout"].ids == ("a/2",)


def test_other_columns_and_classes(tmp_path: Path) -> None:
    file = tree(tmp_path, head="photo,label,part")
    (tmp_path / "classes.json").write_text('["x", "y", "z"]')
    assert open_data(f"{file}?image=photo&mask=label&split=part").classes == ("x", "y", "z")
    with pytest.raises(DataError, match=r"no column image, mask, split; it has photo, label, part; \?image=…&mask=…&split=… say"):
        open_data(str(file))


def test_refused(tmp_path: Path) -> None:
    file = tree(tmp_path, (*ROWS, ("a/9.jpg", "m/1.png", "train")))
    with pytest.raises(DataError, match=r"set\.csv: names a/9\.jpg, but there is no such image in"):
        open_data(str(file))
    tree(tmp_path, (*ROWS, ("a/4.jpg", "m/9.png", "train")))
    with pytest.raises(DataError, match=r"set\.csv: no mask for a/4; its row names none, or a file that is not there"):
        open_data(str(file))
    tree(tmp_path, (*ROWS, ("a/1.jpg", "m/1.png", "train")))
    with pytest.raises(DataError, match=r"a/1 stands for more than one image"):
        open_data(str(file))
    tree(tmp_path, (*ROWS, ("a/1.jpg", "m/1.png", "vol")))
    with pytest.raises(DataError, match=r"split 'vol' in column split; a row is of train, val or test"):
        open_data(str(file))
    tree(tmp_path, ROWS[:2])
    with pytest.raises(DataError, match=r"set\.csv: val: the split is missing; a data set has train and val"):
        open_data(str(file))
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"set\.csv: cannot be read as a table"):
        open_data(str(file))
    with pytest.raises(DataError, match=r"gone\.csv: no such file; give a \.csv or \.parquet"):
        open_data(f"{tmp_path}/gone.csv")
