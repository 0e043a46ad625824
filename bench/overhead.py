"""What the search itself costs a trial: a trainer that does nothing, by the study alone, the local executor, and Ray with reused workers.

    python bench/overhead.py                  # the decoder space under a budget, 60 trials a row
    python bench/overhead.py --trials 200 --space tiny

`first` is the time until the first result (Ray: start of the cluster and of a worker), `per trial` the mean of the others, rejected
candidates included; `candidates` is how many were drawn for that.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import optuna
from rich.console import Console
from rich.table import Table

from nasseg.files import digest
from nasseg.search.executor_local import run_local
from nasseg.search.plan import Plan, make_plan
from nasseg.search.resources import Resources
from nasseg.search.run import Recorder, open_study
from nasseg.search.study import Study
from nasseg.search.view import Event
from nasseg.training.config import TrainingConfig
from nasseg.training.trial import Report, Result, Trial


class Nothing:
    """A trainer that answers at once: a number between 0 and 100 that depends on the genotype alone."""

    Config = TrainingConfig

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def run(self, trial: Trial, report: Report) -> Result:
        """One report, one result."""
        report(1, {"loss": 1.0})
        return Result(status=Result.COMPLETE, metrics={"miou": int(digest(trial.genotype.id)[:6], 16) % 10_000 / 100})


def alone(study: Study) -> None:
    """Propose and tell, nothing else."""
    while (proposal := study.propose()) is not None:
        study.tell(proposal.number, Nothing({}).run(proposal.trial, lambda iteration, metrics: False))


def timed(plan: Plan, how: str, concurrency: int) -> tuple[float, float, Study]:
    """Seconds to the first result, mean seconds of each further one, and the study."""
    moments: list[float] = []

    def listen(event: Event) -> None:
        if event.kind == "complete":
            moments.append(time.perf_counter())

    plan.out.mkdir(parents=True)
    recorder = Recorder(plan, listen)
    study = open_study(plan, recorder)
    recorder.begin(study)
    started = time.perf_counter()
    if how == "study":
        alone(study)
    elif how == "local":
        run_local(study, concurrency=concurrency, progress=recorder.progress, lost=recorder.lost)
    else:
        from nasseg.search.cluster import run_ray  # noqa: PLC0415  # sets Ray's switches before importing it

        run_ray(study, resources=Resources(concurrency=concurrency), progress=recorder.progress, lost=recorder.lost)
    recorder.close()
    study.close()
    return moments[0] - started, (moments[-1] - moments[0]) / (len(moments) - 1), study


@click.command()
@click.option("--space", default="decoder", show_default=True)
@click.option("--budget", default="macs=1.5G", show_default=True)
@click.option("--trials", default=60, show_default=True)
@click.option("--sampler", default="tpe", show_default=True)
@click.option("--only", multiple=True, help="study, local or ray.")
def main(space: str, budget: str, trials: int, sampler: str, only: tuple[str, ...]) -> None:
    """Print one row a way of running."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Workers find this file as the module `overhead`.
    sys.path.insert(0, str(Path(__file__).parent))
    table = Table(
        "executor",
        "at a time",
        "first s",
        "per trial ms",
        "candidates",
        "rejected",
        "duplicates",
        title=f"{space}, {budget}, {trials} trials",
    )
    rows = [("study", 1), ("local", 1), ("local", 2), ("ray", 1), ("ray", 2)]
    for how, concurrency in rows:
        if only and how not in only:
            continue
        with tempfile.TemporaryDirectory(prefix="nasseg-overhead-") as folder:
            plan = make_plan(
                space, data="synthetic", size=(256, 256), trials=trials, out=Path(folder) / "out", backbone="mit_b0", budget=budget,
                trainer="overhead:Nothing", sampler=sampler,
            )  # fmt: skip
            first, each, study = timed(plan, how, concurrency)
            drawn = study.trained + study.rejected + study.duplicates
            table.add_row(
                how, str(concurrency), f"{first:.2f}", f"{each * 1e3:.1f}", str(drawn), str(study.rejected), str(study.duplicates)
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
