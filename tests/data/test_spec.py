"""The string behind --data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasseg.data.spec import DataSpec, parse_relabel, parse_size, parse_spec, whole_number
from nasseg.errors import DataError


@pytest.mark.parametrize(
    ("given", "kind", "place", "query"),
    [
        ("synthetic", "synthetic", "", {}),
        ("synthetic?size=64x96", "synthetic", "", {"size": "64x96"}),
        ("synthetic:streets", "synthetic", "streets", {}),
        ("synthetic:streets?val=3&train=2", "synthetic", "streets", {"val": "3", "train": "2"}),
        ("/no/such?holdout=a_*", "folder", "/no/such", {"holdout": "a_*"}),
        ("folder:/no/such", "folder", "/no/such", {}),
        ("camvid:/no/such?holdout=a?,b*&classes=3", "camvid", "/no/such", {"holdout": "a?,b*", "classes": "3"}),
        (" /no/such ", "folder", "/no/such", {}),
        ("voc:/no/such?aug=trainaug", "voc", "/no/such", {"aug": "trainaug"}),
        ("coco-stuff:/no/such", "coco-stuff", "/no/such", {}),
        ("/no/such.yaml", "ultralytics", "/no/such.yaml", {}),
        ("/no/such.YML?holdout=a_?", "ultralytics", "/no/such.YML", {"holdout": "a_?"}),
        ("/no/such.csv?mask=label", "csv", "/no/such.csv", {"mask": "label"}),
        ("/no/such.parquet", "csv", "/no/such.parquet", {}),
    ],
)
def test_parsed(given: str, kind: str, place: str, query: dict[str, str]) -> None:
    assert parse_spec(given) == DataSpec(kind, place, query)


def test_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for text in ("set?holdout=a&classes=3", "./set?classes=3&holdout=a", "folder:set/?holdout=a&classes=3"):
        assert str(parse_spec(text)) == f"{tmp_path.resolve()}/set?classes=3&holdout=a"
    assert str(parse_spec("camvid:set")) == f"camvid:{tmp_path.resolve()}/set"


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_spec("~/set").place == str(tmp_path.resolve() / "set")


@pytest.mark.parametrize("name", ["what?", "a?b", "camvid:x", "other:y", "synthetic:z", "camvid"])
def test_folders_of_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    there = f"{tmp_path.resolve()}/{name}"
    assert parse_spec(name) == DataSpec("folder", there)
    assert parse_spec(f"{name}?holdout=b?") == DataSpec("folder", there, {"holdout": "b?"})
    assert str(parse_spec(str(parse_spec(there)))) == there


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"data: nothing was named; give a folder, KIND:PATH \(nasseg data info lists the kinds\) or synthetic"),
        ("camvid", "camvid: no folder was named; write camvid:PATH"),
        ("camvid:?classes=3", "no folder was named; write camvid:PATH"),
        ("camvod:/x", "unknown kind of data 'camvod'; known are .*; nearest: camvid"),
        ("zzzz:/x", r"unknown kind of data 'zzzz'; known are a folder's path, ade20k:PATH, .*, hf:PATH and synthetic\[:NAME\]$"),
        ("csv?image=a", "no file was named; write csv:PATH"),
        ("ade20k:/x?relabel=reduce_zero", "unknown setting 'relabel'; this kind of data knows holdout$"),
        ("cityscape:/x", "unknown kind of data 'cityscape'; .*; nearest: cityscapes"),
        ("/x?hold=a", "unknown setting 'hold'; this kind of data knows classes, holdout, relabel; nearest: holdout"),
        ("/x?zzz=a", "unknown setting 'zzz'; this kind of data knows classes, holdout, relabel$"),
        ("synthetic?classes=3", "unknown setting 'classes'; this kind of data knows seed, size, train, val"),
        ("/x?classes", "classes has no value; write classes=…"),
        ("/x?classes=", "classes has no value; write classes=…"),
        ("/x?classes=2&classes=3", "classes is given twice"),
    ],
)
def test_refused(given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_spec(given)


def test_whole_number() -> None:
    assert whole_number("19", "classes", "x", 2, 255) == 19
    for text in ("1", "256", "1.5", "-3", "abc", "٣", "9" * 30):
        with pytest.raises(DataError, match="x: classes is a whole number from 2 to 255"):
            whole_number(text, "classes", "x", 2, 255)


def test_size() -> None:
    assert parse_size("96x128", "x", 32, 4096) == (96, 128)
    assert parse_size("64", "x", 32, 4096) == (64, 64)
    for text in ("96×128", "31x64", "64x5000", "x", "1e3", ""):
        with pytest.raises(DataError, match="size is HEIGHTxWIDTH, each from 32 to 4096 pixels"):
            parse_size(text, "x", 32, 4096)


def test_relabel() -> None:
    table = parse_relabel("reduce_zero", "x")
    assert (table[0], table[1], table[254], table[255], len(table)) == (255, 0, 253, 255, 256)
    table = parse_relabel("255:1,7:0", "x")
    assert (table[255], table[7], table[1], table[0]) == (1, 0, 1, 0)


@pytest.mark.parametrize("text", ["reduce", "1", "1:2:3", "256:1", "1:256", "a:b", "1:2,"])
def test_relabel_refused(text: str) -> None:
    with pytest.raises(DataError, match="relabel is reduce_zero, or OLD:NEW labels of 0…255 by comma such as 255:1"):
        parse_relabel(text, "x")


def test_relabel_twice() -> None:
    with pytest.raises(DataError, match="relabel names label 3 twice"):
        parse_relabel("3:1,3:2", "x")


@given(st.dictionaries(st.sampled_from(["classes", "holdout", "relabel"]), st.text("abc*?,:=0", min_size=1, max_size=6)))
def test_round_trip(query: dict[str, str]) -> None:
    spec = DataSpec("folder", "/no/such/folder", query)
    assert parse_spec(str(spec)) == spec
