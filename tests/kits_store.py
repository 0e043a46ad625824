"""What the search's tests share: a small space, a cost by hand, a trainer that trains nothing and writes down that it ran."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.search.candidate import Recipe
from nasseg.search.proposer import Proposer
from nasseg.search.study import Study
from nasseg.search.view import Event
from nasseg.training.config import TrainingConfig
from nasseg.training.trial import Report, Result, Trial

WIDTHS = (32, 64, 96, 128)
LPMS = ("none", "plain", "se")
FFNS = (0, 1, 2, 4)


def fake_space(*, lr: bool = False, presets: tuple[str, ...] = (), objectives: Mapping[str, str] | None = None, **genes: Any) -> Space:
    """48 genotypes: 4 fusion widths × 3 LPMs × 4 FFN ratios; with ``lr`` a learning rate beside them; ``genes`` replace."""
    given: dict[str, Any] = {
        "backbone": "mit_b0",
        "fusion_width": {"choices": list(WIDTHS)},
        "lpm": {"choices": list(LPMS), "tie": "all"},
        "ffn": {"choices": list(FFNS), "tie": "all"},
        **({"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}} if lr else {}),
        **genes,
    }
    raw = {"name": "fake", "genes": given, "objectives": dict(objectives or {"miou": "max", "macs": "min"}), "presets": list(presets)}
    return Space.from_dict(raw)


def fake_cost(genotype: Genotype) -> dict[str, float]:
    """macs = 1e6 · width · (1 + ffn), params = 1e4 · width: by hand, so that a test can say which fit."""
    stage = genotype.stages[3]
    assert stage is not None
    macs = 1e6 * genotype.fusion_width * (1 + stage.ffn)
    params = 1e4 * genotype.fusion_width
    return {"macs": macs, "params": params, "macs_fvcore": macs, "decoder_params": params, "decoder_macs": macs}


def fake_miou(genotype: Genotype) -> float:
    """Between 0 and 100, better with width, FFN and a long LPM name."""
    stage = genotype.stages[3]
    assert stage is not None
    return 20 + genotype.fusion_width / 4 + 5 * stage.ffn + 3 * len(stage.lpm)


class FakeConfig(TrainingConfig):
    """Adds what the tests steer the fake trainer by."""

    sleep: float = 0.0
    steps: int = 3
    diary: str = ""
    crash: str = ""
    warn: str = ""


class FakeTrainer:
    """Trains nothing: ``steps`` steps, a checkpoint after each, goes on from ``trial.parent``. Every step is a line of ``diary``.

    ``warn``: a warning that each run logs.
    ``crash``: ``raise``, ``nan``, ``exit`` (the process ends), or ``missing`` (no mIoU), for genotypes whose FFN ratio is 0;
    ``exit_once`` (in the first attempt, at the second step) for those of them without LPM.
    """

    Config = FakeConfig

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.config = FakeConfig.parse(settings)

    def run(self, trial: Trial, report: Report) -> Result:
        config = self.config
        first = 0
        if trial.parent is not None:
            with zipfile.ZipFile(trial.parent) as archive:
                first = int(archive.read("step"))
        assert trial.workdir is not None
        if config.warn:
            logging.getLogger("nasseg.fake").warning(config.warn)
        own = Path(trial.workdir)
        for step in range(first, config.steps):
            time.sleep(config.sleep)
            self._write(config.diary, {"trial": own.parent.name, "attempt": own.name, "id": trial.genotype.id, "step": step})
            stage = trial.genotype.stages[3]
            if config.crash == "exit_once":
                if stage is not None and stage.ffn == 0 and stage.lpm == "none" and own.name == "attempt-1" and step == 1:
                    os._exit(9)
            elif config.crash and stage is not None and stage.ffn == 0:
                if config.crash == "exit":
                    os._exit(9)
                if config.crash == "raise":
                    raise RuntimeError("no luck")
                return Result(status=Result.COMPLETE, metrics={"miou": float("nan")} if config.crash == "nan" else {"aacc": 1.0})
            (own / "checkpoints").mkdir(exist_ok=True)
            temporary = own / "checkpoints" / "last.part"
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr("step", str(step + 1))
            os.replace(temporary, own / "checkpoints" / "last.pt")
            if report(step + 1, {"loss": 1.0 / (step + 1)}):
                break
        weights = own / "model.safetensors"
        weights.write_text(f"weights of {trial.genotype.id}", encoding="utf-8")
        self._write(config.diary, {"trial": own.parent.name, "attempt": own.name, "id": trial.genotype.id, "step": "end"})
        return Result(
            status=Result.COMPLETE,
            metrics={"miou": fake_miou(trial.genotype), "aacc": 90.0},
            per_class={"road": 80.0},
            protocol={"split": "val"},
            iterations=config.steps,
            seconds=0.5,
            checkpoint=str(weights),
        )

    @staticmethod
    def _write(diary: str, entry: Mapping[str, Any]) -> None:
        if diary:
            with open(diary, "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(entry)) + "\n")


class OddTrainer:
    """Returns, reports or raises what no recipe should: which of :data:`ODD` goes by the fusion's width and the LPM of the network."""

    Config = TrainingConfig

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def run(self, trial: Trial, report: Report) -> Any:
        kind = odd_kind(trial.genotype)
        report(1, {"loss": np.float32(0.5), "phase": "warm-up"} if kind == "report" else {"loss": np.float32(0.5)})  # type: ignore[dict-item]
        match kind:
            case "none" | "report":
                return None
            case "mapping":
                return {"miou": 50.0}
            case "status":
                return Result(status="done", metrics={"miou": 50.0})
            case "exit":
                sys.exit(3)
            case "leave":
                os._exit(7)
            case "raise":
                raise ZeroDivisionError("no pixels")
        return Result(
            status=Result.COMPLETE,
            metrics={"miou": given() if callable(given := ODD[kind][0]) else given},
            per_class={"road": np.float64(70.0)},
            protocol={"size": np.int64(64), "folder": Path("here"), "stamp": object},
            iterations=np.int64(3),  # type: ignore[arg-type]
        )


