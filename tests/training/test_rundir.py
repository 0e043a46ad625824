"""A run's folder: written whole, refused to strangers, gone on with after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import DATA, TINY, Told, tiny_trial

from nasseg.errors import BundleError, ConfigError, DataError, StudyError, WeightsError
from nasseg.files import dump_yaml, read_yaml
from nasseg.genes.genotype import Genotype
from nasseg.training.curves import read_log
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Result, Trial

SETTINGS = {"iterations": 3, "batch_size": 2, "threads": 1, "device": "cpu"}


def trial(**changes: Any) -> Trial:
    settings = {**SETTINGS, **changes.pop("settings", {})}
    return tiny_trial(trainer="full", settings=settings, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations, whole."""
    path = tmp_path_factory.mktemp("runs") / "Y"
    result = RunDir.create(path, trial()).run(Told())
    assert result.status == Result.COMPLETE
    return path


def test_files(finished: Path) -> None:
    assert sorted(str(path.relative_to(finished)) for path in finished.rglob("*")) == [
        "checkpoints",
        "checkpoints/last.pt",
        "curves.png",
        "genotype.yaml",
        "log.csv",
        "metrics.json",
        "model.safetensors",
        "run.yaml",
    ]
    assert [path.name for path in finished.parent.iterdir()] == ["Y"]


def test_run_yaml(finished: Path) -> None:
    facts = read_yaml(finished / "run.yaml")
    assert list(facts) == [
        *("format", "trainer", "settings", "class_weights", "data", "data_fingerprint", "splits", "classes", "palette", "size"),
        *("in_chans", "mean", "std", "seed", "weights", "pretrained", "environment"),
    ]
    assert (facts["format"], facts["trainer"], facts["data"], facts["size"], facts["seed"]) == (1, "full", DATA, [64, 64], 0)
    assert (facts["splits"], len(facts["classes"]), len(facts["palette"])) == ({"train": 8, "val": 4}, 11, 11)
    assert (facts["settings"]["iterations"], facts["settings"]["lr"]) == (3, 6e-4)
    assert facts["settings"]["class_weights"] == "auto"
    assert facts["class_weights"]["rule"] == "sqrt_median_frequency"
    weights = facts["class_weights"]["weights"]
    assert list(weights) == facts["classes"]
    assert max(weights, key=weights.get) == "sign"
    assert weights["road"] < 1 < weights["sign"]
    assert Genotype.load(finished / "genotype.yaml") == TINY


def test_without_weights_none_are_written_down(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "Y", trial(settings={"class_weights": "none"}))
    assert "class_weights" not in run.facts


def test_reading(finished: Path) -> None:
    run = RunDir.open(finished)
    assert (run.size, run.classes[0], run.trial().settings["iterations"]) == ((64, 64), "road", 3)
    assert run.metrics["iteration"] == 3
    assert run.metrics["metrics"]["miou"] == read_log(finished / "log.csv")[-1]["miou"]
    model = run.load_model()
    assert not model.training
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 11, 8, 8)


def test_again_without_resume_is_refused_with_the_hint(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(StudyError, match="holds this run already; add --resume"):
        RunDir.create(finished, trial())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_resuming_a_finished_run_gives_its_result(finished: Path) -> None:
    told = Told()
    result = RunDir.create(finished, trial(), resume=True).run(told)
    assert told.told == []
    assert (result.status, result.iterations) == (Result.COMPLETE, 3)
    assert result.metrics == RunDir.open(finished).metrics["metrics"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 4}, "seed 0 there, 4 here"),
        ({"size": (32, 32)}, r"size \[64, 64\] there, \[32, 32\] here"),
        ({"settings": {"lr": 0.1}}, r"trainer\.lr 0\.0006 there, 0\.1 here"),
        ({"genotype": TINY.override({"lpm": "none"})}, r"stage4\.lpm se there, none here"),
        ({"data": "synthetic?train=8&val=4&size=64x64&seed=3"}, "data_fingerprint"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_is_refused_saying_what_differs(finished: Path, changes: dict[str, Any], sentence: str, resume: bool) -> None:
    with pytest.raises(StudyError, match=f"holds another run: .*{sentence}"):
        RunDir.create(finished, trial(**changes), resume=resume)


def test_operational_settings_may_differ(finished: Path) -> None:
    run = RunDir.create(finished, trial(settings={"cache": True, "checkpoint_every": 7}), resume=True)
    assert run.trial().settings["cache"] is True


def test_a_strangers_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(StudyError, match="holds something that is not a training run"):
        RunDir.create(tmp_path, trial(), resume=True)
    with pytest.raises(StudyError, match="holds something that is not a training run"):
        RunDir.create(tmp_path / "photo.png", trial())
    with pytest.raises(StudyError, match=r"photo\.png.below: cannot be written"):
        RunDir.create(tmp_path / "photo.png" / "below", trial())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "Y").mkdir()
    RunDir.create(tmp_path / "Y", trial(), resume=True)
    assert sorted(path.name for path in (tmp_path / "Y").iterdir()) == ["genotype.yaml", "run.yaml"]


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"settings": {"lr": -1}}, ConfigError, "trainer full: lr: must be a number above 0"),
        ({"data": "synthetic:roads"}, DataError, "no built-in scenes named 'roads'"),
        ({"genotype": TINY.on(None)}, ConfigError, "the genotype names no backbone"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, changes: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        RunDir.create(tmp_path / "Y", trial(**changes))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_read_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    run = RunDir.create(tmp_path / "Y", trial(weights=str(tmp_path / "w.safetensors")))
    with pytest.raises(WeightsError, match=r"w\.safetensors: not readable as safetensors"):
        run.run(Told())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors"]


def test_an_error_on_the_way_leaves_what_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path / "Y", trial())
    run.run(Told(stop_at=1))

    def torn(*arguments: Any, **options: Any) -> Any:
        raise DataError("img.png: truncated")

    with monkeypatch.context() as patched:
        patched.setattr("nasseg.training.job.train_batches", torn)
        with pytest.raises(DataError, match="truncated"):
            run.run(Told())
    assert run.run(Told()).iterations == 3


