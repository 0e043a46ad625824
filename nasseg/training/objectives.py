"""Whether the numbers asked for can be measured: by this trainer, on these data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nasseg.data.dataset import DataSet
from nasseg.data.statistics import class_counts
from nasseg.errors import ConfigError, Problem
from nasseg.metric import METRICS, Metric, MetricName, read_metric


def check_metrics(
    names: Iterable[str],
    metrics: Sequence[Metric],
    data: DataSet,
    *,
    test: bool = False,
    where: str = "",
    key: str = "metric",
) -> tuple[MetricName, ...]:
    """The names taken apart, after a look at the data: nothing is trained for a number that cannot be had.

    Args:
        names: such as ``miou`` and ``iou[crop,weed]_holdout``.
        metrics: those the trainer declares (:func:`nasseg.training.trainer.metrics_of`).
        data: its classes and splits count; where classes are named, the masks of the measured splits are read once and remembered.
        test: whether the split ``test`` is measured (the setting ``test``).
        where: file or option the names come from, for the message.
        key: what a name is there, for the message.

    Raises:
        ConfigError: every name that is no metric of the trainer, names an unknown class or split, or classes that a split never shows.
    """
    beside = data.beside_val(test)
    found: list[MetricName] = []
    problems: list[Problem] = []
    for name in names:
        try:
            read = read_metric(name, metrics, classes=data.classes, splits=beside, where=where, key=key)
        except ConfigError as error:
            problems += error.problems
            continue
        # A trainer measures all splits alike.
        absent = [] if not read.classes else [split for split in ("val", *beside) if not _occurs(data, read.classes, split)]
        if absent:
            rule = f"no mask of {' and '.join(absent)} holds a pixel of {' or '.join(read.classes)}, so there is nothing to measure"
            problems.append(Problem(where, key, rule, name, "miou"))
        found.append(read)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def requested(names: Iterable[MetricName]) -> list[str]:
    """The setting ``metrics`` (:class:`nasseg.training.config.TrainingConfig`) with which a trainer measures these names.

    A study adds it to its trainer's settings, so that an objective need not be named twice. Metrics that are always measured and those of
    the trainer's own are not in it.
    """
    wanted = (str(name.on_val) for name in names if name.metric.on_request and name.metric in METRICS)
    return list(dict.fromkeys(wanted))


def _occurs(data: DataSet, classes: Sequence[str], split: str) -> bool:
    counts_K = class_counts(data.split(split), data.num_classes).sum(axis=0, dtype=np.int64)
    return any(counts_K[data.classes.index(name)] for name in classes)
