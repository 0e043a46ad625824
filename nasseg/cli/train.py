"""``nasseg train``: train a found or published network and keep what it learnt."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
from rich.console import Console

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.run_view import RunView, collapse_lines, protocol_line, result_table, stop_switch
from nasseg.cli.target import Asked, trial_of
from nasseg.cli.verb import Verb
from nasseg.errors import ConfigError, NassegError, Problem, TrainingFailed, nearest
from nasseg.log import shown_on
from nasseg.published.network import Published
from nasseg.report.next_steps import after_training
from nasseg.search.cluster import ENVIRONMENT, check_room, node_resources, session
from nasseg.search.resources import EXECUTORS, Resources
from nasseg.training.checkpoint import checkpoint_files
from nasseg.training.collapse import Collapse
from nasseg.training.distributed import World, joined, speaks
from nasseg.training.rundir import CHECKPOINTS, CURVES, LOG, RunDir
from nasseg.training.schedules import load_schedule
from nasseg.training.trial import Report, Result

INTERRUPTED = 130
PATIENCE = 5.0
"""Seconds in which a second Ctrl-C is the first one, passed on by a launcher."""


@dataclass(frozen=True)
class Crew:
    """Who trains: this process, with those torchrun has started beside it, or ``workers`` that Ray starts."""

    ray: bool = False
    workers: int = 1
    gpus: float = 0.0
    address: str | None = None

    @classmethod
    def parse(cls, executor: str, workers: int | None, gpus: float | None, address: str | None) -> Self:
        """What was asked for; raises :class:`ConfigError` with everything that does not go together."""
        problems: list[Problem] = []
        if executor not in EXECUTORS:
            problems.append(Problem("", "--executor", "must be one of local, ray", executor, nearest(executor, EXECUTORS)))
        if workers is not None and workers < 1:
            problems.append(Problem("", "--workers", "must be a whole number from 1", workers, 1))
        if gpus is not None and gpus < 0:
            problems.append(Problem("", "--gpus-per-worker", "must not be below 0", gpus, 0))
        given = {"--workers": workers, "--gpus-per-worker": gpus, "--address": address}
        if executor == "local":
            rule = "is for --executor ray; without Ray: torchrun --nproc-per-node N -m nasseg train …"
            problems += [Problem("", name, rule, value) for name, value in given.items() if value is not None]
        if executor == "ray" and "WORLD_SIZE" in os.environ:
            problems.append(Problem("", "--executor", "torchrun has started this process already", executor, "local"))
        if problems:
            raise ConfigError(problems)
        return cls(executor == "ray", workers or 1, gpus or 0.0, address)

    @property
    def options(self) -> str:
        """The options that ask for it again."""
        if not self.ray:
            return ""
        more = (f" --gpus-per-worker {self.gpus:g}" if self.gpus else "") + (f" --address {self.address}" if self.address else "")
        return f" --executor ray --workers {self.workers}{more}"

    def train(self, run: RunDir, report: Report) -> Result:
        """On Ray."""
        World(0, self.workers).share(int(run.facts["settings"]["batch_size"]))
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Ray reads its switches when it is imported, and takes seconds to; few runs need it.
        import ray  # noqa: PLC0415

        from nasseg.training.ray_train import fit  # noqa: PLC0415

        resources = Resources(concurrency=self.workers, gpus=self.gpus, address=self.address)
        with session(ray, resources) as folder:
            check_room(node_resources(ray), cpus=1.0, gpus=self.gpus, count=self.workers, what="processes")
            return fit(run, workers=self.workers, gpus=self.gpus, storage=folder / "train", report=report)


@click.command("train", cls=Verb)
@click.argument("target", required=False)
@click.option("--data", help="A folder, KIND:PATH (nasseg data info) or synthetic; a study's own where it is left out, else synthetic.")
@click.option("--backbone", help="The encoder, for a design that names none or in place of its own.")
@click.option("--weights", help="A safetensors file with the backbone's weights.")
@click.option("--pretrained/--scratch", "pretrained", default=None, help="Fetch the backbone's published weights, or start from none.")
@click.option("--trainer", help="The recipe: proxy, full, or my.module:Class; the schedule's where it is left out, else full.")
@click.option("--schedule", help="Published settings by name, such as ade20k-160k, or a YAML file; listed by nasseg trainers.")
@click.option("--size", type=SIZE, help="Height and width of training crop and evaluation image.")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation; a study's own where it is left out, else 0.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="trainer.FIELD=… for the recipe, GENE=… for the network. Repeatable."
)
@click.option("--out", required=True, help="The run's folder.")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --out; it begins anew where there is none. TARGET may then be left out."
)
@click.option("--executor", default="local", show_default=True, help="local, or ray: --workers processes that Ray starts.")
@click.option("--workers", type=int, help="Processes that train together on Ray (default 1).")
@click.option("--gpus-per-worker", type=float, help="GPUs of each of them (default 0).")
@click.option("--address", help="Join the Ray cluster at HOST:PORT, or auto.")
def command(
    target: str | None,
    data: str | None,
    backbone: str | None,
    weights: str | None,
    pretrained: bool | None,
    trainer: str | None,
    schedule: str | None,
    size: tuple[int, int] | None,
    seed: int | None,
    sets: tuple[str, ...],
    out: str,
    resume: bool,
    executor: str,
    workers: int | None,
    gpus_per_worker: float | None,
    address: str | None,
) -> None:
    """Train TARGET: results/X[:NUMBER|best], a genotype file, a published design, or a published network (docs/published.md).

    Ctrl-C and SIGTERM save a checkpoint; the same command with --resume goes on from it, bit for bit on a CPU.
    Several processes: torchrun --nproc-per-node 2 -m nasseg train …, or --executor ray --workers 2. batch_size is that of all together.
    """
    crew = Crew.parse(executor, workers, gpus_per_worker, address)

    def prepare() -> RunDir:
        genes, settings = split_sets(parse_sets(sets))
        asked = Asked(
            data=data,
            size=size,
            backbone=backbone,
            weights=weights,
            pretrained=pretrained,
            seed=seed,
            trainer=trainer,
            genes=genes,
            settings=settings,
        )
        return run_of(target, asked, schedule, out, resume)

    with joined() as here:
        try:
            run = here.lead(prepare) or RunDir.open(out)
            train(wide_console() if here.first else Console(quiet=True), run, crew, here)
        except NassegError as error:
            if speaks(here, error):
                raise
            sys.exit(error.exit_code)


def run_of(target: str | None, asked: Asked, schedule: str | None, out: str, resume: bool) -> RunDir:
    """The folder of the run that is asked for, made or found. A schedule gives what was not asked for."""
    named = None if schedule is None else load_schedule(schedule)
    if target is not None:
        if asked.seed is not None and asked.seed < 0:
            raise ConfigError(Problem("", "--seed", "must be a whole number from 0", asked.seed, 0))
        return RunDir.create(out, trial_of(target, asked, named), resume=resume)
    if resume:
        given = {f"--{name}": getattr(asked, name) for name in ("data", "backbone", "weights", "pretrained", "size", "seed")}
        given |= {"--schedule": schedule, "--set": {**asked.genes, **asked.settings} or None}
        beside = [name for name, value in given.items() if value is not None]
        if beside:
            raise ConfigError(Problem("", "TARGET", f"must be given with {', '.join(beside)}; alone, --resume takes all of it from --out"))
        return RunDir.open(out)
    raise ConfigError(Problem("", "TARGET", "what to train: results/X[:NUMBER|best], a genotype file, a published design or a network"))


def train(console: Console, run: RunDir, crew: Crew, here: World) -> None:
    """Train in ``run`` with its progress on the screen; leaves with exit code 130 where Ctrl-C has stopped it."""
    trial = run.trial()
    settings = run.facts["settings"]
    total = int(settings["iterations"])
    images = int(settings["batch_size"]) * int(settings["accumulation"])
    ranks = crew.workers if crew.ray else here.ranks
    console.print(f"{run.genotype.backbone} · {run.genotype.short()} · id {run.genotype.id}")
    at = f"{trial.size[0]}x{trial.size[1]}"
    console.print(
        f"{trial.data} · {len(run.classes)} classes · {at} · {trial.trainer}, {total} iterations · seed {trial.seed} · {run.path}"
        + (f" · {ranks} processes" if ranks > 1 else "")
    )
    if trial.network is not None and not checkpoint_files(run.path / CHECKPOINTS):
        console.print(Published.open(trial.network).beginning(run.classes), markup=False, soft_wrap=True)
    with stop_switch(PATIENCE if ranks > 1 else 0.0) as switch, shown_on(console), RunView(console, total, images) as view:

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            if metrics:
                view.show(iteration, metrics)
            return switch.on

        result = crew.train(run, report) if crew.ray else run.run(report)
    if result.status == Result.FAILED:
        raise TrainingFailed(f"{run.path}: {result.reason}")
    if result.iterations < total:
        again = f"{here.launcher} train --out {shlex.quote(str(run.path))} --resume{crew.options}"
        console.print(f"{result.reason}; resume with: {again}", soft_wrap=True)
        if switch.on:
            sys.exit(INTERRUPTED if switch.by is signal.SIGINT else 0)
    if result.metrics:
        console.print(result_table(result.metrics, result.per_class, run.classes))
        for warning in collapse_lines(Collapse.of(result.per_class, result.unpredicted), result.settings, result.class_weights):
            console.print(warning, soft_wrap=True)
        console.print(f"measured at iteration {result.protocol['iteration']} on {protocol_line(result.protocol)}")
    for path, meaning in (
        (run.weights, "weights"),
        (run.path / "metrics.json", "numbers and protocol"),
        (run.path / LOG, "every iteration"),
        (run.path / CURVES, "the same as a picture"),
    ):
        if Path(path).is_file():
            console.print(f"{path}  {meaning}")
    console.print("next:")
    for line in after_training(run.path):
        console.print(f"  {line}", markup=False, soft_wrap=True)