def test_unreadable_runs(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        RunDir.open(tmp_path / "none")
    with pytest.raises(BundleError, match="not a folder; a run is one"):
        RunDir.open(finished / "run.yaml")
    with pytest.raises(BundleError, match=r"not a training run: run\.yaml and genotype\.yaml missing"):
        RunDir.open(tmp_path)
    TINY.save(tmp_path / "genotype.yaml")
    facts = read_yaml(finished / "run.yaml")
    for text, sentence in (
        ("{torn", "not readable as YAML"),
        ("[1, 2]", "not the description of a training run"),
        (dump_yaml({**facts, "format": 2}), r"written by a newer nasseg .format 2; this one reads 1."),
        (dump_yaml({k: v for k, v in facts.items() if k not in ("mean", "size")}), "size, mean missing"),
    ):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(BundleError, match=sentence):
            RunDir.open(tmp_path)


def test_runs_without_weights_yet(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "Y", trial())
    result = run.run(Told(stop_at=1))
    assert (result.metrics, result.checkpoint) == ({}, None)
    with pytest.raises(BundleError, match=r"no model\.safetensors yet: this run has not come to its first validation"):
        run.load_model()
    with pytest.raises(BundleError, match=r"no metrics\.json yet"):
        _ = run.metrics
    (tmp_path / "Y" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BundleError, match=r"not the weights of genotype\.yaml beside it"):
        run.load_model()


def test_a_failed_run_says_so_and_keeps_its_log(tmp_path: Path) -> None:
    result = RunDir.create(tmp_path / "Y", trial(settings={"lr": 1e9, "warmup": 0.0, "clip": 0.0, "iterations": 9})).run(Told())
    assert result.status == Result.FAILED
    assert len(read_log(tmp_path / "Y" / "log.csv")) == result.iterations


def test_columns_follow_the_splits(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "Y", trial())
    facts = {**run.facts, "splits": {"train": 1, "val": 1, "holdout": 1, "test": 1}}
    assert dataclasses.replace(run, facts=facts)._tails() == ["", "_holdout"]
    asked = {**facts, "settings": {**facts["settings"], "test": True}}
    assert dataclasses.replace(run, facts=asked)._tails() == ["", "_holdout", "_test"]


def test_metrics_that_are_asked_for_have_columns(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "Y", trial(settings={"metrics": ["iou[road, sky]"]}))
    result = run.run(Told())
    value = result.metrics["iou[road,sky]"]
    assert read_log(run.path / "log.csv")[-1]["iou[road,sky]"] == run.metrics["metrics"]["iou[road,sky]"] == value
    with pytest.raises(ConfigError, match=r"trainer full: metrics: no class raod"):
        RunDir.create(tmp_path / "Z", trial(settings={"metrics": ["iou[raod]"]}))
    assert not (tmp_path / "Z").exists()


def test_killed_and_gone_on_with_is_the_same_run_bit_for_bit(tmp_path: Path) -> None:
    """20 iterations straight = 10 + SIGKILL + 10, with dropout, drop path, EMA and validations on the way."""
    settings = {
        "iterations": 20,
        "batch_size": 2,
        "dropout": 0.3,
        "drop_path": 0.3,
        "ema": 0.9,
        "val_every": 6,
        "checkpoint_every": 5,
    }
    straight = RunDir.create(tmp_path / "straight", trial(settings=settings))
    whole = straight.run(Told())
    killed = RunDir.create(tmp_path / "killed", trial(settings=settings))
    script = (
        "import sys\n"
        "from nasseg.training.rundir import RunDir\n"
        "def report(iteration, metrics):\n"
        "    print(iteration, flush=True)\n"
        "    if iteration == 12:\n"
        "        sys.stdin.read()\n"
        "    return False\n"
        "RunDir.open(sys.argv[1]).run(report)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(killed.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "12":
            break
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert len(read_log(killed.path / "log.csv")) == 12
    told = Told()
    resumed = RunDir.create(killed.path, trial(settings=settings), resume=True).run(told)
    # The last checkpoint is iteration 10's: 11 and 12 are done again.
    assert [iteration for iteration, _ in told.told] == list(range(11, 21))
    timed = ("seconds", "images_per_second")
    columns = [[{k: v for k, v in row.items() if k not in timed} for row in read_log(run.path / "log.csv")] for run in (straight, killed)]
    assert columns[0] == columns[1]
    assert len(columns[0]) == 20
    assert resumed.metrics == whole.metrics
    assert (killed.path / "model.safetensors").read_bytes() == (straight.path / "model.safetensors").read_bytes()
    assert (killed.path / "metrics.json").read_bytes() == (straight.path / "metrics.json").read_bytes()
