"""Faults around a study: of the environment, of a worker, of a recipe that hangs. Each costs what it must and no more."""

from __future__ import annotations

import itertools
import os
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from nasseg.errors import ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.search.candidate import Recipe
from nasseg.search.cluster import ENVIRONMENT, evicted_workers_are_lost
from nasseg.search.executor_local import run_local
from nasseg.search.failures import EQUAL_FAILURES
from nasseg.search.resources import Resources
from nasseg.search.run import RepeatedFailure, search
from nasseg.search.study import Study
from nasseg.search.worker import Losses, execute
from nasseg.training.trial import Result
from tests.kits_store import complete, drive, fake_space, make_study

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

from nasseg.search.searcher import GIVEN_UP, RESULT, LostWorkers, StudySearcher, TrialRunner  # noqa: E402  # after Ray's switches


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def recipe(folder: Path, **settings: object) -> Recipe:
    given = {"diary": str(folder / "diary"), **settings}
    return Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:FakeTrainer", settings=given)


def unreadable() -> Any:
    """The result of a network whose data cannot be read: another file each time."""
    numbers = itertools.count()
    return lambda genotype: Result(status="failed", reason=f"DataError: /data/train/{next(numbers)}.png cannot be read")


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.view().trials if trial.trained]


def test_equal_failures_in_a_row_stop_a_search(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=30)
    drive(study, unreadable())
    assert states(study) == ["failed"] * EQUAL_FAILURES
    assert study.condemned == (
        "5 trials in a row failed: DataError: /data/train/4.png cannot be read; the search stops. "
        "When the cause is mended, the same command with --retry-failed trains the failed ones again"
    )


def test_failures_that_differ_or_are_no_row_do_not(tmp_path: Path) -> None:
    numbers = itertools.count()

    def result(genotype: Genotype) -> Result:
        number = next(numbers)
        if number % 5 == 4:
            return complete(genotype)
        return Result(status="failed", reason="out of memory" if number % 10 < 5 else "the loss is NaN")

    study, _ = make_study(tmp_path, trials=20)
    drive(study, result)
    assert study.condemned is None
    assert sorted(states(study)) == ["complete"] * 4 + ["failed"] * 16


def test_failed_trials_are_trained_again_when_asked_for_and_keep_their_place(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=8)
    drive(study, unreadable())
    failed = {trial.id for trial in study.view().trials if trial.state == "failed"}
    study.close()
    plain, _ = make_study(tmp_path, trials=8)
    assert plain.failed == 5
    plain.close()
    again, events = make_study(tmp_path, trials=8, retry_failed=True)
    assert again.trained == 0
    assert sum("is tried again; it had failed: DataError" in event.text for event in events) == 5
    drive(again)
    view = again.view()
    assert states(again) == ["complete"] * 8
    assert failed <= {trial.id for trial in view.trials if trial.state == "complete"}
    assert sum(trial.retried for trial in view.trials) == 5
    again.close()
    once_more, events = make_study(tmp_path, trials=8, retry_failed=True)
    assert once_more.trained == 8
    assert once_more.propose() is None
    assert not events


def test_a_lost_trial_is_trained_again_by_the_same_command(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=2)
    proposal = study.propose()
    assert proposal is not None
    study.fail(proposal.number, "its worker was lost", lost=True)
    drive(study)
    assert sorted(states(study)) == ["complete", "failed"]
    study.close()
    again, _ = make_study(tmp_path, trials=2)
    drive(again)
    assert states(again) == ["complete", "complete"]


def test_a_search_whose_trials_all_fail_alike_ends_with_exit_code_1(tmp_path: Path) -> None:
    with pytest.raises(RepeatedFailure, match=r"out: 5 trials in a row failed: RuntimeError: no luck; the search stops") as caught:
        search(
            fake_space(ffn=0), data="synthetic?train=2&val=1&size=64x96", size=(64, 96), trials=9, out=tmp_path / "out",
            trainer="tests.kits_store:FakeTrainer", executor="local", settings={"crash": "raise"},
        )  # fmt: skip
    assert caught.value.exit_code == 1


