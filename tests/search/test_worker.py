from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nasseg.errors import TrainingFailed
from nasseg.search.worker import Stopped, claim, execute, identify, newest_checkpoint
from nasseg.training.trial import Report, Result, Trial
from tests.kits_store import FakeConfig, diary_of, fake_miou, fake_space

GENOTYPE = next(fake_space(fusion_width=64).enumerate())


def trial(folder: Path | None, **more: Any) -> Trial:
    given = {"genotype": GENOTYPE, "data": "synthetic", "size": (64, 64), "trainer": "tests.kits_store:FakeTrainer"}
    return Trial(**{**given, "workdir": None if folder is None else str(folder), **more})


def steps(diary: Path) -> list[Any]:
    return [(entry["attempt"], entry["step"]) for entry in diary_of(diary)]


def test_a_run_takes_an_attempt_of_its_own(tmp_path: Path) -> None:
    told: list[int] = []
    outcome = execute(trial(tmp_path / "7"), lambda iteration, metrics: bool(told.append(iteration)))
    assert outcome.attempt == 1
    assert outcome.result.metrics["miou"] == fake_miou(GENOTYPE)
    assert told == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "7" / "attempt-1").iterdir()) == [
        "checkpoints",
        "model.safetensors",
        "result.json",
        "trial.json",
    ]


def test_an_interrupted_run_goes_on_from_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    one = trial(tmp_path / "7", settings={"diary": str(diary), "steps": 4})

    def stop_at_two(iteration: int, metrics: object) -> bool:
        if iteration == 2:
            raise Stopped
        return False

    with pytest.raises(Stopped):
        execute(one, stop_at_two)
    # The checkpoint of step 2 lies there; a torn one is newer.
    torn = tmp_path / "7" / "attempt-1" / "checkpoints" / "torn.pt"
    torn.write_bytes(b"PK\x03\x04 torn")
    os.utime(torn, (2**31, 2**31))
    outcome = execute(one, lambda iteration, metrics: False)
    assert outcome.attempt == 2
    assert steps(diary) == [("attempt-1", 0), ("attempt-1", 1), ("attempt-2", 2), ("attempt-2", 3), ("attempt-2", "end")]


def test_a_finished_attempt_is_read_and_not_run_again(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    one = trial(tmp_path / "7", settings={"diary": str(diary)})
    first = execute(one, lambda iteration, metrics: False)
    ran = len(diary_of(diary))
    again = execute(one, lambda iteration, metrics: False)
    assert again == first
    assert len(diary_of(diary)) == ran


def test_a_result_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    one = trial(tmp_path / "7")
    first = execute(one, lambda iteration, metrics: False)
    (tmp_path / "7" / "attempt-1" / "result.json").write_text('{"status": "complete", "metrics": {"miou": "good"}}')
    again = execute(one, lambda iteration, metrics: False)
    assert again.attempt == 2
    assert again.result.metrics == first.result.metrics


def test_attempts_of_another_trial_are_left_alone(tmp_path: Path) -> None:
    """A number can come to stand for another trial when a power cut takes the journal's tail."""
    diary = tmp_path / "diary"
    execute(trial(tmp_path / "7", seed=1), lambda iteration, metrics: False)
    outcome = execute(trial(tmp_path / "7", seed=2, settings={"diary": str(diary)}), lambda iteration, metrics: False)
    assert outcome.attempt == 2
    assert steps(diary)[0] == ("attempt-2", 0)


def test_paths_are_not_part_of_a_checkpoints_identity(tmp_path: Path) -> None:
    one = trial(tmp_path)
    assert identify(one) == identify(replace(one, data="elsewhere", weights="moved", workdir=None, parent="p"))
    assert identify(one) != identify(replace(one, fidelity=0.5))


@pytest.mark.parametrize(
    ("crash", "status", "reason"),
    [("raise", Result.FAILED, "RuntimeError: no luck"), ("nan", Result.COMPLETE, None), ("missing", Result.COMPLETE, None)],
)
def test_failures_come_back_as_results(tmp_path: Path, crash: str, status: str, reason: str | None) -> None:
    outcome = execute(trial(tmp_path / "7", settings={"crash": crash}), lambda iteration, metrics: False)
    assert (outcome.result.status, outcome.result.reason) == (status, reason)
    trace = tmp_path / "7" / "attempt-1" / "traceback.txt"
    assert trace.is_file() == (crash == "raise")
    if crash == "raise":
        assert "in run" in trace.read_text()
    stored = json.loads((tmp_path / "7" / "attempt-1" / "result.json").read_text())
    assert stored["status"] == status
    again = execute(trial(tmp_path / "7", settings={"crash": crash}), lambda iteration, metrics: False)
    assert str(again.result) == str(outcome.result)


class Refusing:
    """Raises what its settings say."""

    Config = FakeConfig

    def __init__(self, settings: Any) -> None:
        self.kind = settings["crash"]

    def run(self, trial: Trial, report: Report) -> Result:
        raise {"memory": MemoryError(), "training": TrainingFailed("loss is nan at iteration 3"), "plain": ValueError()}[self.kind]


@pytest.mark.parametrize(
    ("kind", "reason"), [("memory", "out of memory"), ("training", "loss is nan at iteration 3"), ("plain", "ValueError:")]
)
def test_reasons(kind: str, reason: str) -> None:
    outcome = execute(trial(None, trainer="tests.search.test_worker:Refusing", settings={"crash": kind}), lambda iteration, metrics: False)
    assert (outcome.result.status, outcome.result.reason) == (Result.FAILED, reason)


def test_an_unknown_trainer_is_a_failed_result() -> None:
    outcome = execute(trial(None, trainer="tests.kits_store:Nobody"), lambda iteration, metrics: False)
    assert outcome.result.reason is not None
    assert "has no class Nobody" in outcome.result.reason


def test_claims_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert claim(tmp_path / "7")[0] == 1
    assert claim(tmp_path / "7")[0] == 2
    real = Path.mkdir
    raced: list[Path] = []

    def mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "attempt-3" and not raced:
            raced.append(path)
            real(path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert claim(tmp_path / "7") == (4, tmp_path / "7" / "attempt-4")


def test_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, "x") is None
    own = tmp_path / "attempt-1"
    own.mkdir()
    with zipfile.ZipFile(own / "last.pt", "w") as archive:
        archive.writestr("step", "1")
    assert newest_checkpoint(tmp_path, "x") is None
    (own / "trial.json").write_text('{"identity": "x"}')
    assert newest_checkpoint(tmp_path, "x") == own / "last.pt"
