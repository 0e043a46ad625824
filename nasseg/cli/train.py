"""``nasseg train``: train a found or published network and keep what it learnt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.run_view import RunView, protocol_line, result_table, stop_switch
from nasseg.cli.target import Asked, trial_of
from nasseg.errors import ConfigError, Problem, TrainingFailed
from nasseg.training.rundir import CURVES, LOG, RunDir
from nasseg.training.schedules import load_schedule
from nasseg.training.trial import Result

INTERRUPTED = 130


@click.command("train")
@click.argument("target", required=False)
@click.option("--data", help="A folder, camvid:PATH or synthetic; a study's own where it is left out, else synthetic.")
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
) -> None:
    """Train TARGET: results/X[:NUMBER|best], a genotype file, or a published design.

    Ctrl-C saves a checkpoint; the same command with --resume goes on from it, bit for bit on a CPU.
    """
    console = wide_console()
    genes, settings = split_sets(parse_sets(sets))
    named = None if schedule is None else load_schedule(schedule)
    if target is not None:
        if seed is not None and seed < 0:
            raise ConfigError(Problem("", "--seed", "must be a whole number from 0", seed, 0))
        asked = Asked(
            data=data,
            size=size if size is not None or named is None else named.size,
            backbone=backbone,
            weights=weights,
            pretrained=pretrained,
            seed=seed,
            trainer=trainer or (named.trainer if named is not None else "full"),
            genes=genes,
            settings={**(named.settings if named is not None else {}), **settings},
        )
        run = RunDir.create(out, trial_of(target, asked), resume=resume)
    elif resume:
        given = {"--data": data, "--backbone": backbone, "--weights": weights, "--pretrained": pretrained, "--size": size, "--seed": seed}
        beside = [name for name, value in {**given, "--schedule": schedule, "--set": sets or None}.items() if value is not None]
        if beside:
            raise ConfigError(Problem("", "TARGET", f"must be given with {', '.join(beside)}; alone, --resume takes all of it from --out"))
        run = RunDir.open(out)
    else:
        raise ConfigError(Problem("", "TARGET", "what to train: results/X[:NUMBER|best], a genotype file, or a published design"))
    train(console, run)


def train(console: Console, run: RunDir) -> None:
    """Train in ``run`` with its progress on the screen; leaves with exit code 130 where it was stopped."""
    trial = run.trial()
    total = int(run.facts["settings"]["iterations"])
    console.print(f"{run.genotype.backbone} · {run.genotype.short()} · id {run.genotype.id}")
    at = f"{trial.size[0]}x{trial.size[1]}"
    console.print(
        f"{trial.data} · {len(run.classes)} classes · {at} · {trial.trainer}, {total} iterations · seed {trial.seed} · {run.path}"
    )
    with stop_switch() as switch, RunView(console, total) as view:

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            view.show(iteration, metrics)
            return switch.on

        result = run.run(report)
    if result.status == Result.FAILED:
        raise TrainingFailed(f"{run.path}: {result.reason}")
    if result.iterations < total:
        console.print(f"{result.reason}; go on with: nasseg train --out {run.path} --resume")
        if switch.on:
            sys.exit(INTERRUPTED)
    if result.metrics:
        console.print(result_table(result.metrics, result.per_class, run.classes))
        console.print(f"measured at iteration {result.protocol['iteration']} on {protocol_line(result.protocol)}")
    for path, meaning in (
        (run.weights, "weights"),
        (run.path / "metrics.json", "numbers and protocol"),
        (run.path / LOG, "every iteration"),
        (run.path / CURVES, "the same as a picture"),
    ):
        if Path(path).is_file():
            console.print(f"{path}  {meaning}")
    console.print(f"export it with: nasseg export {run.path} --out BUNDLE")
