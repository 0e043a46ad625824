"""What ``nasseg train`` is to train: a study's trial, a genotype file, a published design or network, with everything given beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from nasseg.cli.genotypes import read_genotype
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError, Problem
from nasseg.genes.genotype import Genotype
from nasseg.published.network import Published, is_published
from nasseg.search.store import Picked, is_study, pick
from nasseg.training.schedules import NamedSchedule
from nasseg.training.trial import Trial

LARGEST_SHORT_SIDE = 512
TRAINER = "full"
"""The recipe where none is named."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of the command line; None is what was not given."""

    data: str | None = None
    size: tuple[int, int] | None = None
    backbone: str | None = None
    weights: str | None = None
    pretrained: bool | None = None
    seed: int | None = None
    trainer: str | None = None
    genes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def by(self, schedule: NamedSchedule | None, backbone: str | None) -> Self:
        """With the size and the settings of a schedule for ``backbone`` where none were given."""
        if schedule is None:
            return self
        plan = schedule.on(backbone)
        return replace(self, size=self.size or plan.size, settings={**plan.settings, **self.settings})


def trial_of(target: str, asked: Asked, schedule: NamedSchedule | None = None) -> Trial:
    """The trial that was asked for.

    A study's trial brings its data, size, weights, seed and the training settings that were searched; those the whole study was run with
    only where the same recipe trains it again. A published network (:mod:`nasseg.published`) brings its weights and the size it was trained
    at. A schedule goes before those, as it is for the network's backbone; what is given on the command line goes first. Raises the
    :class:`NassegError` of what is wrong.
    """
    if asked.weights is not None and asked.pretrained:
        raise ConfigError(Problem("", "--pretrained", "gets published weights and --weights a file's: give one of them", asked.weights))
    trainer = asked.trainer or (TRAINER if schedule is None else schedule.trainer)
    found = Path(target).is_dir() and is_study(target)
    named = re.fullmatch(r"(.+):(\w+)", target)
    if found or (named and is_study(named[1])):
        return _of_study(pick(target), asked, trainer, schedule)
    data = asked.data or "synthetic"
    if is_published(target):
        return _of_published(target, asked, data, trainer, schedule)
    genotype = _changed(read_genotype(target, asked.backbone), asked)
    asked = asked.by(schedule, genotype.backbone)
    return Trial(
        genotype=genotype,
        data=data,
        size=asked.size or natural_size(data),
        trainer=trainer,
        settings=dict(asked.settings),
        seed=asked.seed or 0,
        weights=asked.weights,
        pretrained=bool(asked.pretrained),
    )


def _of_published(target: str, asked: Asked, data: str, trainer: str, schedule: NamedSchedule | None) -> Trial:
    """A published network, to be trained further: it brings its genotype, its weights, its size and its padding."""
    given = {"--backbone": asked.backbone, "--weights": asked.weights, "--pretrained": asked.pretrained or None}
    rule = "is not for a published network, which has its encoder and all its weights"
    problems = [Problem("", name, rule, value) for name, value in given.items() if value is not None]
    rule = "a published network's genes are what its weights are for; train its design with new weights from a genotype file instead"
    problems += [Problem("", f"--set {gene}", rule, value) for gene, value in asked.genes.items()]
    if problems:
        raise ConfigError(problems)
    found = Published.open(target)
    asked = asked.by(schedule, found.genotype.backbone)
    return Trial(
        genotype=found.genotype,
        data=data,
        size=asked.size or found.size or natural_size(data),
        trainer=trainer,
        settings={"pad_multiple": found.pad_multiple, **asked.settings},
        seed=asked.seed or 0,
        network=target,
    )


def _of_study(picked: Picked, asked: Asked, trainer: str, schedule: NamedSchedule | None) -> Trial:
    fixed = picked.fixed if picked.trainer == trainer else {}
    genotype = _changed(picked.genotype, asked)
    asked = asked.by(schedule, genotype.backbone)
    same_backbone = genotype.backbone == picked.genotype.backbone
    pretrained = picked.pretrained if asked.pretrained is None and asked.weights is None and same_backbone else bool(asked.pretrained)
    return Trial(
        genotype=genotype,
        data=asked.data or picked.data,
        size=asked.size or picked.size,
        trainer=trainer,
        settings={**fixed, **picked.settings, **asked.settings},
        seed=picked.seed if asked.seed is None else asked.seed,
        weights=asked.weights or (picked.weights if same_backbone and not pretrained else None),
        pretrained=pretrained,
    )


def _changed(genotype: Genotype, asked: Asked) -> Genotype:
    if asked.backbone is not None:
        genotype = genotype.on(asked.backbone.removeprefix("timm:"))
    return genotype.override(asked.genes) if asked.genes else genotype


def natural_size(data: str) -> tuple[int, int]:
    """The size to train at where none is given: that of the first training image, its short side at most 512, in multiples of 32."""
    height, width = open_data(data).split("train")[0].mask.shape
    scale = min(1.0, LARGEST_SHORT_SIDE / min(height, width))
    return max(32, round(height * scale / 32) * 32), max(32, round(width * scale / 32) * 32)
