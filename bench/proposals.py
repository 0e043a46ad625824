"""What a study stores in Optuna against the networks it trains, and how good the fronts are that its samplers find.

    python bench/proposals.py                        # 500 sampler trials a space and sampler: how many parameters differ
    python bench/proposals.py --quality --seeds 8    # hypervolume of the front, mean ± standard error over seeds

No network is built. The second table stands on synthetic landscapes, one a seed: a random merit of each gene's value and of each pair of
values of one stage or of one gene, times a saturation with MACs; cost and budget are real. The hypervolume is the share of the rectangle
from 0 to 100 % mIoU and from 0 MACs to the budget that the front dominates.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from nasseg.files import digest
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.slots import slot_name, to_values
from nasseg.genes.space import Space
from nasseg.genes.variable import Setting
from nasseg.models.costing import cost
from nasseg.search.candidate import Recipe
from nasseg.search.proposer import Proposer
from nasseg.search.study import Study
from nasseg.search.view import CANDIDATE
from nasseg.training.trial import Result

JOINT = {
    "extends": "csap",
    "name": "joint",
    "genes": {
        "backbone": {"choices": ["mit_b0", "resnet18"]},
        "pool_conv": {"choices": [True, False], "when": {"attention": "own"}, "else": False},
        "stage2.lpm": {"choices": ["none", "se", "cbam"], "when": {"fusion": "fca"}, "else": "none"},
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "train.batch_size": {"low": 4, "high": 16, "step": 4},
        "train.drop_path": {"low": 0.0, "high": 0.3, "when": {"backbone": "mit_b0"}},
        "train.loss": {"choices": ["cross_entropy", "ohem"]},
        "train.label_smoothing": {"choices": [0.0, 0.1], "when": {"train.loss": "cross_entropy"}, "else": 0.0},
    },
}
"""Conditions, ties, training genes of every kind."""

SIZE, CLASSES = (256, 256), 20


def open_space(name: str) -> Space:
    """A shipped space on MiT-B0, or the joint one."""
    return Space.from_dict(JOINT) if name == "joint" else Space.load(name).with_fixed({"backbone": "mit_b0"})


def expected(space: Space, genotype: Genotype, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna should store: the genotype's active open genes, spelled as the space spells them, and the settings in force."""
    values = {**to_values(genotype), **{f"train.{name}": value for name, value in settings.items()}}
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in genotype.flat().items()}
    out: dict[str, Any] = {}
    for variable in space.variables:
        if isinstance(variable, Setting):
            if all(condition.holds(values) for condition in variable.conditions):
                out[variable.name] = settings[variable.field]
            continue
        slots = {stage: slot_name(variable.gene, stage) for stage in variable.stages}
        # A slot whose condition does not hold has the value of its else, whatever the variable says.
        ruled = [i for i, slot in slots.items() if all(c.holds(values) for c in space._grammar.bindings[slot].conditions)]
        read = {stage: flat[slots[stage]] for stage in ruled if slots[stage] in flat}
        if read:
            alike = [k for k in range(len(variable.choices)) if all(variable.values[i][k] == value for i, value in read.items())]
            out[variable.name] = variable.choices[alike[0]]
    return out


def differing(space: Space, trials: Iterable[FrozenTrial]) -> tuple[int, int]:
    """Trials whose stored parameters are not those of their network, and trials compared."""
    wrong = compared = 0
    for trial in trials:
        candidate = trial.user_attrs[CANDIDATE]
        meant = expected(space, Genotype.from_dict(candidate["genotype"]), candidate["settings"])
        compared += 1
        wrong += meant != trial.params
    return wrong, compared


class Landscape:
    """A synthetic mIoU of genotypes: deterministic in the seed, no noise."""

    def __init__(self, seed: int, macs: Callable[[Genotype], float]) -> None:
        self.seed = seed
        self.macs = macs

    def _draw(self, *words: Any) -> float:
        """A number in 0 … 1 for these words."""
        return int(digest([self.seed, *map(str, words)])[:8], 16) / 0xFFFFFFFF

    def __call__(self, genotype: Genotype) -> float:
        """Between 0 and 100."""
        flat = genotype.flat()
        genes = [(name, value) for name, value in flat.items() if name != "backbone"]
        single = [self._draw(name, value) for name, value in genes]
        pairs = []
        for (a, x), (b, y) in itertools.combinations(genes, 2):
            same_stage = a.partition(".")[0] == b.partition(".")[0]
            same_gene = a.rpartition(".")[2] == b.rpartition(".")[2]
            if same_stage or same_gene:
                pairs.append(self._draw(a, x, b, y))
        merit = 0.5 * statistics.fmean(single) + 0.5 * statistics.fmean(pairs)
        macs = self.macs(genotype) / 1e9
        return 100 * min(1.0, max(0.0, 0.5 + 3.0 * (merit - 0.5))) * macs / (macs + 0.4)


