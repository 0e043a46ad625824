"""A search from beginning to end: check, lock, propose, train, record, keep the front's weights. ``nasseg search`` and
``nasseg.search(…)``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

import nasseg
from nasseg.errors import ConfigError, Problem, RunFailed, StudyError
from nasseg.files import dump_yaml, write_atomic
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.log import forwarded
from nasseg.search.checkpoints import FrontCheckpoints
from nasseg.search.driver import DriverLock
from nasseg.search.executor_local import run_local
from nasseg.search.interrupts import interruptible
from nasseg.search.log import SearchLog
from nasseg.search.objectives import Given
from nasseg.search.plan import Plan, check_weights, extremes, make_plan
from nasseg.search.resources import Resources
from nasseg.search.store import CONFIG, Store, read_study
from nasseg.search.study import Study
from nasseg.search.view import COMPLETE, DUPLICATE, FAILED, REJECTED, Event, Listener, StudyView
from nasseg.training.trainer import load_trainer


def search(
    space: Space | str | Path,
    *,
    data: str,
    size: tuple[int, int],
    trials: int,
    out: str | Path,
    backbone: str | None = None,
    budget: Budget | Mapping[str, Any] | str | None = None,
    trainer: str = "proxy",
    executor: str = "ray",
    concurrency: int = 1,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    workers_per_trial: int | None = None,
    trial_timeout: float | None = None,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    genes: Mapping[str, Any] | None = None,
    genotype: Genotype | None = None,
    weights: str | Path | None = None,
    pretrained: bool = False,
    fidelity: float = 1.0,
    seed: int = 0,
    sampler: str = "tpe",
    objectives: Given | None = None,
    retry_failed: bool = False,
    listener: Listener | None = None,
) -> StudyView:
    """Search ``space`` under ``budget`` and return the study: its trials, its Pareto front, its best.

    The same call again goes on where the last one ended, whether it ended by itself, by Ctrl-C or by a kill; ``trials`` may be raised. The
    arguments are those of ``nasseg search``: ``objectives`` are names, or ``max`` or ``min`` by name; ``listener`` gets every event. With
    ``executor="local"`` and ``concurrency`` above 1 the calling script needs the usual ``if __name__ == "__main__"``. Raises
    :class:`nasseg.errors.NassegError`; KeyboardInterrupt ends it cleanly.
    """
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
        genotype=genotype,
        weights=weights,
        pretrained=pretrained,
        fidelity=fidelity,
        seed=seed,
        sampler=sampler,
        objectives=objectives,
    )
    return run(plan, resources, listener, retry_failed=retry_failed)


class RepeatedFailure(RunFailed):
    """Trial after trial failed for the same reason: the machine, the data or the recipe is at fault, not the networks."""


def run(plan: Plan, resources: Resources, listener: Listener | None = None, *, retry_failed: bool = False) -> StudyView:
    """Carry out a plan.

    Args:
        plan: what is searched.
        resources: where trials run.
        listener: called with every event.
        retry_failed: train the failed trials of an earlier start again. Those that were lost for no fault of their own always are.

    Returns:
        The study as it stands at the end.

    Raises:
        RepeatedFailure: the search stopped because trial after trial failed for the same reason.
        NassegError: for everything that was given wrongly.
    """
    check_plan(plan, resources)
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        lock = DriverLock(plan.out).__enter__()
    except OSError as error:
        raise StudyError(f"{plan.out} cannot be written: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        stack.push(lock)
        stack.enter_context(interruptible())
        # Read again under the lock: another driver may have begun another study in between.
        earlier = plan.earlier()
        config = plan.config()
        if earlier is not None:
            config |= {"created": earlier.get("created", config["created"])}
        write_atomic(plan.out / CONFIG, dump_yaml(config))
        stack.enter_context(quiet_optuna())
        recorder = stack.enter_context(contextlib.closing(Recorder(plan, listener)))
        study = stack.enter_context(contextlib.closing(open_study(plan, recorder, retry_failed)))
        stack.enter_context(forwarded(recorder.record))
        recorder.begin(study)
        if resources.executor == "local":
            run_local(study, concurrency=resources.concurrency, progress=recorder.progress, lost=recorder.lost, timeout=resources.timeout)
        else:
            # Ray takes seconds to import, and reads its settings from the environment when it is.
            from nasseg.search.cluster import run_ray  # noqa: PLC0415

            where = "starting Ray" if resources.address is None else f"joining the Ray cluster at {resources.address}"
            recorder(Event(kind="status", text=where))
            run_ray(study, resources=resources, progress=recorder.progress, lost=recorder.lost)
        recorder.end()
        if study.condemned is not None:
            raise RepeatedFailure(f"{plan.out}: {study.condemned}")
    return replace(read_study(plan.out), driver=None)


def check_plan(plan: Plan, resources: Resources) -> Mapping[str, Any] | None:
    """What a search looks at before it writes anything, and a dry run does too.

    Returns:
        The configuration of the study that goes on; None for a new one.

    Raises:
        NassegError: whatever keeps the plan from being carried out, in one sentence.
    """
    check_processes(plan, resources)
    earlier = plan.earlier()
    if earlier is None:
        check_weights(plan)
    else:
        check_costs(plan, earlier)
    return earlier


def check_costs(plan: Plan, earlier: Mapping[str, Any]) -> None:
    """Refuse to go on with a study whose networks another version counted otherwise: its front and its budget would mean two things.

    Raises:
        StudyError: a cost that is bounded or an objective differs from the recorded one; says which, and the versions.
    """
    names = [name for name in Budget.NAMES if name in plan.objectives or name in plan.budget.bounds]
    for trial in read_study(plan.out).trials:
        if not trial.genotype or not trial.cost:
            continue
        now = plan.proposer.values(Genotype.from_dict(trial.genotype, where=f"{plan.out}:{trial.number}"))
        for name in names:
            if now[name] != trial.cost.get(name, now[name]):
                version = earlier.get("versions", {}).get("nasseg", "another version")
                raise StudyError(
                    f"{plan.out} cannot go on: nasseg {version} counted {trial.cost[name]:,.0f} {name} for trial {trial.number}, nasseg "
                    f"{nasseg.__version__} counts {now[name]:,.0f}. Give another --out, or go on with nasseg {version}"
                )


def check_processes(plan: Plan, resources: Resources) -> None:
    """Refuse trials in several processes that the recipe cannot train so, or whose batch cannot be split evenly over them.

    Raises:
        ConfigError: with the nearest legal value.
    """
    ranks = resources.processes
    if ranks == 1:
        return
    recipe = load_trainer(plan.trainer)
    if not getattr(recipe, "distributed", False):
        rule = f"{plan.trainer} trains in one process (it does not declare distributed = True)"
        raise ConfigError(Problem("", "--workers-per-trial", rule, ranks, 1))
    for searched in [{}, *extremes(plan.space)]:
        batch = recipe.Config.parse({**plan.settings, **searched}).batch_size
        if batch % ranks:
            nearest = max(ranks, round(batch / ranks) * ranks)
            rule = f"is split evenly over the {ranks} processes of a trial, so it must be a multiple of {ranks}"
            raise ConfigError(Problem("trainer", "batch_size", rule, batch, nearest))


def open_study(plan: Plan, listener: Listener, retry_failed: bool = False) -> Study:
    """The study of a plan, with what its journal holds."""
    return Study(
        plan.out,
        proposer=plan.proposer,
        recipe=plan.recipe,
        trials=plan.trials,
        objectives=plan.objectives,
        sampler=plan.sampler,
        seed=plan.seed,
        listener=listener,
        retry_failed=retry_failed,
    )


class Recorder:
    """What is written down while a search runs: the log, the Parquet file, the front's weights. Passes every event on to the listener."""

    def __init__(self, plan: Plan, listener: Listener | None) -> None:
        self.listener = listener
        self.log = SearchLog(plan.out)
        self.store = Store(plan.out, trainer=plan.trainer, fidelity=plan.fidelity, seed=plan.seed)
        self.checkpoints = FrontCheckpoints(plan.out)
        self.study: Study | None = None

    def begin(self, study: Study) -> None:
        """Put in order what the last driver left: rows it had not written, weights it had not copied, folders it had not dropped."""
        view = study.view()
        restored = self.store.open(view)
        if restored and view.count(COMPLETE, FAILED):
            self.log.write(f"{restored} rows restored from the journal")
        for trial in view.trials:
            if trial.on_front and self.checkpoints.path(trial.number) is None:
                self.checkpoints.settle(trial.number, trial.checkpoint, True)
        self.checkpoints.prune(study.front)
        self.checkpoints.sweep(study.running)
        self.study = study

    def __call__(self, event: Event) -> None:
        """Record an event and pass it on."""
        trial = event.trial
        self.log(event)
        if trial is not None and self.study is not None and event.kind in (COMPLETE, FAILED, REJECTED, DUPLICATE):
            self.store.add(trial)
            if event.kind in (COMPLETE, FAILED):
                self.keep_traceback(trial.number)
                self.checkpoints.settle(trial.number, trial.checkpoint, trial.on_front)
                self.checkpoints.prune(self.study.front)
        if self.listener is not None:
            self.listener(event)

    def record(self, logger: str, level: int, text: str) -> None:
        """A warning that was logged during the search, in a worker or here."""
        self.log.write(f"{logging.getLevelName(level).lower()}: {text}")

    def keep_traceback(self, number: int) -> None:
        """A failed trial's traceback goes into the log before its folder goes."""
        for path in sorted((self.checkpoints.work / str(number)).glob("attempt-*/traceback.txt"))[-1:]:
            with contextlib.suppress(OSError):
                self.log.write(f"trial {number}: {path.read_text(encoding='utf-8').rstrip()}")

    def progress(self, number: int, iteration: int, metrics: Mapping[str, float]) -> None:
        """A running trial reported."""
        if self.listener is not None and self.study is not None:
            self.listener(Event(kind="progress", trial=self.study.view_of(number), iteration=iteration, metrics=dict(metrics)))

    def lost(self, number: int, why: str) -> None:
        """A worker went away; its trial is tried again."""
        if self.study is not None:
            self(Event(kind="lost", trial=self.study.view_of(number), text=why))

    def end(self) -> None:
        """The search is over: nothing runs, so no folder of a run stays."""
        if self.study is not None:
            self.checkpoints.sweep(self.study.running)

    def close(self) -> None:
        """Write what is not written yet."""
        if self.study is not None:
            self.store.flush()
        self.log.close()


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna logs every trial to the terminal; ours is there for that."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
