"""Where a run's progress is shown: TensorBoard, Weights & Biases, MLflow, beside ``log.csv``, which is always written.

All of them are optional packages. What is not installed is said before a run begins; what fails later (a full disk, a lost server) is said
once and left out, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from nasseg.errors import ConfigError, Problem
from nasseg.files import digest, dump_yaml
from nasseg.metric import read_metric

PROJECT = "nasseg"

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One place that shows a run."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show the values of an iteration, under names such as ``train/loss`` and ``val/miou``."""

    def close(self, failed: bool) -> None:
        """The run has ended."""


class TensorBoard:
    """Event files in ``FOLDER/tensorboard``, read by ``tensorboard --logdir FOLDER``.

    A run that goes on from a checkpoint hides what an earlier attempt wrote about later iterations.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], first: int) -> None:
        # An optional package, and slow to import.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self.writer: Any = SummaryWriter(folder / "tensorboard", purge_step=first)
        self.writer.add_text("run", "\n".join(f"    {line}" for line in dump_yaml(dict(facts)).splitlines()), first)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, iteration)

    def close(self, failed: bool) -> None:
        """Flushes."""
        self.writer.close()


class WandB:
    """A run of project ``nasseg`` in ``FOLDER/wandb``. Nothing leaves the machine unless ``WANDB_MODE=online`` says so; ``wandb sync``
    sends it later."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], first: int) -> None:
        # An optional package.
        import wandb  # noqa: PLC0415

        # A mode that does not exist is W&B's to refuse.
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run: Any = wandb.init(
            project=PROJECT,
            name=folder.name,
            # One id for all attempts at a run.
            id=digest(str(folder.resolve())),
            resume="allow",
            dir=str(folder),
            config=dict(facts),
            mode=mode,
            # The screen is ours: neither words of its own nor a copy of what is printed.
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self.run.log(dict(metrics), step=iteration)

    def close(self, failed: bool) -> None:
        """Marks a failed run as such."""
        self.run.finish(exit_code=int(failed))


class MLflow:
    """A run of experiment ``nasseg`` in ``FOLDER/mlruns``, or where ``MLFLOW_TRACKING_URI`` says; one for each attempt at the run."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], first: int) -> None:
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            place = (folder.resolve() / "mlruns").as_uri()
            # Plain files are what every MLflow can write and read; later ones want to be told that they are meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # An optional package.
        from mlflow import MlflowClient  # noqa: PLC0415

        self.client: Any = MlflowClient(tracking_uri=place)
        known = self.client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known is not None else self.client.create_experiment(PROJECT)
        self.id: str = self.client.create_run(experiment, run_name=folder.name).info.run_id
        settings = facts.get("settings", {})
        for key, value in {**{k: facts[k] for k in ("trainer", "data", "size", "seed") if k in facts}, **settings}.items():
            self.client.log_param(self.id, key, str(value))

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """One metric each."""
        for name, value in metrics.items():
            self.client.log_metric(self.id, name, value, step=iteration)

    def close(self, failed: bool) -> None:
        """Marks a failed run as such."""
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


KINDS: Mapping[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""Each is the name of its package, too."""


def check_tracking(names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for every tracker whose package is not installed, saying which to install and what there is."""
    missing = [name for name in names if name in KINDS and not _installed(name)]
    if missing:
        there = ["csv", *(name for name in KINDS if _installed(name))]
        rule = "needs the package {0} (pip install {0}), which is not installed; there are " + ", ".join(there)
        raise ConfigError([Problem("trainer", "tracking", rule.format(name), name, there[-1]) for name in missing])


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def shown_as(name: str) -> str:
    """``loss`` as ``train/loss``, ``miou`` as ``val/miou``, ``iou[crop,weed]_holdout`` as ``holdout/iou.crop.weed``.

    MLflow takes no brackets and commas in a name, TensorBoard replaces them.
    """
    try:
        found = read_metric(name)
    except ConfigError:
        return f"train/{name}"
    words = (re.sub(r"[^\w.-]+", "_", word) for word in (found.metric.name, *found.classes))
    return f"{found.split or 'val'}/{'.'.join(words)}"


class Trackers:
    """The trackers of one run, as a context. They are made at the first iteration, so that a run that cannot begin leaves nothing."""

    def __init__(self, names: Sequence[str], folder: Path, facts: Mapping[str, Any]) -> None:
        self.names = [name for name in dict.fromkeys(names) if name in KINDS]
        self.folder = folder
        self.facts = facts
        self.failed = False
        self.open: dict[str, Tracker] | None = None

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an iteration everywhere; a tracker that fails is dropped with a warning."""
        if self.open is None:
            self.open = {}
            for name in self.names:
                self._safely(name, lambda name=name: self._begin(name, iteration))  # type: ignore[misc]
        shown = {shown_as(name): float(value) for name, value in metrics.items()}
        for name, tracker in list(self.open.items()):
            self._safely(name, lambda tracker=tracker: tracker.write(iteration, shown))  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, tracker in list((self.open or {}).items()):
            self._safely(name, lambda tracker=tracker: tracker.close(self.failed or kind is not None))  # type: ignore[misc]
        self.open = None

    def _begin(self, name: str, iteration: int) -> None:
        assert self.open is not None
        self.open[name] = KINDS[name](self.folder, self.facts, iteration)

    def _safely(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever another's package raises: a run of days does not end for its picture
            log.warning("tracking with %s stopped, the run goes on (%s: %s)", name, type(error).__name__, str(error).partition("\n")[0])
            if self.open is not None:
                self.open.pop(name, None)