def test_losses_count_from_the_last_progress(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=1, recipe=recipe(tmp_path))
    proposal = study.propose()
    assert proposal is not None
    losses = Losses()
    assert [losses.count(proposal), losses.count(proposal)] == [1, 2]
    # A worker that writes a checkpoint and is stopped.
    with pytest.raises(KeyboardInterrupt):
        execute(proposal.trial, lambda iteration, metrics: (_ for _ in ()).throw(KeyboardInterrupt))
    assert [losses.count(proposal), losses.count(proposal)] == [1, 2]
    (checkpoint,) = Path(str(proposal.trial.workdir)).glob("attempt-*/checkpoints/last.pt")
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("step", "2")
    os.utime(checkpoint, ns=(0, time.time_ns() + 10**9))
    assert losses.count(proposal) == 1


def test_a_trial_that_runs_too_long_fails_and_leaves_its_place(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path / "out", trials=1, recipe=recipe(tmp_path, sleep=0.5, steps=1000))
    run_local(study, concurrency=1, progress=lambda *told: None, lost=lambda *told: None, timeout=3.0)
    (trial,) = study.view().trials
    assert trial.reason == "it ran for longer than --trial-timeout (3 s)"
    assert not study.running
    with pytest.raises(ConfigError, match=r"--trial-timeout: must be above 0 seconds \(given -1\)"):
        Resources(timeout=-1)


def searcher_of(folder: Path, **more: Any) -> StudySearcher:
    study, _ = make_study(folder, recipe=recipe(folder), **more)
    return StudySearcher(study, lambda *progress: None, 1, 0.2)


def test_on_ray_a_trial_that_runs_too_long_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasseg.search.searcher.STEP_SECONDS", 0.05)
    study, _ = make_study(tmp_path, trials=1, recipe=recipe(tmp_path, sleep=0.1, steps=1000))
    config = StudySearcher(study, lambda *progress: None, 1, 0.2).suggest("t0")
    assert isinstance(config, dict)
    runner = TrialRunner.__new__(TrialRunner)
    runner.setup(config)
    steps = [runner.step()]
    while not steps[-1].get("done"):
        steps.append(runner.step())
    assert "it ran for longer than --trial-timeout (0.2 s)" in steps[-1][RESULT]
    assert len(steps) > 2


def test_on_ray_a_trial_that_is_lost_without_progress_is_given_up(tmp_path: Path) -> None:
    searcher = searcher_of(tmp_path, trials=1)
    lost: list[int] = []
    callback = LostWorkers(searcher, lambda number, why: lost.append(number))
    config = searcher.suggest("t0")
    assert isinstance(config, dict)
    trial = SimpleNamespace(trial_id="t0", config=config)
    callback.on_trial_recover(0, [], trial)
    assert lost == [0]
    assert GIVEN_UP not in trial.config
    callback.on_trial_recover(0, [], trial)
    assert lost == [0]
    runner = TrialRunner.__new__(TrialRunner)
    runner.setup(trial.config)
    ended = runner.step()
    assert ended["done"] is True
    searcher.on_trial_complete("t0", ended)
    (seen,) = searcher.study.view().trials
    assert seen.reason == "its worker was lost 2 times without progress (killed, out of memory, or its node went away)"
    assert searcher.study.storage.get_trial(0).user_attrs["lost"] is True


def test_a_worker_that_rays_memory_monitor_kills_costs_its_trial_alone() -> None:
    from ray.air.execution._internal.actor_manager import RayActorManager  # noqa: PLC0415  # after Ray's switches
    from ray.exceptions import OutOfMemoryError, RayActorError, RaySystemError  # noqa: PLC0415

    evicted_workers_are_lost()
    evicted_workers_are_lost()
    for error in (OutOfMemoryError("Task was killed due to the node running low on memory.\nmore"), RaySystemError("gone")):
        seen: list[Any] = []
        actor = SimpleNamespace(actor_id=1, _on_error=lambda tracked, exception: seen.append(exception))  # noqa: B023
        manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
        RayActorManager._actor_task_failed(manager, SimpleNamespace(_tracked_actor=actor, _on_error=None), error)
        assert isinstance(seen[0], RayActorError)
        assert manager._failed_actor_ids == {1}
    assert "running low on memory" in str(OutOfMemoryError("Task was killed due to the node running low on memory."))
