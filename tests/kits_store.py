"""What the search's tests share: a small space, a cost by hand, a trainer that trains nothing and writes down that it ran."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.search.study import Recipe, Study
from nasseg.search.view import Event
from nasseg.training.config import TrainingConfig
from nasseg.training.trial import Report, Result, Trial

WIDTHS = (32, 64, 96, 128)
LPMS = ("none", "plain", "se")
FFNS = (0, 1, 2, 4)


@dataclass(frozen=True)
class FakePoint:
    """As :class:`nasseg.genes.space.Point`."""

    genotype: Genotype
    settings: Mapping[str, Any] = field(default_factory=dict)


class FakeSpace:
    """48 genotypes: 4 fusion widths × 3 LPMs × 4 FFN ratios; with ``lr`` a learning rate beside them."""

    name = "fake"

    def __init__(self, *, lr: bool = False, presets: tuple[str, ...] = (), widths: tuple[int, ...] = WIDTHS) -> None:
        self.lr = lr
        self.widths = widths
        self.presets = presets
        self.budget = Budget()
        self.objectives = {"miou": "max", "macs": "min"}
        names = ["fusion_width", "lpm", "ffn", *(["train.lr"] if lr else [])]
        self.variables = tuple(SimpleNamespace(name=name) for name in names)

    @staticmethod
    def genotype(width: int, lpm: str, ffn: int) -> Genotype:
        return Genotype.from_dict({"backbone": "mit_b0", "fusion_width": width, "lpm": lpm, "ffn": ffn})

    def size(self) -> int:
        return len(self.widths) * len(LPMS) * len(FFNS)

    def enumerate(self) -> Iterator[Genotype]:
        return (self.genotype(*values) for values in itertools.product(self.widths, LPMS, FFNS))

    def points(self, n: int, seed: int = 0) -> list[FakePoint]:
        rng = random.Random(seed)
        return [self._point(rng.choice(self.widths), rng.choice(LPMS), rng.choice(FFNS), 10 ** rng.uniform(-4, -2)) for _ in range(n)]

    def sample(self, n: int, seed: int = 0) -> list[Genotype]:
        return [point.genotype for point in self.points(n, seed)]

    def suggest(self, chooser: Any) -> FakePoint:
        width = chooser.categorical("fusion_width", self.widths)
        lpm = chooser.categorical("lpm", LPMS)
        ffn = chooser.categorical("ffn", FFNS)
        return self._point(width, lpm, ffn, chooser.real("train.lr", 1e-4, 1e-2, log=True) if self.lr else None)

    def encode(self, point: FakePoint) -> dict[str, Any] | None:
        genotype = point.genotype
        stage = genotype.stages[3]
        assert stage is not None
        if genotype.fusion_width not in self.widths or genotype != self.genotype(genotype.fusion_width, stage.lpm, stage.ffn):
            return None
        lr = {"train.lr": point.settings["lr"]} if "lr" in point.settings else {}
        return {"fusion_width": genotype.fusion_width, "lpm": stage.lpm, "ffn": stage.ffn, **lr}

    def neighbours(self, point: FakePoint, rng: random.Random) -> Iterator[FakePoint]:
        here = self.encode(point)
        assert here is not None
        moves = [(n, v) for n, vs in (("fusion_width", self.widths), ("lpm", LPMS), ("ffn", FFNS)) for v in vs if v != here[n]]
        for name, value in rng.sample(moves, len(moves)):
            moved = {**here, name: value}
            yield self._point(moved["fusion_width"], moved["lpm"], moved["ffn"], here.get("train.lr"))

    def _point(self, width: int, lpm: str, ffn: int, lr: float | None) -> FakePoint:
        return FakePoint(self.genotype(width, lpm, ffn), {"lr": lr} if self.lr and lr is not None else {})


def fake_cost(genotype: Genotype) -> dict[str, float]:
    """macs = 1e6 · width · (1 + ffn), params = 1e4 · width: by hand, so that a test can say which fit."""
    stage = genotype.stages[3]
    assert stage is not None
    macs = 1e6 * genotype.fusion_width * (1 + stage.ffn)
    params = 1e4 * genotype.fusion_width
    return {"macs": macs, "params": params, "macs_fvcore": macs, "decoder_params": params, "decoder_macs": macs}


def fake_miou(genotype: Genotype) -> float:
    """Between 0 and 100, better with width, FFN and a gated LPM."""
    stage = genotype.stages[3]
    assert stage is not None
    return 20 + genotype.fusion_width / 4 + 5 * stage.ffn + 3 * LPMS.index(stage.lpm)


class FakeConfig(TrainingConfig):
    """Adds what the tests steer the fake trainer by."""

    sleep: float = 0.0
    steps: int = 3
    diary: str = ""
    crash: str = ""


class FakeTrainer:
    """Trains nothing: ``steps`` steps, a checkpoint after each, goes on from ``trial.parent``. Every step is a line of ``diary``.

    ``crash``: ``raise``, ``nan``, ``exit`` (the process ends) or ``missing`` (no mIoU), for genotypes whose FFN ratio is 0.
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
        own = Path(trial.workdir)
        for step in range(first, config.steps):
            time.sleep(config.sleep)
            self._write(config.diary, {"trial": own.parent.name, "attempt": own.name, "id": trial.genotype.id, "step": step})
            stage = trial.genotype.stages[3]
            if config.crash and stage is not None and stage.ffn == 0:
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


def diary_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a fake trainer's diary."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def make_study(folder: Path, *, space: Any = None, budget: str = "", trials: int = 8, **more: Any) -> tuple[Study, list[Event]]:
    """A study over the fake space, and the list its events go to."""
    events: list[Event] = []
    recipe = more.pop("recipe", Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:FakeTrainer"))
    made = Study(
        folder,
        space=space or FakeSpace(),
        budget=Budget.parse(budget),
        cost=more.pop("cost", fake_cost),
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
