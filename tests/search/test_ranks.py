"""Trials that run in several processes on Ray, beside each other and in one study with single-process ones."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest

from nasseg.errors import ConfigError
from nasseg.search.candidate import Recipe
from nasseg.search.cluster import ENVIRONMENT, bundles, run_ray
from nasseg.search.executor_local import run_local
from nasseg.search.plan import make_plan
from nasseg.search.resources import Resources
from nasseg.search.run import check_processes
from tests.kits_store import fake_space, make_study

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

pytestmark = pytest.mark.xdist_group("ray")
SETTINGS = {"iterations": 3, "batch_size": 4, "checkpoint_every": 1, "lr": 1e-3}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_in(folder: Path, trials: int) -> Any:
    space = fake_space(backbone="resnet10t", fusion_width={"choices": [32, 64]}, lpm="none", ffn=0, attention="none")
    recipe = Recipe(data="synthetic?train=8&val=4&size=64x64", size=(64, 64), trainer="proxy", settings=SETTINGS)
    return make_study(folder, space=space, trials=trials, recipe=recipe)[0]


def ranks_of_this_process() -> list[int]:
    """The processes that train ranks, of the Ray that this process has started."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = {int(pid): (int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listing.splitlines())}

    def ancestors(pid: int) -> list[int]:
        found = []
        while pid in rows:
            pid = rows[pid][0]
            found.append(pid)
        return found

    return [pid for pid, (_, args) in rows.items() if args.startswith("ray::Rank") and os.getpid() in ancestors(pid)]


def test_two_processes_reach_what_one_reaches_and_a_lost_one_costs_an_attempt(tmp_path: Path) -> None:
    alone = study_in(tmp_path / "alone", 2)
    run_local(alone, concurrency=1, progress=lambda *told: None, lost=lambda *told: None)
    together = study_in(tmp_path / "together", 2)
    killed: list[int] = []
    lost: list[str] = []
    seen: list[tuple[int, int]] = []

    def progress(number: int, iteration: int, metrics: Any) -> None:
        seen.append((number, iteration))
        if not killed:
            ranks = ranks_of_this_process()
            assert len(ranks) == 2
            killed.append(ranks[1])
            os.kill(killed[0], signal.SIGKILL)

    resources = Resources(workers=2, cpus=1.0)
    run_ray(together, resources=resources, progress=progress, lost=lambda number, why: lost.append(why))

    assert killed, [(t.state, t.reason) for t in together.view().trials]
    one, two = (sorted((t for t in study.view().trials if t.trained), key=lambda t: t.id) for study in (alone, together))
    assert [t.state for t in two] == ["complete", "complete"]
    assert [t.id for t in one] == [t.id for t in two]
    for a, b in zip(one, two, strict=True):
        assert b.metrics["miou"] == pytest.approx(a.metrics["miou"], abs=0.05)
        assert b.iterations == 3
    assert any(iteration >= 1 for _, iteration in seen)
    assert not ranks_of_this_process()


def test_bundles() -> None:
    from ray import tune  # noqa: PLC0415  # after Ray's switches

    def of(**given: Any) -> list[dict[str, float]]:
        return list(bundles(tune, Resources(**given)).bundles)

    assert of(cpus=2) == [{"CPU": 2}]
    assert of(cpus=1, gpus=0.25) == [{"CPU": 1, "GPU": 0.25}]
    # The trial's actor itself needs nothing.
    assert of(cpus=2, gpus=2)[-2:] == [{"CPU": 1, "GPU": 1}] * 2
    assert of(cpus=1, workers=2)[-2:] == [{"CPU": 0.5}] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, r"--workers-per-trial: must be a whole number from 1 \(given 0\); nearest legal: 1"),
        ({"workers": 2, "executor": "local"}, r"several processes a trial need --executor ray \(given 2\); nearest legal: 1"),
        ({"gpus": 2.0, "workers": 1}, r"2 GPUs a trial want 2 \(given 1\); nearest legal: 2"),
        ({"gpus": 0.5, "workers": 2}, r"0\.5 GPUs a trial want 1 \(given 2\); nearest legal: 1"),
        ({"gpus": 1.5}, r"--gpus-per-trial: is a share of one GPU, or a whole number of them \(given 1\.5\); nearest legal: 2"),
    ],
)
def test_resources_that_contradict_themselves(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Resources(**given)


def test_processes_of_a_trial() -> None:
    assert [Resources(**given).processes for given in ({}, {"gpus": 0.5}, {"gpus": 1}, {"gpus": 4}, {"workers": 3})] == [1, 1, 1, 4, 3]


def test_what_cannot_run_in_several_processes_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def plan(**more: Any) -> Any:
        given: dict[str, Any] = {"data": "synthetic?train=8&val=4&size=64x64", "size": (64, 64), "trials": 1, "out": tmp_path / "out"}
        return make_plan("tiny", **{**given, "backbone": "resnet10t", **more})

    check_processes(plan(), Resources(workers=2))
    check_processes(plan(settings={"batch_size": 3}), Resources())
    with pytest.raises(ConfigError, match=r"batch_size: is split evenly over the 2 processes .* \(given 3\); nearest legal: 4"):
        check_processes(plan(settings={"batch_size": 3}), Resources(workers=2))
    with pytest.raises(ConfigError, match=r"--workers-per-trial: tests\.kits_store:FakeTrainer trains in one process"):
        check_processes(plan(trainer="tests.kits_store:FakeTrainer"), Resources(workers=2))
