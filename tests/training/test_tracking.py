"""Trackers: what TensorBoard, W&B and MLflow wrote is read back; what is missing, what fails later."""

from __future__ import annotations

import csv
import json
import logging
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from kits_trainer import DATA, call

from nasseg.errors import ConfigError
from nasseg.training import tracking
from nasseg.training.config import TrainingConfig
from nasseg.training.tracking import Trackers, check_tracking, shown_as

FACTS: dict[str, Any] = {"trainer": "full", "data": "synthetic", "size": [64, 64], "seed": 3, "settings": {"lr": 0.1, "tracking": ["csv"]}}


class Broken:
    """A tracker of which one step fails."""

    def __init__(self, at: str) -> None:
        self.at = at

    def act(self, step: str) -> None:
        if step == self.at:
            raise OSError("no room left\nand more")

    def begin(self, folder: Path, facts: Any, first: int) -> Broken:
        self.act("begin")
        return self

    def write(self, iteration: int, metrics: Any) -> None:
        self.act("write")

    def close(self, failed: bool) -> None:
        self.act("close")


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


def wandb_records(folder: Path) -> list[list[Any]]:
    """The records of each offline file of W&B, oldest first: a LevelDB log of protocol buffers, as ``wandb sync`` reads it."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb is not installed")
    attempts = []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        content, at, records, whole = file.read_bytes(), 7, [], b""
        while at + 7 <= len(content):
            room = 32768 - at % 32768
            if room < 7:
                at += room
                continue
            _, length, part = struct.unpack_from("<IHB", content, at)
            whole += content[at + 7 : at + 7 + length]
            at += 7 + length
            # 1: whole, 2: first, 3: middle, 4: last part of a record.
            if part in (1, 4):
                records.append(internal.Record.FromString(whole))
                whole = b""
        attempts.append(records)
    return attempts


def test_wandb_stays_offline_unless_the_environment_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    modes: list[str] = []
    monkeypatch.setattr(wandb, "init", lambda **options: modes.append(options["mode"]))
    for mode in (None, "online"):
        if mode is not None:
            monkeypatch.setenv("WANDB_MODE", mode)
        tracking.WandB(tmp_path, FACTS, 1)
    assert modes == ["offline", "online"]


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


@pytest.mark.parametrize("at", ["begin", "write", "close"])
def test_what_fails_later_is_said_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    monkeypatch.setitem(cast(dict[str, Any], tracking.KINDS), "wandb", Broken(at).begin)
    with caplog.at_level(logging.WARNING):
        trackers = run(["wandb"], tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["tracking with wandb stopped, the run goes on (OSError: no room left)"]
    assert trackers.open is None


def test_nothing_is_made_before_the_first_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], tracking.KINDS), "wandb", Broken("begin").begin)
    with Trackers(["wandb", "csv"], tmp_path, FACTS) as trackers:
        assert trackers.open is None


TRAIN = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64"]
SHORT = ["--set", "trainer.iterations=2", "--set", "trainer.batch_size=2", "--set", "trainer.warmup=0.0", "--set", "trainer.ema=0.0"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.usefixtures("offline")
def test_a_run_writes_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All trackers as they are installed: what they wrote is read back. Then a failed attempt at the same run."""
    for package in ("tensorboard", "wandb", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from mlflow import MlflowClient  # noqa: PLC0415  # optional

    out = tmp_path / "run"
    asked = ["--set", "trainer.tracking=[csv, tensorboard, wandb, mlflow]"]
    code, _, err = call([*TRAIN, *SHORT, *asked, "--out", str(out)], capsys)
    assert (code, err) == (0, ""), err
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    losses = [(int(row["iteration"]), float(row["loss"])) for row in rows]
    assert [step for step, _ in losses] == [1, 2]
    rounded = [(step, pytest.approx(loss, rel=1e-5)) for step, loss in losses]

    found = scalars(out)
    assert found["train/loss"] == rounded
    assert [step for step, _ in found["val/miou"]] == [2]

    (records,) = wandb_records(out)
    history = [
        (record.history.step.num, {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(step, row["train/loss"]) for step, row in history] == rounded
    assert ["val/miou" in row for _, row in history] == [False, True]
    began = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (began.project, began.display_name) == ("nasseg", "run")
    config = {update.key: json.loads(update.value_json) for update in began.config.update}
    assert config["settings"]["iterations"] == 2
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]

    client = MlflowClient((out / "mlruns").as_uri())
    (stored,) = client.search_runs([client.get_experiment_by_name("nasseg").experiment_id])
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "run")
    assert {name: stored.data.params[name] for name in ("trainer", "size", "iterations")} == {
        "trainer": "full",
        "size": "[64, 64]",
        "iterations": "2",
    }
    assert [(metric.step, metric.value) for metric in client.get_metric_history(stored.info.run_id, "train/loss")] == rounded

    elsewhere = (tmp_path / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    run(["wandb", "mlflow"], out, failed=True)
    again = wandb_records(out)[1]
    assert next(record.run.run_id for record in again if record.WhichOneof("record_type") == "run") == began.run_id
    assert [record.exit.exit_code for record in again if record.WhichOneof("record_type") == "exit"] == [1]
    client = MlflowClient(elsewhere)
    (stored,) = client.search_runs([client.get_experiment_by_name("nasseg").experiment_id])
    assert (stored.info.status, stored.data.metrics["holdout/miou"]) == ("FAILED", 30.0)


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
