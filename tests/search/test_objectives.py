"""Objectives: a cost, or a metric that the recipe declares; one rule for Python, space files and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import nasseg
from nasseg.cli.main import run
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError
from nasseg.files import dump_yaml, read_yaml
from nasseg.metric import METRICS, Metric
from nasseg.search.objectives import check_objectives, parse_objectives
from nasseg.search.store import read_study
from nasseg.training.config import TrainingConfig
from nasseg.training.trial import Report, Result, Trial
from tests.kits_store import FakeTrainer, fake_space

DATA = "synthetic?train=2&val=1&size=64x96"
ME = "tests.search.test_objectives:Mine"


class MineConfig(TrainingConfig):
    diary: str = ""


class Mine:
    """A recipe with metrics of its own: blob_recall, the higher the better, and calibration error, the lower."""

    Config = MineConfig
    metrics: ClassVar = (Metric("blob_recall"), Metric("error", direction="min", unit=""))

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.config = MineConfig.parse(settings)

    def run(self, trial: Trial, report: Report) -> Result:
        with open(self.config.diary, "a", encoding="utf-8") as file:
            file.write(f"{trial.genotype.id}\n")
        width = trial.genotype.fusion_width
        return Result(status=Result.COMPLETE, metrics={"blob_recall": width / 2, "error": 1.0 / width})


class Undeclared(FakeTrainer):
    """Declares nothing, so it is taken to report what nasseg's recipes do."""


def checked(names: Any, trainer: Any = FakeTrainer, **more: Any) -> Any:
    given = {"test": False, "where": "objective", **more}
    return check_objectives(names, trainer, trainer.__name__, open_data(DATA), **given)


def test_costs_and_declared_metrics() -> None:
    assert checked(["miou", "macs"]).directions == {"miou": "max", "macs": "min"}
    assert checked({"macs_fvcore": None, "worst_iou": "max"}).directions == {"macs_fvcore": "min", "worst_iou": "max"}
    assert checked(["error", "blob_recall", "params"], Mine).directions == {"error": "min", "blob_recall": "max", "params": "min"}
    found = checked(["miou", 'iou[road, "sky"]', "boundary_iou", "macs"], Undeclared)
    assert list(found.directions) == ["miou", "iou[road,sky]", "boundary_iou", "macs"]
    assert found.metrics == ("iou[road,sky]", "boundary_iou")


