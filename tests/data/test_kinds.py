"""What holds for every kind of data together: settings, documentation, finding out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kits_data import image, save
from kits_layouts import ade20k, arrow_split, cityscapes, coco_stuff, labels, voc

from nasseg.data.layouts import NAMED, open_data, read_tree
from nasseg.data.spec import KEYS, DataSpec
from nasseg.data.tree import invert
from nasseg.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_kind_has_settings_and_a_layout() -> None:
    assert set(NAMED) | {"folder", "synthetic", "shards"} == set(KEYS)
    for layout in NAMED.values():
        assert layout.name
        assert layout.shape
        assert "holdout" in KEYS[layout.kind]
        if layout.facts is not None and layout.kind != "camvid":
            assert not {"classes", "relabel"} & set(KEYS[layout.kind])


def test_facts_agree_with_themselves() -> None:
    for layout in NAMED.values():
        facts = layout.facts
        if facts is not None:
            assert len(facts.names) == len(set(facts.names)) == len(facts.palette) == len(facts.originals) == len(set(facts.originals))
            assert facts.licence
            assert facts.obtained
            assert facts.paper


def test_documented() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    for kind, keys in KEYS.items():
        if kind not in ("folder", "synthetic"):
            assert f"`{kind}:" in text
        for key in keys:
            assert re.search(rf"[`?&(]{key}[=`]", text), f"{kind} ?{key}="
    for layout in NAMED.values():
        if layout.facts is not None:
            row = next(line for line in text.splitlines() if line.startswith(f"| `{layout.kind}:PATH`"))
            for count in layout.facts.images.values():
                assert str(count) in row or layout.kind == "cityscapes"  # its test split has no labels
            assert str(len(layout.facts.names)) in row


def test_public_sets_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = {
        "ade20k": ade20k(tmp_path / "1", labels(0, 1, 2)),
        "cityscapes": cityscapes(tmp_path / "2", labels(7, 8)),
        "coco-stuff": coco_stuff(tmp_path / "3", labels(0, 1)),
        "voc": voc(tmp_path / "4", labels(0, 1)),
    }
    caplog.set_level("INFO")
    for kind, root in made.items():
        assert [name for name, layout in NAMED.items() if layout.fits(root)] == [kind]
        assert open_data(str(root)).spec == f"{kind}:{root}"
        assert f"{root} looks like {NAMED[kind].name} ({NAMED[kind].shape}); {kind}:PATH says so" in caplog.text
    assert open_data(f"{made['voc']}?holdout=*39").spec == f"voc:{made['voc']}?holdout=*39"


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    root = voc(cityscapes(tmp_path, labels(7, 8)), labels(0, 1))
    with pytest.raises(DataError, match=r"looks like Cityscapes \(cityscapes:PATH\) and Pascal VOC 2012 \(voc:PATH\); say which"):
        open_data(str(root))
    assert open_data(f"voc:{root}").num_classes == 21
    assert open_data(f"cityscapes:{root}").num_classes == 19


def test_holdout_and_fingerprint_of_a_mapped_set(tmp_path: Path) -> None:
    root = ade20k(tmp_path / "set", labels(0, 1, 150))
    held = open_data(f"ade20k:{root}?holdout=*3")
    assert held.splits["holdout"].ids == ("ADE_train_00000003",)
    assert set(held.splits["holdout"][0].mask.ravel().tolist()) == {0, 149, 255}
    copy = ade20k(tmp_path / "copy", labels(0, 1, 150))
    assert open_data(f"ade20k:{root}").fingerprint == open_data(f"ade20k:{copy}").fingerprint != held.fingerprint
    assert open_data(f"ade20k:{root}").splits["train"].key != open_data(f"ade20k:{copy}").splits["train"].key


def test_classes_beside_an_arrow_folder(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", picture).read_bytes() for n, picture in enumerate((image(1), labels(0, 1)(1)))]
    row = {"image": {"bytes": files[0], "path": "a.png"}, "mask": {"bytes": files[1], "path": None}}
    for split in ("train", "val"):
        arrow_split(tmp_path / "set" / split, [row])
    (tmp_path / "set/classes.json").write_text('["ground", "thing"]')
    assert open_data(f"hf:{tmp_path}/set").classes == ("ground", "thing")


def test_a_kind_is_taken_at_its_word(tmp_path: Path) -> None:
    root = voc(tmp_path, labels(0, 1))
    for kind in ("ade20k", "cityscapes", "coco-stuff"):
        with pytest.raises(DataError, match=r"train.*: the folder is missing; a data set has train and val"):
            open_data(f"{kind}:{root}")
    assert read_tree(DataSpec("voc", str(root)))[1].layout is NAMED["voc"]


def test_inverse() -> None:
    assert invert(None, 3) is None
    assert invert((255, *range(254), 255), 3) == (1, 2, 3)
    swapped = list(range(256))
    swapped[1], swapped[2], swapped[255] = 2, 1, 0
    assert invert(tuple(swapped), 3) == (255, 2, 1)
    assert invert((0,) * 256, 2) == (1, 1)
