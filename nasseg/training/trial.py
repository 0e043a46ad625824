"""What goes into one run and what comes out: plain data that crosses processes and machines. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, Self

from nasseg.files import canonical_json, digest
from nasseg.genes.genotype import Genotype
from nasseg.metric import Metric

Report = Callable[[int, Mapping[str, float]], bool]
"""``report(iteration, metrics)`` tells how far a run is, after every iteration; True as its answer asks the run to stop.

``metrics`` hold ``loss`` and ``lr``, and ``miou`` and the like in an iteration that ended with a validation."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One network to train one way.

    ``settings`` are the trainer's fields that differ from its defaults (``{"lr": 1e-3}``). ``fidelity`` in (0, 1] is the share of the
    trainer's iterations that is run, as a complete schedule. ``size`` is (height, width) in pixels of the training crop and of the
    evaluation image. ``weights`` is a file with the backbone's weights, ``network`` a published network (:mod:`nasseg.published`) whose
    weights, decoder included, it begins with. ``workdir`` is where this attempt writes its checkpoints (None: nowhere), ``parent`` a
    checkpoint it goes on from; neither is part of ``key``.
    """

    genotype: Genotype
    data: str
    size: tuple[int, int]
    trainer: str = "proxy"
    settings: Mapping[str, Any] = field(default_factory=dict)
    fidelity: float = 1.0
    seed: int = 0
    weights: str | None = None
    pretrained: bool = False
    network: str | None = None
    workdir: str | None = None
    parent: str | None = None

    @property
    def key(self) -> str:
        """One name for everything that decides the outcome: a trial with a known key is answered from the store."""
        return digest({k: v for k, v in self.to_dict().items() if k not in ("workdir", "parent")}, 16)

    @property
    def from_scratch(self) -> bool:
        """Whether the backbone starts without trained weights."""
        return self.weights is None and not self.pretrained and self.network is None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; :meth:`from_dict` gives the trial back."""
        return {
            "genotype": self.genotype.to_dict(),
            "data": self.data,
            "size": list(self.size),
            "trainer": self.trainer,
            "settings": dict(self.settings),
            "fidelity": self.fidelity,
            "seed": self.seed,
            "weights": self.weights,
            "pretrained": self.pretrained,
            # Left out where there is none: the key of a trial is as it was before there were such.
            **({} if self.network is None else {"network": self.network}),
            "workdir": self.workdir,
            "parent": self.parent,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        height, width = raw["size"]
        return cls(**{**raw, "genotype": Genotype.from_dict(raw["genotype"], where="trial"), "size": (int(height), int(width))})

    def attempt(self, workdir: str | None, parent: str | None) -> Self:
        """The same trial, run in another folder or from another checkpoint."""
        return replace(self, workdir=workdir, parent=parent)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run reached. ``status`` is ``complete`` or ``failed``; a failed one says why in ``reason``.

    ``metrics`` are numbers by name (:mod:`nasseg.metric`): ``miou``, ``macc``, ``aacc`` in percent on the validation split, the same with a
    split's name behind (``miou_holdout``) on others. ``protocol`` says how they were measured. ``per_class`` maps class name to IoU in
    percent (absent where the union is empty), ``unpredicted`` names the classes of val's masks that no pixel was given to (None: not
    known). ``class_weights`` are those of the loss: the ``rule`` that was followed, and the ``weights`` by name. ``checkpoint`` is the best
    model's weights file, if one was written. ``environment`` is :func:`nasseg.training.environment.stamp`'s.
    """

    COMPLETE: ClassVar[str] = "complete"
    FAILED: ClassVar[str] = "failed"

    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    per_class: Mapping[str, float] = field(default_factory=dict)
    unpredicted: Sequence[str] | None = None
    class_weights: Mapping[str, Any] = field(default_factory=dict)
    iterations: int = 0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    checkpoint: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; :meth:`from_dict` gives the result back."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**raw)

    def to_json(self) -> str:
        """On one line, keys sorted."""
        return canonical_json(self.to_dict())


class Trainer(Protocol):
    """What :func:`nasseg.training.trainer.load_trainer` finds: a recipe made from its settings.

    ``metrics`` declares what :meth:`run` reports in ``Result.metrics``: a study takes nothing else for an objective, and refuses other
    names before anything is trained. A class without the attribute declares :data:`nasseg.metric.METRICS`
    (:func:`nasseg.training.trainer.metrics_of`).
    """

    metrics: ClassVar[tuple[Metric, ...]]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Raises :class:`nasseg.errors.ConfigError` with every unknown or illegal setting at once."""

    def run(self, trial: Trial, report: Report) -> Result:
        """Train and measure. NaN and out-of-memory come back as a failed Result with its reason; bad input raises NassegError."""