def tensor(values: float | list[float]) -> Any:
    """A tensor of torch, which most workers of the tests need not load."""
    import torch  # noqa: PLC0415

    return torch.tensor(values)


ODD: dict[str, tuple[Any, str | float]] = {
    "numpy": (np.float32(41.5), 41.5),
    "array": (np.array(42.5), 42.5),
    "torch": (lambda: tensor(43.5), 43.5),
    "whole": (np.int64(44), 44.0),
    "text": ("45.5", "the recipe's metric miou is '45.5', not a number"),
    "truth": (True, "the recipe's metric miou is True, not a number"),
    "several": (lambda: tensor([1.0, 2.0]), "the recipe's metric miou is tensor([1., 2.]), not a number"),
    "nan": (np.float64("nan"), "miou is nan"),
    "none": (None, "the recipe returned nothing (None), not a Result"),
    "mapping": (None, "the recipe returned a dict, not a Result"),
    "status": (None, "the recipe's status is 'done', neither 'complete' nor 'failed'"),
    "exit": (None, "the recipe ended with exit(3)"),
    "raise": (None, "ZeroDivisionError: no pixels"),
    "report": (None, "the recipe's metric phase is 'warm-up', not a number"),
    "leave": (None, "its worker was lost 2 times"),
}
"""What :class:`OddTrainer` gives as mIoU, and what becomes of the trial: its mIoU, or how its reason begins."""


def odd_space(kinds: int) -> Space:
    """One network for each of the first so many of :data:`ODD`."""
    return fake_space(fusion_width={"choices": [16 * (1 + k) for k in range(kinds)]}, lpm="none", ffn=0, objectives={"miou": "max"})


def odd_kind(genotype: Genotype) -> str:
    """Which of :data:`ODD` a network stands for."""
    return list(ODD)[genotype.fusion_width // 16 - 1]


def check_odd(study: Study, kinds: int) -> None:
    """Every odd network was tried, and each became what :data:`ODD` says; the journal can be opened again."""
    trained = [trial for trial in study.view().trials if trial.trained]
    found = {odd_kind(Genotype.from_dict(trial.genotype)): trial for trial in trained}
    assert len(found) == kinds
    # A network whose worker was lost has no result: it may have been proposed again before the space was used up.
    lost = [trial for trial in trained if "worker was lost" in (trial.reason or "")]
    assert study.trained == kinds + max(0, len(lost) - 1)
    for kind, trial in found.items():
        meant = ODD[kind][1]
        if isinstance(meant, float):
            assert (trial.state, trial.values, trial.metrics["miou"], trial.iterations) == ("complete", (meant,), meant, 3)
            assert trial.per_class == {"road": 70.0}
            assert trial.protocol == {"size": 64, "folder": "here", "stamp": "<class 'object'>"}
        else:
            assert trial.state == "failed"
            assert (trial.reason or "").startswith(meant), kind
    study.close()
    again, _ = make_study(study.folder, space=odd_space(kinds), trials=kinds, recipe=study.recipe)
    # Only what was lost is tried again.
    assert (again.propose() is not None) == bool(lost)
    assert again.trained == kinds - bool(lost)
    again.close()


def diary_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a fake trainer's diary."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def make_study(folder: Path, *, space: Any = None, budget: str = "", trials: int = 8, **more: Any) -> tuple[Study, list[Event]]:
    """A study over the fake space, and the list its events go to."""
    events: list[Event] = []
    recipe = more.pop("recipe", Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:FakeTrainer"))
    made = Study(
        folder,
        proposer=Proposer(space or fake_space(), Budget.parse(budget), more.pop("cost", fake_cost), more.pop("defaults", None)),
        recipe=recipe,
        trials=trials,
        listener=events.append,
        **more,
    )
    return made, events


def complete(genotype: Genotype) -> Result:
    """What the fake trainer would say of a genotype."""
    return Result(status=Result.COMPLETE, metrics={"miou": fake_miou(genotype)})


def drive(study: Study, result: Callable[[Genotype], Result] = complete, at_most: int = 1000) -> list[int]:
    """Run a study by hand, one trial at a time; the numbers handed out."""
    numbers: list[int] = []
    while len(numbers) < at_most and (proposal := study.propose()) is not None:
        numbers.append(proposal.number)
        study.tell(proposal.number, result(proposal.trial.genotype))
    return numbers
