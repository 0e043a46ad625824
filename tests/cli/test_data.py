"""nasseg data check, nasseg data show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kits_data import save, write_tree
from PIL import Image

from nasseg.cli import data as verb
from nasseg.cli.main import run


def test_check_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path)
    run(["data", "check", str(root)])
    out = capsys.readouterr().out
    assert "layout: split folders; 3 classes, from largest label in 6 masks, all read" in out
    assert "train: 4 images, 4 masks; 6x8 all; 4.17 % ignored" in out
    assert "0 class_0" in out
    assert out.rstrip().endswith("nothing wrong found")


def test_check_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path)
    save(root / "train/masks/a_1.png", np.zeros((9, 9, 3), dtype=np.uint8))
    save(root / "val/images/v_1.png", np.zeros((9, 9, 3), dtype=np.uint8))
    with pytest.raises(SystemExit) as stopped:
        run(["data", "check", str(root)])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert "error [train] mask with several channels: " in out
    assert "error [val] image and mask differ in size: " in out
    assert "2 errors, 0 notes" in out
    assert err == f"nasseg: {root.resolve()}: 2 kinds of errors found; put them right or set what is said above\n"


def test_check_notes_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path, suffix=".png")
    run(["data", "check", f"{root}?classes=4"])
    out = capsys.readouterr().out
    assert "note [train] absent classes: no pixel of class_3: they cannot be learnt" in out
    assert "3 class_3" in out
    assert "absent" in out
    assert "0 errors, 2 notes" in out


def test_check_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(write_tree(tmp_path)), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["errors"] == 0
    assert plain["splits"]["train"]["images"] == 4


def test_check_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["data", "check", str(tmp_path / "none")])
    assert stopped.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_check_shows_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verb.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb, "_FEW", 0)
    run(["data", "check", str(write_tree(tmp_path))])
    assert "nothing wrong found" in capsys.readouterr().out


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "show", "synthetic?train=3&val=2&size=32x48", "--out", str(tmp_path / "out"), "--number", "2", "--width", "48"])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/out/train.png  (2 of 3 samples)",
        f"{tmp_path}/out/val.png  (2 of 2 samples)",
    ]
    with Image.open(tmp_path / "out" / "train.png") as sheet:
        assert sheet.width == 2 * 48 + 6


def test_show_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["data", "show", "synthetic", "--out", str(tmp_path), "--number", "0", "--width", "5"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "--number: a whole number from 1 to 400 (given 0)" in err
    assert "--width: a whole number from 16 to 4096 (given 5)" in err
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        run(["data", "show", "synthetic?train=1&val=1&size=32", "--out", str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert "--out: cannot be written: " in capsys.readouterr().err