def hypervolume(points: Iterable[tuple[float, float]], macs: float) -> float:
    """Area that (mIoU, MACs) points dominate, between 0 % and 100 % mIoU and 0 and ``macs``, as a share."""
    area, best = 0.0, macs
    for miou, cost_ in sorted(points, reverse=True):
        if cost_ < best:
            area += miou / 100 * (best - cost_) / macs
            best = cost_
    return area


def make(folder: Path, space: Space, budget: str, trials: int, sampler: str, seed: int) -> Study:
    """A study without a trainer."""

    def values(genotype: Genotype) -> Mapping[str, float]:
        return cost(genotype, size=SIZE, num_classes=CLASSES).values()

    return Study(
        folder,
        proposer=Proposer(space, Budget.parse(budget), values),
        recipe=Recipe(data="none", size=SIZE),
        trials=trials,
        objectives={"miou": "max", "macs": "min"},
        sampler=sampler,
        seed=seed,
    )


def stored(name: str, sampler: str, trials: int, budget: str, seed: int = 0) -> tuple[int, int]:
    """Differing and compared parameters of so many trials that the sampler drew, trained, rejected and answered ones."""
    space = open_space(name)
    with tempfile.TemporaryDirectory() as folder:
        study = make(Path(folder), space, budget, 10 * trials, sampler, seed)
        score = Landscape(seed, lambda genotype: study.proposer.values(genotype)["macs"])
        drawn: list[FrozenTrial] = []
        while len(drawn) < trials and (proposal := study.propose()) is not None:
            study.tell(proposal.number, Result(status=Result.COMPLETE, metrics={"miou": score(proposal.trial.genotype)}))
            drawn = [t for t in study._frozen() if t.user_attrs.get(CANDIDATE, {}).get("origin") == "sampler"]
        study.close()
        return differing(space, drawn[:trials])


def front_after(name: str, sampler: str, budget: str, seed: int, marks: tuple[int, ...]) -> tuple[list[float], float]:
    """Hypervolume after so many trained trials, and seconds a trained trial."""
    space = open_space(name)
    bound = Budget.parse(budget).bounds["macs"]
    with tempfile.TemporaryDirectory() as folder:
        study = make(Path(folder), space, budget, marks[-1], sampler, seed)
        score = Landscape(seed, lambda genotype: study.proposer.values(genotype)["macs"])
        points: list[tuple[float, float]] = []
        volumes: list[float] = []
        started = time.perf_counter()
        while (proposal := study.propose()) is not None:
            genotype = proposal.trial.genotype
            points.append((score(genotype), study.proposer.values(genotype)["macs"]))
            study.tell(proposal.number, Result(status=Result.COMPLETE, metrics={"miou": points[-1][0]}))
            if len(points) in marks:
                volumes.append(hypervolume(points, bound))
        took = (time.perf_counter() - started) / max(1, len(points))
        study.close()
    return volumes, took


@click.command()
@click.option("--spaces", default="decoder,scaseg,csap,tiny,joint", show_default=True)
@click.option("--samplers", default="tpe,random,nsga2", show_default=True)
@click.option("--trials", default=500, show_default=True, help="Sampler trials that are compared.")
@click.option("--budget", default="macs=1.2G", show_default=True)
@click.option("--quality", is_flag=True, help="Fronts in place of parameters.")
@click.option("--seeds", default=8, show_default=True, help="Landscapes; at least 2.")
def main(spaces: str, samplers: str, trials: int, budget: str, quality: bool, seeds: int) -> None:
    """Print one table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = list(itertools.product(spaces.split(","), samplers.split(",")))
    if not quality:
        total = wrong = 0
        table = Table("space", "sampler", "trials", "differ")
        for name, sampler in rows:
            differ, compared = stored(name, sampler, trials, budget)
            table.add_row(name, sampler, str(compared), str(differ))
            total, wrong = total + compared, wrong + differ
        Console(width=120).print(table)
        print(f"Optuna's stored parameters against genotypes over {trials} sampler trials a row, {total} in all: {wrong} differ")
        raise SystemExit(1 if wrong else 0)
    marks = (25, 50, 100)
    table = Table("space", "sampler", *(f"hypervolume at {n}" for n in marks), "ms a trial")
    for name, sampler in rows:
        found = [front_after(name, sampler, budget, seed, marks) for seed in range(seeds)]
        columns = [[volumes[k] for volumes, _ in found] for k in range(len(marks))]
        cells = [f"{statistics.fmean(column):.4f} ± {statistics.stdev(column) / len(column) ** 0.5:.4f}" for column in columns]
        table.add_row(name, sampler, *cells, f"{1e3 * statistics.median(took for _, took in found):.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    random.seed(0)
    main()
