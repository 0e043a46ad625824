"""Packing: whole or not at all, the same twice, checked by ``nasseg data check``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from kits_data import image, mask, save, write_tree
from kits_layouts import ade20k, cityscapes, coco_stuff, labels, voc

from nasseg.cli.main import main
from nasseg.data.dataset import FileSplit
from nasseg.data.layouts import open_data
from nasseg.data.manifest import row_checksum
from nasseg.data.pack import pack
from nasseg.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "set")


def test_twice_the_same(root: Path, tmp_path: Path) -> None:
    data = open_data(str(root))
    first, second = pack(data, tmp_path / "a")[0], pack(data, tmp_path / "b")[0]
    assert first == second
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "manifest.json",
        "index.parquet",
        "train-00000.parquet",
        "val-00000.parquet",
    }


def test_fingerprint_follows_the_content_not_the_sizes(root: Path, tmp_path: Path) -> None:
    first = pack(open_data(str(root)), tmp_path / "a")[0].fingerprint
    assert pack(open_data(str(root)), tmp_path / "b", rows_per_group=1)[0].fingerprint == first
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "set")
    assert pack(open_data(str(moved)), tmp_path / "c")[0].fingerprint == first
    save(root / "train/masks/a_1.png", mask(77))
    assert pack(open_data(str(root)), tmp_path / "d")[0].fingerprint != first
    save(root / "train/masks/a_1.png", mask(0))
    assert pack(open_data(f"{root}?classes=4"), tmp_path / "e")[0].fingerprint != first


def test_rows_hold_files_and_their_checksums(root: Path, tmp_path: Path) -> None:
    pack(open_data(str(root)), tmp_path / "out", rows_per_group=3)
    file = pq.ParquetFile(tmp_path / "out" / "train-00000.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(2)] == [3, 1]
    row = file.read().to_pylist()[3]
    assert (row["id"], row["split"], row["height"], row["width"]) == ("city/c_1", "train", 6, 8)
    assert row["image"] == (root / "train/images/city/c_1.png").read_bytes()
    assert row["sha256"] == row_checksum("city/c_1", row["image"], row["mask"])
    assert file.schema_arrow.metadata[b"split"] == b"train"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["files"][0]["row_groups"] == [3, 1]
    assert manifest["splits"]["val"]["rows"] == 2
    assert manifest["classes"][1]["name"] == "class_1"
    assert str(root) not in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("kind", "make", "numbers"),
    [
        ("ade20k", ade20k, (0, 1, 77, 150)),
        ("cityscapes", cityscapes, (0, 7, 8, 33)),
        ("coco-stuff", coco_stuff, (0, 1, 181, 255)),
        ("voc", voc, (0, 1, 20, 255)),
    ],
)
def test_public_sets_packed(tmp_path: Path, kind: str, make, numbers: tuple[int, ...]) -> None:
    before = open_data(f"{kind}:{make(tmp_path / 'set', labels(*numbers))}")
    pack(before, tmp_path / "out")
    after = open_data(f"shards:{tmp_path}/out")
    assert (after.classes, after.palette, after.original_labels) == (before.classes, before.palette, before.original_labels)
    assert list(after.splits) == list(before.splits)
    for name, split in before.splits.items():
        assert after.splits[name].ids == split.ids
        for a, b in zip(split, after.splits[name], strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.mask, b.mask)


def test_checksum_of_a_row() -> None:
    # SHA-256 over length and content of each part, so that no byte can move from one into the next.
    assert row_checksum("a", b"bc", b"").hex() == "4bba87d4404fb83649a19d4ee7df22a3405c514ad8d0638797e4988e0b7cd541"
    assert row_checksum("a", b"b", b"c") != row_checksum("a", b"bc", b"")


def test_files_close_at_their_size(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set", splits={"train": tuple("abcde"), "val": ("v",)})
    for name in "abcde":
        save(root / f"train/images/{name}.png", image(1, (600, 700)))
        save(root / f"train/masks/{name}.png", mask(1, (600, 700)))
    manifest, _ = pack(open_data(str(root)), tmp_path / "out", rows_per_group=1, shard_mib=2)
    assert [(file.name, file.row_groups) for file in manifest.splits["train"]] == [
        ("train-00000.parquet", (1, 1)),
        ("train-00001.parquet", (1, 1)),
        ("train-00002.parquet", (1,)),
    ]
    assert open_data(f"shards:{tmp_path}/out").splits["train"].ids == tuple("abcde")
    for index in range(5):
        assert open_data(f"shards:{tmp_path}/out").splits["train"][index].mask.shape == (600, 700)


def test_again_into_the_same_folder(root: Path, tmp_path: Path) -> None:
    data, out = open_data(str(root)), tmp_path / "new" / "out"
    out.mkdir(parents=True)
    manifest, written = pack(data, out)
    assert written
    stamp = (out / "train-00000.parquet").stat().st_mtime_ns
    assert pack(data, out) == (manifest, False)
    assert (out / "train-00000.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match=r"out: holds other packed data \(set\), or in other sizes; give a new folder"):
        pack(data, out, rows_per_group=2)
    with pytest.raises(DataError, match="holds other packed data"):
        pack(open_data(f"{root}?classes=4"), out)
    (out / "val-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"val-00000\.parquet: is missing or torn; delete the folder .*/out and pack again"):
        pack(data, out)


def test_folders_of_something_else(root: Path, tmp_path: Path) -> None:
    data = open_data(str(root))
    with pytest.raises(DataError, match=rf"{root}: is not empty \(it holds train, val\); give a new folder"):
        pack(data, root)
    with pytest.raises(DataError, match=r"a_1\.png: is a file; give a new folder"):
        pack(data, root / "train/images/a_1.png")
    with pytest.raises(DataError, match="cannot be written"):
        pack(data, root / "train/images/a_1.png/out")
    assert {path.name for path in root.iterdir()} == {"train", "val"}


def test_nothing_is_left_of_what_failed(root: Path, tmp_path: Path) -> None:
    save(root / "val/masks/v_2.png", np.zeros((3, 3), np.uint8))
    out = tmp_path / "home" / "out"
    with pytest.raises(DataError, match=r"v_2\.png: image is 6x8 .* its mask .* 3x3"):
        pack(open_data(str(root)), out)
    assert list((tmp_path / "home").iterdir()) == []


def test_an_image_that_changes_meanwhile(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (root / "train/images/a_2.png").read_bytes()
    monkeypatch.setattr(FileSplit, "encoded", lambda self, index: other)
    with pytest.raises(DataError, match="train/a_1: the image changed while it was packed"):
        pack(open_data(str(root)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_out_of_range(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        pack(open_data(str(root)), tmp_path / "out", rows_per_group=0, shard_mib=0)
    assert "pack: rows_per_group: a whole number from 1 to 4096 (given 0); nearest legal: 1" in str(caught.value)
    assert "pack: shard_size: a whole number from 1 to 1048576 (given 0)" in str(caught.value)


def run(*arguments: str):
    return CliRunner().invoke(main, ["data", *arguments])


def test_command(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("pack", "--data", str(root), "--out", str(out), "--rows-per-group", "3")
    assert first.exit_code == 0, first.output
    assert "train: 4 images in 2 row groups, 1 file, 0.0 MiB\n" in first.output
    fingerprint = open_data(f"shards:{out}").fingerprint
    assert f"\n--data shards:{out}  (fingerprint {fingerprint})\n" in first.output
    again = run("pack", "--data", str(root), "--out", str(out), "--rows-per-group", "3")
    assert f"was already packed: --data shards:{out}" in again.output


def test_check_of_whole_data(root: Path, tmp_path: Path) -> None:
    pack(open_data(str(root)), tmp_path / "out")
    result = run("check", f"shards:{tmp_path}/out", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["findings"] == []
    assert said["splits"]["train"]["read"] == 4
    folder = json.loads(run("check", str(root), "--json").output)
    assert said["splits"] == folder["splits"]


def test_check_names_every_spoilt_row(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(open_data(str(root)), out, rows_per_group=2)
    train = open_data(f"shards:{out}").splits["train"]
    file = out / "train-00000.parquet"
    data = bytearray(file.read_bytes())
    for index in (1, 2):
        data[data.index(train.encoded(index)) + 50] ^= 4
    file.write_bytes(bytes(data))
    (out / "val-00000.parquet").write_bytes((out / "val-00000.parquet").read_bytes()[:-1])
    result = run("check", f"shards:{out}", "--json")
    assert result.exit_code != 0
    said = json.loads(result.output[: result.output.rindex("}") + 1])
    found = {(finding["split"], finding["kind"]): finding for finding in said["findings"] if finding["level"] == "error"}
    assert set(found) == {("train", "altered shard"), ("val", "torn shard"), ("train", "unreadable row"), ("val", "unreadable row")}
    assert found["train", "unreadable row"]["count"] == 2
    assert "row 1 (id a_2): image and mask do not give the checksum" in found["train", "unreadable row"]["text"]
    assert "row 2 (id b_1): image and mask do not give the checksum" in found["train", "unreadable row"]["text"]
    assert (
        f"{file}: does not give the checksum (sha256) of the manifest, it was altered; it holds rows 0 to 3 of train"
        in (found["train", "altered shard"]["text"])
    )
    assert "the file is torn; it holds rows 0 to 1 of val" in found["val", "torn shard"]["text"]
    assert said["splits"]["train"]["read"] == 2
