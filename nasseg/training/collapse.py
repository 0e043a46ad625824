"""What the numbers by class give away: classes that are never predicted or nearly so, networks that predict one class; and what to set.

A mean over classes hides both: of eleven classes five at IoU 0 and six at 80 are an mIoU of 44. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

LOW = 1.0
"""Percent. A class whose IoU is below counts as not learnt."""


@dataclass(frozen=True, slots=True)
class Collapse:
    """What is wrong with one measurement; false where nothing is.

    Args:
        single: the class that every pixel is given to.
        never: classes that occur in the masks and are never predicted.
        low: further classes with an IoU below :data:`LOW`, and that IoU in percent.
    """

    single: str | None = None
    never: tuple[str, ...] = ()
    low: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, per_class: Mapping[str, float], unpredicted: Sequence[str] | None) -> Self:
        """From the IoU of each class in percent, and the classes that are never predicted (None: not known, of an older nasseg).

        A class that is absent from ``per_class`` occurs neither in the masks nor in the predictions.
        """
        never = tuple(name for name in per_class if name in (unpredicted or ()))
        predicted = [name for name in per_class if name not in never]
        single = predicted[0] if unpredicted is not None and len(predicted) == 1 < len(per_class) else None
        return cls(single, never, tuple((name, per_class[name]) for name in predicted if per_class[name] < LOW))

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class with an IoU below :data:`LOW`."""
        return (*self.never, *(name for name, _ in self.low))

    def __bool__(self) -> bool:
        return bool(self.single or self.classes)

    def sentences(self) -> list[str]:
        """One line for each thing that is wrong, classes by name."""
        found = []
        if self.single is not None:
            found.append(f"every pixel is given to {self.single}: the network tells no classes apart")
        if self.never:
            found.append(f"never predicted: {', '.join(self.never)}")
        if self.low:
            found.append(f"IoU below {LOW:g} %: {', '.join(f'{name} {value:.2f}' for name, value in self.low)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"single": self.single, "never": list(self.never), "low": dict(self.low)}


def worst_class(per_class: Mapping[str, float]) -> tuple[str, float] | None:
    """Name and IoU in percent of the class with the lowest IoU, the first of several; None where nothing was measured by class."""
    return min(per_class.items(), key=lambda item: item[1]) if per_class else None


def worst_entry(per_class: Mapping[str, float]) -> dict[str, Any] | None:
    """:func:`worst_class` for JSON."""
    found = worst_class(per_class)
    return None if found is None else {"name": found[0], "iou": found[1]}


def advice(settings: Mapping[str, Any], class_weights: Mapping[str, Any]) -> str:
    """Options that make a next run learn the classes that this one did not, as ``nasseg train`` and ``nasseg search`` take them.

    Weights of classes come first: they do most (bench/rare_class.py). Where there are some, images that hold rare classes are to be drawn
    more often, and the run is to be longer.

    Args:
        settings: those of the trainer the result was reached with; empty where they are not known.
        class_weights: :attr:`nasseg.training.trial.Result.class_weights`; empty where it is not known.
    """
    if not class_weights.get("weights") and settings.get("class_weights") != "sqrt_median_frequency":
        found = ["class_weights=sqrt_median_frequency"]
    else:
        found = [] if settings.get("balance") else ["balance=0.5"]
        found += [f"iterations={2 * int(settings['iterations'])}"] if "iterations" in settings else []
    return " ".join(f"--set trainer.{text}" for text in found)
