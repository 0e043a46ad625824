"""The metrics a measurement reports: name, label, unit, direction; and how a name such as ``iou[crop,weed]_holdout`` is read.

A name is ``METRIC``, ``METRIC[CLASS,…]`` for the mean over chosen classes, and either with ``_SPLIT`` behind for a split other than val.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nasseg.errors import ConfigError, Problem, nearest

NONE, OPTIONAL, REQUIRED = "none", "optional", "required"
"""Whether classes stand behind a metric's name, in brackets."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a trainer reports under ``name`` in :attr:`nasseg.training.trial.Result.metrics`.

    A trainer declares its metrics in the class attribute ``metrics`` (:class:`nasseg.training.trial.Trainer`)::

        class Mine(Recipe):
            metrics = (*Recipe.metrics, Metric("blob_recall", "blob recall", about="share of objects hit by one pixel or more"))

    Args:
        name: as in results and objectives: small letters, digits, underscores.
        label: as tables show it; the name where it is left out.
        direction: ``max`` or ``min``, whichever is better.
        unit: of the number; empty for a plain number.
        about: what it is, in one sentence.
        classes: ``none``; ``optional`` or ``required`` where names of classes may or must follow in brackets.
        on_request: measured only where the trainer's setting ``metrics`` names it.

    Raises:
        ConfigError: a name that could not be read back, or a direction other than ``max`` and ``min``.
    """

    name: str
    label: str = ""
    direction: str = "max"
    unit: str = "%"
    about: str = ""
    classes: str = NONE
    on_request: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            legal = re.sub(r"[^a-z0-9_]+", "_", self.name.lower()).lstrip("_0123456789") or None
            raise ConfigError(Problem("metric", "name", "is small letters, digits and underscores", self.name, legal))
        if self.direction not in ("max", "min"):
            raise ConfigError(Problem(f"metric {self.name}", "direction", "must be max or min", self.direction, "max"))

    @property
    def pattern(self) -> str:
        """The name as a message shows it: ``iou[CLASS,…]``."""
        return self.name if self.classes == NONE else f"{self.name}[CLASS,…]"


METRICS = (
    Metric("miou", "mIoU", about="mean over classes of intersection / union"),
    Metric("macc", "mAcc", about="mean over classes of right pixels / pixels of the class"),
    Metric("aacc", "aAcc", about="right pixels / counted pixels"),
    Metric("iou", "IoU", about="mean IoU of the classes named", classes=REQUIRED, on_request=True),
    Metric("worst_iou", "worst IoU", about="IoU of the worst class", on_request=True),
    Metric(
        "boundary_iou",
        "boundary IoU",
        about="mean over classes, or over those named, of the IoU of the pixels near outlines (Cheng et al., 2103.16562)",
        classes=OPTIONAL,
        on_request=True,
    ),
)
"""What :func:`nasseg.training.evaluate.evaluate` can report, all in percent, in the order tables show it."""


@dataclass(frozen=True, slots=True)
class MetricName:
    """A name taken apart. ``split`` None is val."""

    metric: Metric
    classes: tuple[str, ...] = ()
    split: str | None = None

    def __str__(self) -> str:
        inside = f"[{','.join(_quoted(name) for name in self.classes)}]" if self.classes else ""
        return f"{self.metric.name}{inside}" + ("" if self.split is None else f"_{self.split}")

    @property
    def label(self) -> str:
        """As a table shows it: ``IoU[crop, weed] holdout``."""
        inside = f"[{', '.join(self.classes)}]" if self.classes else ""
        return f"{self.metric.label or self.metric.name}{inside}" + ("" if self.split is None else f" {self.split}")

    @property
    def on_val(self) -> MetricName:
        """The same on val, which is what a trainer is asked to measure: it measures all splits alike."""
        return replace(self, split=None)


def read_metric(
    text: str,
    metrics: Sequence[Metric] = METRICS,
    *,
    classes: Sequence[str] | None = None,
    splits: Iterable[str] | None = None,
    where: str = "",
    key: str = "metric",
) -> MetricName:
    """Take a name apart and check it.

    Args:
        text: ``miou``, ``miou_holdout``, ``iou[crop,weed]``, ``boundary_iou[weed]_holdout``. A class with a comma in its name stands in
            double quotes.
        metrics: those there are, such as a trainer's ``metrics``.
        classes: the data's classes; None takes any.
        splits: the splits measured beside val (:meth:`nasseg.data.dataset.DataSet.beside_val`); None takes any.
        where: file or option the name comes from, for the message.
        key: what the name is there, for the message.

    Raises:
        ConfigError: with the nearest legal name.
    """

    def wrong(rule: str, legal: object = None) -> ConfigError:
        return ConfigError(Problem(where, key, rule, text, legal))

    found = _cut(text, metrics)
    if found is None:
        patterns = ", ".join(metric.pattern for metric in metrics)
        raise wrong(f"no such metric; there are {patterns}, each with _SPLIT behind for another split", _near(text, metrics, classes))
    metric, inside, split = found
    if metric.classes == REQUIRED and inside is None:
        raise wrong(f"names its classes in brackets: {metric.pattern}", f"{metric.name}[{_quoted(classes[0])}]" if classes else None)
    if metric.classes == NONE and inside is not None:
        raise wrong("is of all classes and takes none in brackets", metric.name)
    named = () if inside is None else tuple(part.strip() for part in next(csv.reader([inside], skipinitialspace=True), []))
    if inside is not None and (not named or "" in named or len(set(named)) < len(named)):
        fixed = MetricName(metric, tuple(dict.fromkeys(name for name in named if name)), split)
        raise wrong("names each class once, by comma", str(fixed) if fixed.classes else None)
    unknown = [] if classes is None else [name for name in named if name not in classes]
    if unknown and classes is not None:
        legal = tuple(dict.fromkeys(name if name in classes else nearest(name, classes) for name in named))
        rule = f"no class {', '.join(unknown)}; the data has {', '.join(classes)}"
        raise wrong(rule, None if None in legal else str(MetricName(metric, legal, split)))
    if splits is not None and split is not None and split not in (there := list(splits)):
        close = nearest(split, there)
        rule = f"no split {split} is measured; there are {', '.join(['val, which is not named', *there])}"
        raise wrong(rule, str(MetricName(metric, named, close)))
    return MetricName(metric, named, split)


def label_of(text: str) -> str:
    """How a table shows a metric of this name: ``mIoU holdout``; a name that is none of :data:`METRICS` stays as it is."""
    label, split = label_and_split(text)
    return label if split is None else f"{label} {split}"


def label_and_split(text: str) -> tuple[str, str | None]:
    """``("mIoU", "holdout")`` for ``miou_holdout``; a name that is none of :data:`METRICS` stays as it is, with no split."""
    try:
        found = read_metric(text)
    except ConfigError:
        return text, None
    return found.on_val.label, found.split


def _cut(text: str, metrics: Sequence[Metric]) -> tuple[Metric, str | None, str | None] | None:
    """(metric, text between the brackets or None, split or None); None where no metric has this name."""
    by_name = {metric.name: metric for metric in metrics}
    if (found := re.fullmatch(r"([^\[\]]*)\[(.*)\](?:_([^\[\]]+))?", text.strip(), re.DOTALL)) is not None:
        head, inside, split = found.groups()
        return (by_name[head], inside, split) if head in by_name else None
    if text in by_name:
        return by_name[text], None, None
    heads = [name for name in by_name if text.startswith(f"{name}_") and len(text) > len(name) + 1]
    head = max(heads, key=len, default="")
    return (by_name[head], None, text[len(head) + 1 :]) if head else None


def _near(text: str, metrics: Sequence[Metric], classes: Sequence[str] | None) -> str | None:
    """The legal name nearest to one of no metric."""
    head, bracket, tail = text.partition("[")
    if bracket:
        close = nearest(head, [metric.name for metric in metrics if metric.classes != NONE])
        return None if close is None else f"{close}[{tail}"
    whole = [metric.name for metric in metrics if metric.classes != REQUIRED]
    legal: str | None = nearest(text, [*whole, *(f"iou[{_quoted(name)}]" for name in classes or ())])
    return legal


def _quoted(name: str) -> str:
    return f'"{name.replace(chr(34), 2 * chr(34))}"' if re.search(r'[,"]|^\s|\s$', name) else name
