"""A dry run says what the search then does: the same starts, the same sentences, the same number of trials, the same refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nasseg.cli.main import run
from nasseg.errors import StudyError
from nasseg.search import preview as module
from nasseg.search.driver import DriverLock
from nasseg.search.preview import check_folder
from nasseg.search.store import read_study
from nasseg.search.view import StudyView

DATA = "synthetic?train=2&val=1&size=64x96"
SETTINGS = """
genotype: given
genes:
  train.lr: {low: 1.0e-4, high: 1.0e-3, log: true}
  train.drop_path: {low: 0.0, high: 0.3}
  train.loss: {choices: [cross_entropy, ohem]}
objectives: {miou: max}
"""
MIXED = """
extends: tiny
genes:
  train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
"""
FEW = """
extends: tiny
genes: {backbone: mit_b0, fusion: fca, stage2.attention: none, stage3.attention: none, fusion_width: 64}
presets: []
"""


def command(out: Path, space: str, *more: str) -> list[str]:
    given = ["search", space, "--data", DATA, "--size", "64x96", "--trainer", "tests.kits_store:FakeTrainer", "--executor", "local"]
    return [*given, "--out", str(out), *more]


def both(arguments: list[str], capsys: pytest.CaptureFixture[str], out: Path) -> tuple[list[str], list[str], StudyView]:
    """Lines of the dry run, lines of the search, and the study."""
    capsys.readouterr()
    before = sorted(out.rglob("*"))
    run([*arguments, "--dry-run"])
    dry = capsys.readouterr().out.splitlines()
    assert sorted(out.rglob("*")) == before
    run(arguments)
    return dry, capsys.readouterr().out.splitlines(), read_study(out)


def notes(lines: list[str]) -> list[str]:
    """What is said of points to start from and of defaults that were moved."""
    plain = [re.sub(r"^\[\d+/\d+\] ", "", line) for line in lines]
    return [line for line in plain if "left out" in line or "is taken" in line]


def first_origins(dry: list[str]) -> list[str]:
    """The origins of the trials that a dry run announces."""
    out = []
    for line in dry:
        found = re.fullmatch(r"(preset|the recipe's defaults)(?: (?:on )?(\S+))? (?:is|are) trained first", line)
        if found is not None:
            kind = "preset" if found[1] == "preset" else "defaults"
            out.append(f"{kind}:{found[2]}" if found[2] else kind)
    return out


def would_train(dry: list[str]) -> int:
    found = re.search(r"; (\d+) trials would be trained$", "\n".join(dry), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("space", "more", "trials", "started", "left_out"),
    [
        ("tiny", ["--backbone", "mit_b0", "--budget", "macs=62M"], 4, ["preset:canet_fca"], 1),
        ("tiny", ["--backbone", "mit_b0"], 3, ["preset:csap", "preset:canet_fca"], 0),
        (SETTINGS, ["--genotype", "csap", "--backbone", "mit_b0"], 3, ["defaults"], 0),
        (SETTINGS, ["--genotype", "csap", "--backbone", "mit_b0", "--set", "trainer.lr=0.1"], 2, ["defaults"], 0),
        (MIXED, ["--backbone", "mit_b0", "--budget", "macs=62M"], 4, ["defaults:canet_fca"], 1),
        (FEW, [], 100, [], 0),
        (FEW, ["--budget", "macs=57M"], 100, [], 0),
    ],
    ids=["budget", "presets", "settings", "fewer settings", "settings and genes", "small", "small under a budget"],
)
def test_the_search_does_what_the_dry_run_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], space: str, more: list[str], trials: int, started: list[str], left_out: int
) -> None:
    if "\n" in space:
        (tmp_path / "space.yaml").write_text(space)
        space = str(tmp_path / "space.yaml")
    out = tmp_path / "out"
    arguments = command(out, space, *more, "--trials", str(trials))
    dry, said, view = both(arguments, capsys, out)
    assert dry[0] == said[0]
    assert notes(dry) == notes(said)
    assert len([line for line in notes(dry) if "left out" in line]) == left_out
    assert first_origins(dry) == started
    assert [trial.origin for trial in view.trials[: len(started)]] == started
    assert not [trial for trial in view.trials[len(started) :] if trial.origin.partition(":")[0] in ("preset", "defaults")]
    assert view.count("complete", "failed") == would_train(dry)
    assert (would_train(dry) < trials) == any("the search ends early" in line for line in said)
    again, said, view = both([*arguments[:-1], str(trials + 1)], capsys, out)
    assert notes(again) == notes(said) == first_origins(again) == []
    assert f"goes on after {would_train(dry)} trained trials" in again[-2]
    assert view.count("complete", "failed") == would_train(dry) + would_train(again)


def test_a_small_space_under_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """12 networks: stage 4 with or without a map, three local modules, two FFNs; by hand, those without a map are the cheaper six."""
    (tmp_path / "space.yaml").write_text(FEW)
    run(command(tmp_path / "out", str(tmp_path / "space.yaml"), "--trials", "100", "--dry-run"))
    said = capsys.readouterr().out
    assert "12 genotypes\n" in said
    assert "no more than 12 fit the budget: the search ends after them, 100 were asked for" in said
    assert "begins; 12 trials would be trained" in said


@pytest.mark.parametrize(
    "more",
    [
        ["--budget", "macs=1M"],
        ["--weights", "/no/such/file"],
        ["--objective", "mious"],
        ["--workers-per-trial", "2"],
        ["--set", "trainer.lrr=1"],
        ["--concurrency", "0"],
        ["--data", "/no/such/folder"],
    ],
)
def test_the_same_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    arguments = [*command(tmp_path / "out", "tiny", "--backbone", "mit_b0", "--trials", "2"), *more]
    said = [refused([*arguments, *last], capsys) for last in ([], ["--dry-run"])]
    assert said[0] == said[1]
    assert said[0].startswith("nasseg: ")
    assert not (tmp_path / "out").exists()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    # An option that takes one value refuses a second: the later one stands alone.
    names = [word for word in arguments if word.startswith("--")]
    for name in {name for name in names if names.count(name) > 1}:
        first = arguments.index(name)
        arguments = arguments[:first] + arguments[first + 2 :]
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_folders_that_a_search_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def said(out: Path, *more: str) -> list[str]:
        arguments = command(out, "tiny", "--backbone", "mit_b0", "--trials", "1", *more)
        return [refused([*arguments, *last], capsys) for last in ([], ["--dry-run"])]

    (tmp_path / "file").write_text("")
    inside = said(tmp_path / "file" / "out")
    assert inside[0] == inside[1] == f"nasseg: {tmp_path}/file/out cannot be written: Not a directory\n"
    itself = said(tmp_path / "file")
    assert itself[0] == itself[1]
    out = tmp_path / "out"
    run(command(out, "tiny", "--backbone", "mit_b0", "--trials", "1"))
    capsys.readouterr()
    other = said(out, "--seed", "3")
    assert other[0] == other[1]
    assert "belongs to another study" in other[0]
    with DriverLock(out):
        held = said(out)
        assert held[0] == held[1]
        assert "is in use by another search" in held[0]

    def denied(path: Any, mode: int) -> bool:
        return False

    monkeypatch.setattr(module.os, "access", denied)
    with pytest.raises(StudyError, match="new/out cannot be written: Permission denied"):
        check_folder(tmp_path / "new" / "out")
