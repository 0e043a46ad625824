"""What passes between a study and those who run its trials: the recipe all share, candidates, proposals, results as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import optuna

from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Point
from nasseg.genes.variable import Nearest, same
from nasseg.search.samplers import LegalSampler
from nasseg.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all trials of a study share. Fingerprints stand for data and weights in the key, so a moved folder does not change it."""

    data: str
    size: tuple[int, int]
    trainer: str = "proxy"
    settings: Mapping[str, Any] = field(default_factory=dict)
    fidelity: float = 1.0
    seed: int = 0
    weights: str | None = None
    pretrained: bool = False
    data_fingerprint: str | None = None
    weights_digest: str | None = None

    def trial(self, genotype: Genotype, settings: Mapping[str, Any], workdir: str | None = None) -> Trial:
        """One network to train this way; searched settings win over fixed ones."""
        return Trial(
            genotype=genotype,
            data=self.data,
            size=self.size,
            trainer=self.trainer,
            settings={**self.settings, **settings},
            fidelity=self.fidelity,
            seed=self.seed,
            weights=self.weights,
            pretrained=self.pretrained,
            workdir=workdir,
        )

    def key(self, genotype: Genotype, settings: Mapping[str, Any]) -> str:
        """One name for what decides the outcome: equal keys are trained once."""
        trial = self.trial(genotype, settings)
        return replace(trial, data=self.data_fingerprint or self.data, weights=self.weights_digest or self.weights).key


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A whole proposal as the journal keeps it."""

    genotype: Mapping[str, Any]
    settings: Mapping[str, Any]
    cost: Mapping[str, float]
    key: str
    origin: str
    id: str
    short: str

    def point(self) -> Point:
        """The point of the space that was proposed."""
        return Point(Genotype.from_dict(self.genotype), dict(self.settings))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` gives the candidate back."""
        return {name: dict(v) if isinstance(v := getattr(self, name), Mapping) else v for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**raw)


@dataclass(frozen=True)
class Proposal:
    """A trial to run, under its number in the study. ``trial.workdir`` is the trial's folder; a worker takes its own attempt within."""

    number: int
    trial: Trial
    attempt: int


class Chooser:
    """A space's questions answered by an Optuna trial, which stores the legal answers."""

    def __init__(self, trial: optuna.Trial, sampler: LegalSampler) -> None:
        self.trial = trial
        self.sampler = sampler

    def categorical(self, name: str, choices: Sequence[Any], nearest: Nearest = same) -> Any:
        """One of the choices, a legal one."""
        self.sampler.nearest = nearest
        try:
            return self.trial.suggest_categorical(name, choices)
        finally:
            self.sampler.nearest = same

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """A whole number, both ends included."""
        return self.trial.suggest_int(name, low, high, step=step, log=log)

    def real(self, name: str, low: float, high: float, log: bool = False) -> float:
        """A real number."""
        return self.trial.suggest_float(name, low, high, log=log)


def finite(value: Any) -> Any:
    """JSON has no NaN: unfinite numbers become text (``"nan"``), at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def unfinite(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`finite` for a result's metrics, where numbers are expected."""
    out = dict(raw)
    for name in ("metrics", "per_class"):
        out[name] = {k: float(v) for k, v in raw.get(name, {}).items()}
    return out
