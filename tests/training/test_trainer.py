"""Recipes by name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from kits_trainer import tiny_trial

from nasseg.errors import ConfigError
from nasseg.metric import METRICS, Metric
from nasseg.trainers.proxy import Proxy
from nasseg.training.config import TrainingConfig
from nasseg.training.trainer import Recipe, load_trainer, metrics_of, trainer_names


def test_names_are_the_modules_of_the_package() -> None:
    folder = Path(__file__).resolve().parents[2] / "trainers"
    assert trainer_names() == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    for name in trainer_names():
        assert issubclass(load_trainer(name).Config, TrainingConfig)


def test_by_name_and_by_class() -> None:
    assert load_trainer("proxy") is load_trainer("nasseg.trainers.proxy:Proxy") is Proxy


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_recipes")
    monkeypatch.setitem(sys.modules, "own_recipes", module)
    return module


def test_a_class_of_ones_own(own: ModuleType) -> None:
    class Mine:
        Config = TrainingConfig

        def run(self) -> None: ...

    own.Mine = Mine  # type: ignore[attr-defined]
    assert load_trainer("own_recipes:Mine") is Mine


def test_what_a_class_declares(own: ModuleType) -> None:
    class Plain:
        """Declares nothing: what a recipe reports."""

    class Mine(Recipe):
        metrics = (*Recipe.metrics, Metric("f1"))

    assert metrics_of(Plain) == Recipe.metrics == METRICS
    assert [metric.name for metric in metrics_of(Mine)][-1] == "f1"
    Mine.metrics = ("f1",)  # type: ignore[assignment]
    with pytest.raises(
        ConfigError, match=r"trainer Mine: metrics: holds nasseg\.metric\.Metric, .* .given 'f1'.; nearest legal: Metric.'f1'."
    ):
        metrics_of(Mine)
    Mine.metrics = (*METRICS, Metric("miou"))
    with pytest.raises(ConfigError, match=r"trainer Mine: metrics: declares a metric twice .given 'miou'."):
        metrics_of(Mine)


CASES = [
    ("prox", r"no such recipe; there are full, proxy, or my\.module:Class .given 'prox'.; nearest legal: proxy"),
    ("no_such_module_of_mine:Class", r"no module 'no_such_module_of_mine' can be imported"),
    ("nasseg.nothing:Class", r"no module 'nasseg\.nothing' can be imported"),
    (":Class", r"wants a recipe's name or my\.module:Class"),
    ("nasseg.trainers.proxy:Proxi", r"module nasseg\.trainers\.proxy has no class Proxi .*; nearest legal: Proxy"),
    ("nasseg.trainers.proxy:", r"module nasseg\.trainers\.proxy has no class .none named."),
    ("nasseg.training.trial:Trial", r"a trainer has run.trial, report. and a class attribute Config, a TrainingConfig"),
]


@pytest.mark.parametrize(("name", "sentence"), CASES)
def test_names_that_lead_nowhere(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_trainer(name)


def test_a_module_that_lacks_one_of_its_own_imports_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load_trainer("needs_more:Class")


def test_a_recipe_without_run_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Recipe has no run.trial, report."):
        Recipe().run(tiny_trial(), lambda iteration, metrics: False)
