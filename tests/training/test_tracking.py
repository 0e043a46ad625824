"""Trackers: TensorBoard's files read back, the others' calls on stand-ins, what is missing, what fails later."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kits_trainer import DATA, call

from nasseg.errors import ConfigError
from nasseg.training import tracking
from nasseg.training.config import TrainingConfig
from nasseg.training.tracking import Trackers, check_tracking, shown_as

FACTS: dict[str, Any] = {"trainer": "full", "data": "synthetic", "size": [64, 64], "seed": 3, "settings": {"lr": 0.1, "tracking": ["csv"]}}


class Calls:
    """Keeps what is called on it."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any, **options: Any) -> None:
            self.made.append((name, arguments, options))

        return called


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    module = ModuleType("wandb")

    def init(**options: Any) -> Calls:
        calls.made.append(("init", (), options))
        return calls

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    module = ModuleType("mlflow")

    class MlflowClient:
        def __init__(self, tracking_uri: str) -> None:
            calls.made.append(("client", (tracking_uri,), {}))

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return f"experiment of {name}"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.made.append(("create_run", (experiment, run_name), {}))
            return SimpleNamespace(info=SimpleNamespace(run_id="7"))

        def __getattr__(self, name: str) -> Any:
            return getattr(calls, name)

    module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return calls


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(tracking, "_installed", lambda package: package not in missing)


def run(names: list[str], folder: Path, *, failed: bool = False) -> Trackers:
    trackers = Trackers(names, folder, FACTS)
    with trackers:
        trackers.write(1, {"loss": 2.0, "lr": 0.1})
        trackers.write(2, {"loss": 1.5, "lr": 0.05, "miou": 40.0, "miou_holdout": 30.0})
        trackers.failed = failed
    return trackers


def test_names() -> None:
    names = ["loss", "lr", "images_per_second", "miou", "aacc", "miou_holdout", "boundary_iou", "boundary_iou_holdout", "iou[crop,a b]"]
    shown = ["train/loss", "train/lr", "train/images_per_second", "val/miou", "val/aacc", "holdout/miou", "val/boundary_iou"]
    assert [shown_as(name) for name in names] == [*shown, "holdout/boundary_iou", "val/iou.crop.a_b"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    events = loading.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_is_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run(["csv", "tensorboard"], tmp_path)
    found = scalars(tmp_path)
    assert sorted(found) == ["holdout/miou", "train/loss", "train/lr", "val/miou"]
    assert found["train/loss"] == [(1, 2.0), (2, 1.5)]
    assert found["val/miou"] == [(2, 40.0)]
    assert found["train/lr"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))]


def test_an_attempt_that_goes_on_hides_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run(["tensorboard"], tmp_path)
    with Trackers(["tensorboard"], tmp_path, FACTS) as again:
        again.write(2, {"loss": 7.0})
    assert scalars(tmp_path)["train/loss"] == [(1, 2.0), (2, 7.0)]


@pytest.mark.parametrize("failed", [False, True])
def test_wandb(wandb: Calls, tmp_path: Path, failed: bool) -> None:
    run(["wandb"], tmp_path, failed=failed)
    (init, _, options), first, second, (end, _, ended) = wandb.made
    given = {key: options[key] for key in ("project", "name", "mode", "resume")}
    assert (init, given) == ("init", {"project": "nasseg", "name": tmp_path.name, "mode": "offline", "resume": "allow"})
    assert (options["config"], options["dir"]) == (FACTS, str(tmp_path))
    assert first == ("log", ({"train/loss": 2.0, "train/lr": 0.1},), {"step": 1})
    assert (second[1][0]["holdout/miou"], second[2]) == (30.0, {"step": 2})
    assert (end, ended) == ("finish", {"exit_code": int(failed)})
    wandb.made.clear()
    run(["wandb"], tmp_path)
    assert wandb.made[0][2]["id"] == options["id"]


