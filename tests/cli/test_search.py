from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from kits_cli import parsed, replaced
from PIL import Image

from nasseg.cli.main import run
from nasseg.search.store import read_study

FAKE = ["--trainer", "tests.kits_store:FakeTrainer", "--executor", "local"]
AT = ["--data", "synthetic?train=2&val=1&size=64x96", "--size", "64x96", "--backbone", "mit_b0"]


def search(out: Path, *more: str, trials: int = 4, space: str = "tiny") -> list[str]:
    return replaced(["search", space, *AT, *FAKE, "--trials", str(trials), "--out", str(out)], more)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == code
    return capsys.readouterr().err


def test_search_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "first"
    run(search(out, "--budget", "macs=62M"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tiny · ")
    assert "· budget macs=62.0M ·" in said[0]
    assert said[1] == "[0/4] preset csap is left out: over budget: macs 64.3M > 62.0M"
    assert said[2].startswith("[0/4] trial 0 started (preset:canet_fca): 59.0M MACs, 3.45M params; ")
    assert sum(" complete: mIoU " in line for line in said) == 4
    assert "Pareto front (mIoU max, macs min)" in said
    at = said.index(f"  nasseg train {out}:best --trainer full --out runs/first")
    assert said[at - 1] == "next:"
    assert re.fullmatch(
        r"  # 20,000 iterations of 16 images(, about .* images/s of trial \d)?; for a shorter run add --set .*=2000", said[at + 1]
    )
    assert [parsed(line)[0] for line in said[at:] if not line.startswith("  #")] == ["train", "export", "show"]
    with Image.open(out / "front.png") as image:
        assert image.format == "PNG"

    run(["show", str(out), "--json"])
    shown = json.loads(capsys.readouterr().out)
    view = read_study(out)
    assert shown["front"] == [t.number for t in view.front]
    assert [t["number"] for t in shown["trials"]] == [t.number for t in view.trials]
    assert {t["state"] for t in shown["trials"]} <= {"complete", "rejected", "duplicate"}
    assert sum(t["state"] == "complete" for t in shown["trials"]) == 4
    assert all(t["on_front"] == (t["number"] in shown["front"]) for t in shown["trials"])

    run(["show", str(out)])
    text = capsys.readouterr().out
    assert "rejected over budget" in text
    assert text.splitlines()[-1].startswith("4 trained, ")
    run(["show", str(out), "--rejected"])
    rejected = view.count("rejected")
    assert capsys.readouterr().out.count("over budget: macs") == rejected


def test_show_says_that_a_search_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nasseg.search.driver import DriverLock  # noqa: PLC0415  # for this test alone

    out = tmp_path / "first"
    run(search(out, trials=1))
    with DriverLock(out):
        capsys.readouterr()
        run(["show", str(out)])
        assert f"a search is running: process {os.getpid()}" in capsys.readouterr().out


def test_more_trials_and_another_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "first"
    run(search(out, trials=2))
    run(search(out, trials=3))
    assert read_study(out).count("complete") == 3
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    said = refused(capsys, search(out, "--budget", "macs=1G", trials=3))
    assert said == (
        f"nasseg: {out} belongs to another study; it differs in budget.macs: none → 1.00G. Give another --out, or the old settings\n"
    )
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trials", "0"], "nasseg: --trials: must be a whole number from 1 (given 0); nearest legal: 1\n"),
        (["--set", "lmp=se"], "lmp"),
        (["--set", "trainer.lrr=1"], "lrr: no such setting; nearest legal: lr"),
        (["--executor", "rey"], "--executor: must be one of ray, local (given 'rey'); nearest legal: ray"),
        (["--genotype", "scasegg"], "nearest legal: scaseg"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    """One case for each way from an option to its check; tests/search/test_plan.py has the rules themselves."""
    error = refused(capsys, search(tmp_path / "out", *more))
    assert error.startswith("nasseg: ")
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "file/out cannot be written: Not a directory" in refused(capsys, search(tmp_path / "file" / "out"))
    assert "file is a file; --out names a folder" in refused(capsys, search(tmp_path / "file"))


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(search(tmp_path / "out", "--budget", "macs=62M", "--dry-run"))
    said = capsys.readouterr().out
    assert "312 genotypes, 48.4% inside the budget" in said
    assert "preset csap is left out: over budget: macs 64.3M > 62.0M" in said
    assert "preset canet_fca is trained first" in said
    assert "begins; 4 trials would be trained\nnothing was written (--dry-run)" in said
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_training_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "settings.yaml"
    space.write_text(
        "genotype: given\ngenes:\n  train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\n  train.drop_path: {choices: [0.0, 0.1]}\n"
    )
    run(search(tmp_path / "out", "--genotype", "csap", "--dry-run", space=str(space)))
    assert "searched settings: train.lr, train.drop_path" in capsys.readouterr().out
    run(search(tmp_path / "out", "--genotype", "csap", space=str(space), trials=3))
    view = read_study(tmp_path / "out")
    assert {tuple(t.settings) for t in view.trials} == {("lr", "drop_path")}
    assert len({t.id for t in view.trials}) == 1
    assert "lr 0.00" in capsys.readouterr().out


def test_all_trials_failing_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, search(tmp_path / "out", "--set", "trainer.crash=nan", "--set", "ffn=0", trials=2), code=1)
    assert said == f"nasseg: {tmp_path / 'out'}: every trial failed: miou is nan\n"


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nasseg.cli import search as module  # noqa: PLC0415  # for this test alone

    real = module.SearchScreen.__call__

    def press(self: Any, event: Any) -> None:
        real(self, event)
        if event.kind == "complete":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.SearchScreen, "__call__", press)
    arguments = search(tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["nasseg", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 130
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "stopped after 1 of 4 trials"
    assert said[-1].startswith("go on with: nasseg search tiny --data 'synthetic?train=2")
    monkeypatch.undo()
    run(arguments)
    assert read_study(tmp_path / "out").count("complete") == 4
