from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kits_cli import parsed

from nasseg.report.next_steps import after_export, after_search, after_training, duration, images_per_second, recipe_for, training_cost
from nasseg.search.view import StudyView, TrialView
from nasseg.training.trainer import load_trainer

CONFIG = {"trainer": "proxy", "settings": {"batch_size": 4}}


def study(path: str = "results/first", config: dict[str, Any] | None = None, **more: Any) -> StudyView:
    trial = TrialView(number=3, state="complete", origin="sampler", values=(50.0,), on_front=True, **more)
    return StudyView(path=Path(path), trials=(trial,), objectives={"miou": "max"}, config=CONFIG if config is None else config)


def best(view: StudyView) -> TrialView:
    assert view.best is not None
    return view.best


def test_after_a_search() -> None:
    # 240 iterations of 4 images in 96 s are 10 images/s; 20,000 iterations of 16 images at that pace are 32,000 s.
    view = study(seconds=96.0, iterations=240)
    full = load_trainer("full").Config()
    assert (full.iterations, full.batch_size, full.accumulation) == (20000, 16, 1)
    assert after_search(view) == [
        "nasseg train results/first:best --trainer full --out runs/first",
        "# 20,000 iterations of 16 images, about 8.9 h at the 10 images/s of trial 3; for a shorter run add --set trainer.iterations=2000",
        "nasseg export runs/first --out bundles/first",
        "# writes ONNX and torch.export files and compares them with the network on validation images: a minute or so",
        "nasseg show results/first",
    ]
    assert after_search(StudyView(path=Path("results/first"), trials=(), objectives={"miou": "max"})) == ["nasseg show results/first"]


def test_what_was_searched_counts() -> None:
    view = study(seconds=10.0, iterations=100, settings={"batch_size": 2, "iterations": 500})
    assert images_per_second(view.config, best(view)) == 20.0
    assert training_cost(view, best(view)) == (
        "500 iterations of 2 images, about 50 s at the 20 images/s of trial 3; for a shorter run add --set trainer.iterations=50"
    )


def test_no_pace_without_a_time() -> None:
    assert training_cost(study(), best(study())) == "20,000 iterations of 16 images; for a shorter run add --set trainer.iterations=2000"
    assert images_per_second({}, best(study(seconds=1.0, iterations=1))) is None


def test_a_setting_that_full_lacks_keeps_the_studys_recipe() -> None:
    view = study(config={"trainer": "tests.kits_store:FakeTrainer", "settings": {}}, settings={"crash": "no"})
    assert recipe_for(view, best(view)) == "tests.kits_store:FakeTrainer"
    assert after_search(view)[0] == "nasseg train results/first:best --trainer tests.kits_store:FakeTrainer --out runs/first"


@pytest.mark.parametrize("name", ["first", "it's mine", "a b", "50%[x]"])
def test_what_is_printed_is_what_the_command_line_reads(name: str) -> None:
    search, training, export = (
        after_search(study(f"results/{name}")),
        after_training(f"runs/{name}"),
        after_export(f"bundles/{name}", "folder:/a b?x=1"),
    )
    commands = [parsed(line) for line in (*search, *training, *export) if not line.startswith("#")]
    assert [verb for verb, _ in commands] == ["train", "export", "show", "export", "eval", "predict"]
    assert commands[0][1]["target"] == f"results/{name}:best"
    assert commands[0][1]["out"] == f"runs/{name}"
    assert commands[1][1] == commands[3][1]
    assert (commands[1][1]["run"], commands[1][1]["out"]) == (f"runs/{name}", f"bundles/{name}")
    assert commands[4][1]["data"] == commands[5][1]["data"] == "folder:/a b?x=1"
    suggested = training_cost(study(), best(study())).rpartition("add ")[2]
    assert parsed(f"{search[0]} {suggested}")[1]["sets"] == ("trainer.iterations=2000",)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "1.5 min"), (5399.0, "90 min"), (5400.0, "1.5 h"), (32000.0, "8.9 h"), (172800.0, "2 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
