"""``nasseg search``: find decoders, or training settings, that fit a budget."""

from __future__ import annotations

import atexit
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nasseg.cli.console import wide_console
from nasseg.cli.genotypes import read_genotype
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.verb import Verb
from nasseg.errors import StudyError
from nasseg.log import shown_on
from nasseg.report.defaults import against_defaults
from nasseg.report.front_plot import save_front
from nasseg.report.live import SearchScreen
from nasseg.report.next_steps import after_search
from nasseg.report.pareto import front_table, summary, warning_lines
from nasseg.search.interrupts import SIGNALS, deferred, interruptible
from nasseg.search.objectives import parse_objectives
from nasseg.search.plan import Plan, make_plan
from nasseg.search.preview import preview
from nasseg.search.resources import Resources
from nasseg.search.run import run
from nasseg.search.store import read_study
from nasseg.search.view import COMPLETE, StudyView, TrialView
from nasseg.training.trainer import load_trainer

INTERRUPTED = 130


@click.command("search", cls=Verb)
@click.argument("space")
@click.option("--genotype", help="A genotype file or published design that settles the decoder: a study of training settings.")
@click.option("--data", default="synthetic", show_default=True, help="A folder, KIND:PATH (nasseg data info), or synthetic.")
@click.option("--backbone", help="The encoder: mit_b0, mscan_t, or any four-stage timm model.")
@click.option("--weights", help="A local file with the backbone's weights.")
@click.option("--pretrained", is_flag=True, help="Start from the backbone's published weights (fetched once).")
@click.option("--budget", help='Upper bounds, as "macs=1.5G,params=6M"; replaces the space\'s.')
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="NAME[=max|min]",
    help="A metric the recipe declares (miou, iou[crop,weed]) or a cost (macs); all replace the space's, the first ranks. Repeatable.",
)
@click.option("--size", type=SIZE, required=True, help="Height and width of training crop and evaluation image, as 360x480.")
@click.option("--trials", type=int, required=True, help="How many networks to train; may be raised later.")
@click.option("--trainer", default="proxy", show_default=True, help="The recipe each trial is trained with, or my.module:Class.")
@click.option("--fidelity", type=float, default=1.0, show_default=True, help="Share of the trainer's iterations, as a whole schedule.")
@click.option("--out", required=True, help="The results folder, as results/first.")
@click.option("--executor", default="ray", show_default=True, help="ray, or local: this machine without Ray.")
@click.option("--concurrency", type=int, default=1, show_default=True, help="Trials at a time.")
@click.option("--cpus-per-trial", type=float, default=1.0, show_default=True, help="CPUs of a trial (Ray).")
@click.option("--gpus-per-trial", type=float, default=0.0, show_default=True, help="GPUs of a trial (Ray); 0.5 puts two on one.")
@click.option("--workers-per-trial", type=int, help="Processes that train one trial together (Ray); one for each GPU where left out.")
@click.option("--trial-timeout", type=float, help="Seconds after which a trial that still runs has failed; no limit where left out.")
@click.option("--address", help="Join the Ray cluster at HOST:PORT, or auto.")
@click.option("--sampler", default="tpe", show_default=True, help="tpe, nsga2, gp or random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampler and of every training.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="GENE=… settles a gene, trainer.FIELD=… a setting. Repeatable.")
@click.option("--retry-failed", is_flag=True, help="Train trials that failed in an earlier start again; lost ones are in any case.")
@click.option("--dry-run", is_flag=True, help="Say what would be searched, and stop; writes nothing.")
def command(
    space: str,
    genotype: str | None,
    data: str,
    backbone: str | None,
    weights: str | None,
    pretrained: bool,
    budget: str | None,
    objectives: tuple[str, ...],
    size: tuple[int, int],
    trials: int,
    trainer: str,
    fidelity: float,
    out: str,
    executor: str,
    concurrency: int,
    cpus_per_trial: float,
    gpus_per_trial: float,
    workers_per_trial: int | None,
    trial_timeout: float | None,
    address: str | None,
    sampler: str,
    seed: int,
    sets: tuple[str, ...],
    retry_failed: bool,
    dry_run: bool,
) -> None:
    """Search SPACE, a shipped search space or a YAML file, for the best networks within a budget.

    No network over budget is trained, none is trained twice. The same command again goes on where the last one ended, whatever ended it.
    """
    genes, settings = split_sets(parse_sets(sets))
    resources = Resources(
        executor=executor,
        concurrency=concurrency,
        cpus=cpus_per_trial,
        gpus=gpus_per_trial,
        workers=workers_per_trial,
        timeout=trial_timeout,
        address=address,
    )
    plan = make_plan(
        space,
        data=data,
        size=size,
        trials=trials,
        out=out,
        backbone=backbone,
        budget=budget,
        trainer=trainer,
        settings=settings,
        genes=genes,
        genotype=None if genotype is None else read_genotype(genotype, backbone),
        weights=weights,
        pretrained=pretrained,
        fidelity=fidelity,
        seed=seed,
        sampler=sampler,
        objectives=parse_objectives(objectives) or None,
    )
    console = wide_console()
    if dry_run:
        describe_plan(console, plan, resources)
        return
    earlier = plan.earlier()
    screen = SearchScreen(
        console, title=title_of(plan, resources), trials=plan.trials, objectives=dict(plan.objectives), total=iterations_of(plan)
    )
    if earlier is not None:
        screen.begin(read_study(plan.out).trials)
    try:
        with interruptible(), shown_on(console), screen:
            view = run(plan, resources, screen, retry_failed=retry_failed)
    except KeyboardInterrupt:
        with deferred():
            stopped(console, plan, screen)
        # While the interpreter shuts down a signal would end it in its own way, with another exit code.
        for number in SIGNALS:
            atexit.register(signal.signal, number, signal.SIG_IGN)
        sys.exit(INTERRUPTED)
    finish(console, view)


def title_of(plan: Plan, resources: Resources) -> str:
    """One line on what is searched."""
    budget = f"budget {plan.budget}" if plan.budget else "no budget"
    where = "local" if resources.executor == "local" else f"ray {resources.address or ''}".strip()
    return (
        f"{plan.space.name} · {plan.data_name} {plan.size[0]}x{plan.size[1]} · {', '.join(plan.backbones)} · {budget} · "
        f"{plan.trainer} · {where} ×{resources.concurrency} · {plan.out}"
    )


def iterations_of(plan: Plan) -> Any:
    """How many iterations a trial will run, for its progress bar."""
    base = int(load_trainer(plan.trainer).Config.parse(plan.settings).iterations)

    def total(trial: TrialView) -> int:
        return max(1, round(int(trial.settings.get("iterations", base)) * plan.fidelity))

    return total


def describe_plan(console: Console, plan: Plan, resources: Resources) -> None:
    """What ``--dry-run`` says."""
    found = preview(plan, resources)
    console.print(title_of(plan, resources))
    for line in found.lines():
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print("nothing was written (--dry-run)")


def stopped(console: Console, plan: Plan, screen: SearchScreen) -> None:
    """What a person reads after Ctrl-C or SIGTERM."""
    running = f"; {len(screen.running)} were running and go on from their checkpoints" if screen.running else ""
    console.print(f"stopped after {screen.done} of {plan.trials} trials{running}")
    console.print(f"go on with: nasseg {shlex.join(sys.argv[1:])}", soft_wrap=True)


def finish(console: Console, view: StudyView) -> None:
    """The front, its picture, and what to do next. Raises :class:`StudyError` if no trial was complete."""
    if view.count(COMPLETE) == 0:
        reasons = sorted({trial.reason.splitlines()[0] for trial in view.trials if trial.trained and trial.reason})
        raise SearchFailed(f"{view.path}: every trial failed: {'; '.join(reasons[:3])}")
    console.print(front_table(view, width=console.width))
    console.print()
    console.print(summary(view))
    if (verdict := against_defaults(view)) is not None:
        console.print(verdict, soft_wrap=True)
    for warning in warning_lines(view.warnings):
        console.print(warning, soft_wrap=True)
    picture = save_front(view, Path(view.path) / "front.png")
    console.print(f"{picture}  the front as a picture")
    console.print("next:")
    for line in after_search(view):
        console.print(f"  {line}", markup=False, soft_wrap=True)


class SearchFailed(StudyError):
    """The input was right, and no trial came through."""

    exit_code = 1
