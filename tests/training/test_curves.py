"""The log file and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nasseg.training.curves import LogFile, draw_curves, read_log


def filled(path: Path) -> Path:
    log = LogFile(path, ["miou", "macc"])
    for k in range(1, 5):
        log.write(k, k / 2, {"loss": 1 / k, "lr": 0.1, "other": 3.0} | ({"miou": 10.0 * k} if k % 2 == 0 else {}))
    return path


def test_content(tmp_path: Path) -> None:
    assert filled(tmp_path / "log.csv").read_text() == (
        "iteration,seconds,lr,loss,miou,macc\n"
        "1,0.50,0.1,1.0,,\n2,1.00,0.1,0.5,20.0,\n3,1.50,0.1,0.3333333333333333,,\n4,2.00,0.1,0.25,40.0,\n"
    )


def test_a_resumed_run_writes_again_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.csv")
    with path.open("a") as file:
        file.write("5,2.5,0.1,0.2")
    log = LogFile(path, ["miou", "macc"])
    log.write(3, 0.25, {"loss": 9.0, "lr": 0.2})
    assert path.read_text().splitlines()[2:] == ["2,1.00,0.1,0.5,20.0,", "3,1.25,0.2,9.0,,"]


def test_torn_and_strange_lines_are_passed_over(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.csv")
    with path.open("a") as file:
        file.write("x,y,z\n5,2.5\n6,3.0,0.1,0.5,,,9,9\n7,1")
    assert [row["iteration"] for row in read_log(path)] == [1, 2, 3, 4]
    assert read_log(tmp_path / "none.csv") == []


@pytest.mark.parametrize("rows", [1, 300])
def test_picture(tmp_path: Path, rows: int) -> None:
    log = LogFile(tmp_path / "log.csv", ["miou"])
    for k in range(1, rows + 1):
        log.write(k, k, {"loss": 1 / k, "lr": 0.1} | ({"miou": 5.0} if k % 100 == 0 else {}))
    draw_curves(tmp_path / "log.csv", tmp_path / "curves.png", "a run")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (800, 600)
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 10