@pytest.mark.parametrize(
    ("names", "trainer", "said"),
    [
        (
            ["mious"],
            FakeTrainer,
            f"objective: mious: FakeTrainer declares no such metric ({', '.join(m.name for m in METRICS)}), and it is no cost "
            "(params, macs, macs_fvcore, decoder_params, decoder_macs); nearest legal: miou",
        ),
        (
            ["miou"],
            Mine,
            "objective: miou: Mine declares no such metric (blob_recall, error), and it is no cost "
            "(params, macs, macs_fvcore, decoder_params, decoder_macs)",
        ),
        (["mac"], Mine, "decoder_macs); nearest legal: macs"),
        (["iou"], FakeTrainer, "objective: iou: names its classes in brackets: iou[CLASS,…]; nearest legal: iou["),
        (["iou[rod]"], FakeTrainer, "objective: iou[rod]: no class rod; the data has "),
        (["miou_holdout"], FakeTrainer, "objective: miou_holdout: no split holdout is measured; there are val, which is not named"),
        ({"macs": "max"}, FakeTrainer, "objective: macs: must be min: it is a cost (given 'max'); nearest legal: min"),
        ({"error": "max"}, Mine, "objective: error: must be min, as Mine declares it (given 'max'); nearest legal: min"),
        ({"miou": "up"}, FakeTrainer, "objective: miou: must be max, as FakeTrainer declares it (given 'up'); nearest legal: max"),
        (["iou[road,sky]", "iou[road, sky]"], FakeTrainer, "objective: iou[road, sky]: is given twice"),
        ([], FakeTrainer, "objective: names one objective or several, such as miou and macs (given [])"),
        ([3], FakeTrainer, "objective: names one objective or several, such as miou and macs (given [3])"),
    ],
)
def test_refused(names: Any, trainer: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(names, trainer)
    assert said in str(caught.value)


def test_everything_wrong_comes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        checked({"mious": None, "macs": "max", "iou[rod]": None})
    assert [problem.key for problem in caught.value.problems] == ["mious", "macs", "iou[rod]"]


def test_as_the_command_line_takes_them() -> None:
    assert parse_objectives(["miou", "macs=min", "iou[a=b,c]=max"]) == {"miou": None, "macs": "min", "iou[a=b,c]": "max"}
    assert parse_objectives(["miou=up"]) == {"miou=up": None}
    with pytest.raises(ConfigError, match="--objective: is given twice"):
        parse_objectives(["macs", "macs=min"])


def given_by(door: str, folder: Path, objectives: Mapping[str, str], trainer: str) -> None:
    """Start a search by Python, by a space file or by the command line."""
    diary, out = folder / "diary", folder / "out"
    diary.touch()
    raw = {**fake_space(lpm="none", ffn=0).to_dict(), "objectives": dict(objectives)}
    if door == "python":
        space = fake_space(lpm="none", ffn=0)
        nasseg.search(  # type: ignore[operator]
            space, data=DATA, size=(64, 96), trials=3, out=out, trainer=trainer, executor="local", settings={"diary": str(diary)},
            objectives=objectives,
        )  # fmt: skip
        return
    file = folder / "space.yaml"
    file.write_text(dump_yaml(raw if door == "file" else {**raw, "objectives": {"miou": "max"}}))
    more = [] if door == "file" else [f"--objective={name}={direction}" for name, direction in objectives.items()]
    own = ["--trainer", trainer, "--executor", "local", "--set", f"trainer.diary={diary}"]
    run(["search", str(file), "--data", DATA, "--size", "64x96", "--trials", "3", "--out", str(out), *own, *more])


DOORS = pytest.mark.parametrize("door", ["python", "file", "line"])


@DOORS
def test_a_recipe_of_ones_own_with_a_metric_of_its_own(tmp_path: Path, door: str, capsys: pytest.CaptureFixture[str]) -> None:
    given_by(door, tmp_path, {"error": "min", "blob_recall": "max", "macs": "min"}, ME)
    view = read_study(tmp_path / "out")
    assert view.objectives == {"error": "min", "blob_recall": "max", "macs": "min"}
    assert view.count("complete") == 3
    best = view.best
    assert best is not None
    assert best.metrics["error"] == min(trial.metrics["error"] for trial in view.trials)
    assert best.values == (best.metrics["error"], best.metrics["blob_recall"], best.cost["macs"])
    capsys.readouterr()
    run(["show", str(tmp_path / "out")])
    assert "blob_recall" in capsys.readouterr().out
    run(["show", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["objectives"] == {"error": "min", "blob_recall": "max", "macs": "min"}


@DOORS
def test_an_unknown_one_is_refused_before_anything_is_trained(tmp_path: Path, door: str, capsys: pytest.CaptureFixture[str]) -> None:
    if door == "python":
        with pytest.raises(ConfigError) as caught:
            given_by(door, tmp_path, {"blob_recal": "max"}, ME)
        said = str(caught.value)
    else:
        with pytest.raises(SystemExit) as stopped:
            given_by(door, tmp_path, {"blob_recal": "max"}, ME)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
    assert f"blob_recal: {ME} declares no such metric (blob_recall, error), and it is no cost" in said
    assert said.rstrip().endswith("nearest legal: blob_recall")
    assert (tmp_path / "diary").read_text() == ""
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_asked_to_measure_the_objectives(tmp_path: Path) -> None:
    """With the real proxy recipe: what an objective names need not be named again in the recipe's settings."""
    view = nasseg.search(  # type: ignore[operator]
        "tiny", data=DATA, size=(64, 96), backbone="mit_b0", trials=1, out=tmp_path / "out", executor="local",
        settings={"iterations": 1, "metrics": ["worst_iou"]}, objectives=["iou[road,sky]", "macs"],
    )  # fmt: skip
    assert view.objectives == {"iou[road,sky]": "max", "macs": "min"}
    assert view.count("complete") == 1
    assert read_yaml(tmp_path / "out" / "study.yaml")["settings"]["metrics"] == ["worst_iou", "iou[road,sky]"]
    assert set(view.trials[0].metrics) == {"miou", "macc", "aacc", "worst_iou", "iou[road,sky]"}
