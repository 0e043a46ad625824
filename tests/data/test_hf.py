"""Hugging Face datasets on disk, without their package."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kits_data import image, mask, save
from kits_layouts import arrow_split
from PIL import Image

from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data
from nasseg.errors import DataError


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int, mask_name: str = "annotation", path: bool = True) -> dict[str, dict[str, object]]:
    name = f"i{number}.jpg" if path else None
    return {"image": {"bytes": png(image(number)), "path": name}, mask_name: {"bytes": png(mask(number)), "path": None}}


def tree(root: Path, mask_name: str = "annotation", files: int = 2, path: bool = True) -> Path:
    arrow_split(root / "train", [row(number, mask_name, path) for number in range(5)], files)
    arrow_split(root / "validation", [row(number, mask_name, path) for number in (8, 9)])
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    return root


def test_samples(tmp_path: Path) -> None:
    data = open_data(str(tree(tmp_path)))
    assert data.spec == f"hf:{tmp_path}"
    assert {name: split.ids for name, split in data.splits.items()} == {"train": ("i0", "i1", "i2", "i3", "i4"), "val": ("i8", "i9")}
    for number in range(5):
        got = data.splits["train"][number]
        np.testing.assert_array_equal(got.image, image(number))
        np.testing.assert_array_equal(got.mask, mask(number))
    assert data.num_classes == 3
    again = pickle.loads(pickle.dumps(data.splits["val"]))
    np.testing.assert_array_equal(again[1].image, image(9))
    assert open_data(data.spec).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["mask", "label", "semantic_segmentation"])
def test_columns_by_name(tmp_path: Path, name: str) -> None:
    data = open_data(f"hf:{tree(tmp_path, name, path=False)}")
    assert data.splits["train"].ids == tuple(f"{number:06}" for number in range(5))
    np.testing.assert_array_equal(data.splits["train"][1].mask, mask(2))  # dealt over two files


def test_named_columns_relabelling_holdout(tmp_path: Path) -> None:
    root = tree(tmp_path, "truth")
    with pytest.raises(DataError, match=r"no column of images named annotation, mask, .*; columns of images are image, truth; set \?mask="):
        open_data(str(root))
    data = open_data(f"hf:{root}?mask=truth&relabel=reduce_zero&holdout=i3&classes=2")
    assert data.splits["holdout"].ids == ("i3",)
    assert set(np.unique(data.splits["val"][0].mask)) == {0, 1, 255}


def test_binary_columns_and_paths(tmp_path: Path) -> None:
    rows = [{"image": png(image(number)), "mask": png(mask(number))} for number in range(2)]
    arrow_split(tmp_path / "train", rows, image=pa.binary(), mask=pa.large_binary())
    save(tmp_path / "val/x.png", image(5))
    struct = [{"image": {"bytes": None, "path": "x.png"}, "mask": {"bytes": png(mask(5)), "path": "y.png"}}]
    (tmp_path / "val/x.png").rename(tmp_path / "x.png")
    (tmp_path / "val").rmdir()
    arrow_split(tmp_path / "val", struct)
    (tmp_path / "x.png").rename(tmp_path / "val/x.png")
    data = open_data(f"hf:{tmp_path}")
    np.testing.assert_array_equal(data.splits["train"][1].image, image(1))
    np.testing.assert_array_equal(data.splits["val"][0].image, image(5))


def test_file_format(tmp_path: Path) -> None:
    root = tree(tmp_path, files=1)
    path = root / "train/data-00000-of-00001.arrow"
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        copy = pa.Table.from_pylist(table.to_pylist(), schema=table.schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, copy.schema) as writer:
        writer.write_table(copy)
    assert len(open_data(str(root)).splits["train"]) == 5


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "a")
    rows = [row(0), {"image": {"bytes": b"no image", "path": "b.jpg"}, "annotation": {"bytes": png(mask(1)), "path": None}}]
    arrow_split(tmp_path / "b/train", rows)
    (root / "train").rename(tmp_path / "old")
    (tmp_path / "b/train").rename(root / "train")
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow \(row 1, column image\): not an image Pillow can read"):
        open_data(f"hf:{root}").splits["train"][0]
    (finding,) = examine(f"hf:{root}").errors
    assert (finding.kind, finding.files) == ("unreadable image", ("b",))


def test_empty_mask(tmp_path: Path) -> None:
    arrow_split(tmp_path / "train", [row(0), {**row(1), "annotation": None}])
    arrow_split(tmp_path / "validation", [row(2)])
    with pytest.raises(DataError, match="no mask for i1; its cell is empty"):
        open_data(f"hf:{tmp_path}")


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set that datasets' save_to_disk wrote; looked for a save_to_disk folder"):
        open_data(f"hf:{tmp_path}")
    root = tree(tmp_path / "a")
    arrow = root / "train/data-00001-of-00002.arrow"
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: cannot be read as Arrow"):
        open_data(f"hf:{root}")
    arrow.unlink()
    with pytest.raises(DataError, match=r"state\.json names data-00001-of-00002\.arrow, which is not there"):
        open_data(f"hf:{root}")
    (root / "train/state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json: does not list the data files"):
        open_data(f"hf:{root}")
    (root / "train/state.json").write_text(json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "x"}]}))
    with pytest.raises(DataError, match=r"rows are chosen by an index file; write it again with flatten_indices"):
        open_data(f"hf:{root}")
    arrow_split(root / "val", [row(0)])
    (root / "train/state.json").unlink()
    with pytest.raises(DataError, match=r"val and validation both stand for the split val; keep one of them"):
        open_data(f"hf:{root}")