def test_wandb_goes_online_only_where_the_environment_says_so(wandb: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    run(["wandb"], tmp_path)
    assert wandb.made[0][2]["mode"] == "online"


def test_mlflow(mlflow: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["mlflow"], tmp_path)
    made = mlflow.made
    assert made[0] == ("client", ((tmp_path / "mlruns").as_uri(),), {})
    assert made[1] == ("create_run", ("experiment of nasseg", tmp_path.name), {})
    assert ("log_param", ("7", "lr", "0.1"), {}) in made
    assert ("log_param", ("7", "size", "[64, 64]"), {}) in made
    assert ("log_metric", ("7", "val/miou", 40.0), {"step": 2}) in made
    assert made[-1] == ("set_terminated", ("7", "FINISHED"), {})
    made.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    run(["mlflow"], tmp_path, failed=True)
    assert made[0] == ("client", ("http://tracking:5000",), {})
    assert made[-1] == ("set_terminated", ("7", "FAILED"), {})


def test_what_is_not_installed_is_said_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "wandb", "mlflow")
    check_tracking(["csv", "tensorboard"])
    with pytest.raises(ConfigError, match=r"needs the package wandb .pip install wandb.") as caught:
        check_tracking(["wandb", "csv", "mlflow"])
    assert str(caught.value).splitlines() == [
        f"trainer: tracking: needs the package {name} (pip install {name}), which is not installed; there are csv, tensorboard "
        f"(given '{name}'); nearest legal: tensorboard"
        for name in ("wandb", "mlflow")
    ]
    without(monkeypatch, "tensorboard", "wandb", "mlflow")
    with pytest.raises(ConfigError, match="nearest legal: csv"):
        check_tracking(["tensorboard"])


@pytest.mark.parametrize("at", ["init", "log", "finish"])
def test_what_fails_later_is_said_once_and_the_run_goes_on(
    wandb: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise OSError("no room left\nand more")

    if at == "init":
        monkeypatch.setattr(sys.modules["wandb"], "init", broken)
    else:
        setattr(wandb, at, broken)
    with caplog.at_level(logging.WARNING):
        trackers = run(["wandb"], tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["tracking with wandb stopped, the run goes on (OSError: no room left)"]
    assert trackers.open is None


def test_nothing_is_made_before_the_first_iteration(wandb: Calls, tmp_path: Path) -> None:
    with Trackers(["wandb", "csv"], tmp_path, FACTS):
        pass
    assert wandb.made == []


TRAIN = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64"]
SHORT = ["--set", "trainer.iterations=2", "--set", "trainer.batch_size=2", "--set", "trainer.warmup=0.0", "--set", "trainer.ema=0.0"]


def test_a_run_writes_where_it_is_asked_to(wandb: Calls, mlflow: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    asked = ["--set", "trainer.tracking=[csv, tensorboard, wandb, mlflow]"]
    code, _, err = call([*TRAIN, *SHORT, *asked, "--out", str(tmp_path / "run")], capsys)
    assert (code, err) == (0, ""), err
    assert (tmp_path / "run" / "log.csv").is_file()
    found = scalars(tmp_path / "run")
    assert [step for step, _ in found["train/loss"]] == [1, 2]
    assert [step for step, _ in found["val/miou"]] == [2]
    assert [name for name, _, _ in wandb.made] == ["init", "log", "log", "finish"]
    assert mlflow.made[-1][1][1] == "FINISHED"


def test_a_missing_package_stops_a_run_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "wandb")
    code, _, err = call([*TRAIN, *SHORT, "--set", "trainer.tracking=[wandb]", "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert "pip install wandb" in err
    assert not (tmp_path / "run").exists()


def test_one_tracker_needs_no_list() -> None:
    assert TrainingConfig.parse({"tracking": "tensorboard"}).tracking == ["tensorboard"]


def test_an_unknown_tracker_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call([*TRAIN, "--set", "trainer.tracking=[tensorbord]", "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert "tracking: must be a list of csv, tensorboard, wandb, mlflow (given 'tensorbord'); nearest legal: tensorboard" in err
