"""nasseg data info."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kits_data import write_tree
from kits_layouts import ade20k, labels, voc

from nasseg.cli.main import run


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    run(["data", "info", *arguments])
    return capsys.readouterr().out


def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys)
    for line in (
        "ade20k:PATH      ADE20K                    150  train 20210, val 2000",
        "cityscapes:PATH  Cityscapes                 19  train 2975, val 500, test 1525",
        "coco-stuff:PATH  COCO-Stuff 164k           171  train 118287, val 5000",
        "voc:PATH         Pascal VOC 2012            21  train 1464, val 1449, train with aug 10582",
        "camvid:PATH      CamVid           11, 31 or 32  train 367, val 101, test 233",
    ):
        assert line in out
    for kind in ("ade20k", "cityscapes", "coco-stuff", "voc", "camvid"):
        part = out.split(f"\n{kind}\n")[1]
        assert [line.split()[0] for line in part.splitlines()[:3]] == ["from", "licence", "folders"]
    for own in ("mmseg:PATH", "ultralytics:FILE.yaml", "csv:FILE.csv", "hf:PATH", "shards:PATH"):
        assert own in out
    everything = json.loads(said(capsys, "--json"))
    assert {entry["spec"].partition(":")[0]: len(entry.get("classes", ())) for entry in everything} == {
        **{"ade20k": 150, "cityscapes": 19, "coco-stuff": 171, "voc": 21, "camvid": 11},
        **dict.fromkeys(("mmseg", "ultralytics", "csv", "hf"), 0),
    }


def test_one(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "cityscapes")
    assert out.startswith("Cityscapes  --data cityscapes:PATH\n")
    assert "   18              33  bicycle        #770b20" in out
    assert "settings holdout\n" in out
    assert json.loads(said(capsys, "voc", "--json"))["settings"] == ["aug", "holdout"]
    assert "mask" in said(capsys, "csv")


def test_a_public_set_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ade20k(tmp_path, labels(0, 1, 150))
    out = said(capsys, str(root))
    assert f"ADE20K: ADE20K, known by its folders; --data ade20k:{root} says so\n" in out
    assert "  train     3 images of 20210 published, the first ADE_train_00000001 (6x8)\n" in out
    assert "  labels    mapped; the masks' own are 1, 2, 3, 4," in out
    found = json.loads(said(capsys, f"ade20k:{root}", "--json"))
    assert not found["recognised"]
    assert found["original_labels"] == list(range(1, 151))


def test_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "own")
    out = said(capsys, str(root))
    assert "own: folders, split folders\n" in out
    assert "  val       2 images, the first v_1 (6x8)\n" in out
    assert "built in" in said(capsys, "synthetic?train=1&val=1&size=32")
    aug = voc(tmp_path / "voc", labels(0, 1), aug=tuple(f"2008_0000{n}" for n in range(10, 30)))
    assert "  train     22 images of 1464 published" in said(capsys, f"voc:{aug}?aug=trainaug")


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["data", "info", str(tmp_path)])
    assert stopped.value.code == 2
    assert "no known layout (it is empty)" in capsys.readouterr().err
