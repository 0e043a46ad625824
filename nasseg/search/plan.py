"""All that decides a study, read and checked before anything is written; and ``study.yaml``, which says it again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nasseg
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError, Problem, StudyError, WeightsError, nearest
from nasseg.files import read_yaml
from nasseg.genes.budget import Budget, quantity
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.genes.variable import Setting
from nasseg.models.backbones.pretrained import identities
from nasseg.models.costing import backbone_facts, cost
from nasseg.search.candidate import Recipe
from nasseg.search.objectives import Given, check_objectives
from nasseg.search.proposer import Proposer
from nasseg.search.samplers import SAMPLERS
from nasseg.search.store import CONFIG
from nasseg.training.config import TrainingConfig
from nasseg.training.trainer import load_trainer

FORMAT = 1
"""Version of ``study.yaml``; a reader refuses a higher one."""

UNCOMPARED = ("format", "versions", "created", "trials", "data.spec", "data.name", "weights.path", "pretrained_weights.source")
"""Parts of ``study.yaml`` that may differ when a study goes on: paths may move as long as their content is the same."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study about to start or to go on. Made by :func:`make_plan`."""

    space: Space
    budget: Budget
    objectives: Mapping[str, str]
    data: str
    data_name: str
    data_fingerprint: str
    num_classes: int
    size: tuple[int, int]
    backbones: tuple[str, ...]
    weights: str | None
    weights_digest: str | None
    pretrained: bool
    pretrained_weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trainer: str
    settings: Mapping[str, Any]
    operational: frozenset[str] = field(default_factory=frozenset)
    fidelity: float
    seed: int
    sampler: str
    trials: int
    out: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The recipe's own values of the settings that the space leaves open, by field: what a study tries first."""

    def cost(self, genotype: Genotype) -> Mapping[str, float]:
        """A genotype's cost at this study's size and classes, under the names of a budget."""
        return cost(genotype, size=self.size, num_classes=self.num_classes).values()

    @cached_property
    def proposer(self) -> Proposer:
        """Draws from the space under the budget."""
        return Proposer(self.space, self.budget, self.cost, self.defaults)

    @property
    def recipe(self) -> Recipe:
        """What all trials share."""
        return Recipe(
            data=self.data,
            size=self.size,
            trainer=self.trainer,
            settings=self.settings,
            fidelity=self.fidelity,
            seed=self.seed,
            weights=self.weights,
            pretrained=self.pretrained,
            data_fingerprint=self.data_fingerprint,
            weights_digest=self.weights_digest,
        )

    def config(self) -> dict[str, Any]:
        """The content of ``study.yaml``."""
        return {
            "format": FORMAT,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {"nasseg": nasseg.__version__, "python": platform.python_version()}
            | {name: version(name) for name in ("torch", "timm", "optuna", "ray", "numpy")},
            "trials": self.trials,
            "objectives": dict(self.objectives),
            "budget": self.budget.to_dict(),
            "sampler": self.sampler,
            "seed": self.seed,
            "data": {"spec": self.data, "name": self.data_name, "fingerprint": self.data_fingerprint},
            "classes": self.num_classes,
            "size": list(self.size),
            "backbones": list(self.backbones),
            "weights": {"path": self.weights, "digest": self.weights_digest},
            "pretrained": self.pretrained,
            "pretrained_weights": {key: dict(value) for key, value in self.pretrained_weights.items()},
            "trainer": self.trainer,
            "settings": dict(self.settings),
            "fidelity": self.fidelity,
            "space": self.space.to_dict(),
        }

    def earlier(self) -> Mapping[str, Any] | None:
        """The configuration of the study that lies in ``out`` already, None for a new folder.

        Raises :class:`StudyError` where ``out`` is something else, belongs to another study (saying what differs), or was written by a
        newer nasseg.
        """
        if not self.out.exists():
            return None
        if not self.out.is_dir():
            raise StudyError(f"{self.out} is a file; --out names a folder")
        try:
            there = sorted(path.name for path in self.out.iterdir() if not path.name.startswith(".") and path.name != "search.log")
        except OSError as error:
            raise StudyError(f"{self.out} cannot be read: {error.strerror}") from error
        if CONFIG not in there:
            if there:
                raise StudyError(f"{self.out} holds something else ({', '.join(there[:3])}); --out names a new folder or a study's")
            return None
        found = read_yaml(self.out / CONFIG)
        if not isinstance(found, Mapping) or not isinstance(found.get("format"), int):
            raise StudyError(f"{self.out / CONFIG} is not the configuration of a study")
        if found["format"] > FORMAT:
            raise StudyError(f"{self.out / CONFIG} was written by a newer nasseg (format {found['format']}; this one reads {FORMAT})")
        changed = differences(found, self.config(), [f"settings.{name}" for name in self.operational])
        if changed:
            more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
            raise StudyError(
                f"{self.out} belongs to another study; it differs in {'; '.join(changed[:8])}{more}. "
                "Give another --out, or the old settings"
            )
        return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Iterable[str] = ()) -> list[str]:
    """What differs between two configurations, ``budget.macs: 1.50G → 2.00G``, leaving out what may differ."""
    before, after = flat(old), flat(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    skipped = (*UNCOMPARED, *allowed)
    return [
        f"{name}: {shown(name, before.get(name))} → {shown(name, after.get(name))}"
        for name in names
        if not any(name == skip or name.startswith(f"{skip}.") for skip in skipped)
    ]


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under dotted names; lists stay whole."""
    out: dict[str, Any] = {}
    for key, content in value.items():
        if isinstance(content, Mapping) and content:
            out |= flat(content, f"{prefix}{key}.")
        elif content not in ({}, [], None):
            out[f"{prefix}{key}"] = list(content) if isinstance(content, tuple) else content
    return out


def shown(name: str, value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "none"
    if name.startswith("budget.") and isinstance(value, (int, float)):
        return quantity(value)
    return "x".join(map(str, value)) if name == "size" else str(value)


def make_plan(
    space: Space | str | Path,
    *,
    data: str,
    size: tuple[int, int],
    trials: int,
    out: str | Path,
    backbone: str | None = None,
    budget: Budget | Mapping[str, Any] | str | None = None,
    trainer: str = "proxy",
    settings: Mapping[str, Any] | None = None,
    genes: Mapping[str, Any] | None = None,
    genotype: Genotype | None = None,
    weights: str | Path | None = None,
    pretrained: bool = False,
    fidelity: float = 1.0,
    seed: int = 0,
    sampler: str = "tpe",
    objectives: Given | None = None,
) -> Plan:
    """Read and check everything a study needs; writes nothing.

    ``genes`` fixes genes of the space, ``genotype`` fixes all of them (a study of training settings), ``settings`` the trainer's fields.
    ``budget`` and ``objectives`` replace the space's. Raises :class:`NassegError` with a sentence for everything that cannot be.
    """
    problems: list[Problem] = []
    if isinstance(trials, bool) or trials < 1:
        problems.append(Problem("", "--trials", "must be a whole number from 1", trials, 1))
    if not 0 < fidelity <= 1:
        problems.append(Problem("", "--fidelity", "must be above 0 and at most 1", fidelity, 1.0))
    if sampler not in SAMPLERS:
        problems.append(Problem("", "--sampler", f"must be one of {', '.join(SAMPLERS)}", sampler, nearest(sampler, SAMPLERS)))
    if seed < 0:
        problems.append(Problem("", "--seed", "must be a whole number from 0", seed, 0))
    if min(size) < 32:
        problems.append(Problem("", "--size", "height and width must be at least 32 pixels", f"{size[0]}x{size[1]}", "64x64"))
    if weights is not None and pretrained:
        problems.append(Problem("", "--pretrained", "gets weights from the hub and --weights from a file: give one of them"))
    if problems:
        raise ConfigError(problems)

    opened = space if isinstance(space, Space) else Space.load(str(space))
    opened = fixed_space(opened, genotype, genes or {}, backbone, settings or {})
    bounds = bounded(opened.budget, budget)
    recipe = load_trainer(trainer)
    # A setting of the space's own stands in every point; here only what the space says nothing about is left.
    fixed = {name: value for name, value in (settings or {}).items() if name not in opened.settings}
    recipe.Config.parse(dict(settings or {}), where="--set trainer")
    check_settings(opened, recipe.Config, fixed)

    found = open_data(data)
    found.probe()
    goal = check_objectives(
        objectives or opened.objectives,
        recipe,
        trainer,
        found,
        test=recipe.Config.parse({**fixed, **opened.settings}).test,
        where="objective" if objectives else f"space {opened.name}: objectives",
    )
    if goal.metrics:
        fixed["metrics"] = list(dict.fromkeys([*recipe.Config.parse(fixed).metrics, *goal.metrics]))
    backbones = tuple(sorted({b for g in opened.sample(64, seed=0) if (b := g.backbone) is not None}))
    if not backbones:
        raise ConfigError(Problem("", "--backbone", "the space names no backbone, so one must be given", None, "mit_b0"))
    for name in backbones:
        backbone_facts(name, size)
    file = None if weights is None else Path(weights).expanduser().absolute()
    plan = Plan(
        space=opened,
        budget=bounds,
        objectives=goal.directions,
        data=found.spec,
        data_name=found.name,
        data_fingerprint=found.fingerprint,
        num_classes=found.num_classes,
        size=(int(size[0]), int(size[1])),
        backbones=backbones,
        weights=None if file is None else str(file),
        weights_digest=None if file is None else file_digest(file),
        pretrained=pretrained,
        pretrained_weights=identities(backbones) if pretrained else {},
        trainer=trainer,
        settings=fixed,
        operational=recipe.Config.OPERATIONAL,
        fidelity=float(fidelity),
        seed=seed,
        sampler=sampler,
        trials=trials,
        out=Path(out),
        defaults=own_values(opened, recipe.Config, fixed, from_scratch=weights is None and not pretrained),
    )
    plan.proposer.check_budget()
    return plan


def bounded(own: Budget, given: Budget | Mapping[str, Any] | str | None) -> Budget:
    """The budget that was given in place of the space's, or the space's."""
    if isinstance(given, str):
        return Budget.parse(given)
    if isinstance(given, Mapping):
        return Budget.from_mapping(given)
    return own if given is None else given


def fixed_space(
    space: Space, genotype: Genotype | None, genes: Mapping[str, Any], backbone: str | None, settings: Mapping[str, Any]
) -> Space:
    """The space with a genotype, single genes, the backbone, and searched settings that were given settled."""
    if genotype is not None:
        if backbone is not None:
            genotype = genotype.on(backbone.strip().removeprefix("timm:"))
        space = space.with_genotype(genotype.override(genes) if genes else genotype)
    elif genes or backbone is not None:
        space = space.with_fixed({**genes, **({} if backbone is None else {"backbone": backbone})})
    searched = {variable.name for variable in space.variables}
    return space.with_fixed({f"train.{name}": value for name, value in settings.items() if f"train.{name}" in searched})


def own_values(space: Space, config_class: type[TrainingConfig], fixed: Mapping[str, Any], *, from_scratch: bool) -> dict[str, Any]:
    """What the recipe takes for each setting that the space leaves open, where nobody says otherwise."""
    config = config_class.parse({**fixed, **space.settings}).on_backbone(from_scratch=from_scratch)
    return {setting.field: getattr(config, setting.field) for setting in space.training.opened}


def check_settings(space: Space, config_class: type[TrainingConfig], fixed: Mapping[str, Any]) -> None:
    """Refuse what a space sets in the trainer that the trainer does not have, or refuses at an end of its range. Raises
    :class:`ConfigError`."""
    drawn = [point.settings for point in space.points(16, seed=0)]
    problems: dict[str, Problem] = {}
    for settings in [*drawn, *extremes(space)]:
        try:
            config_class.parse({**fixed, **settings}, where=f"space {space.name}: train")
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise ConfigError(list(problems.values()))


def extremes(space: Space) -> list[dict[str, Any]]:
    """Each searched setting alone at its ends, or at each of its choices."""
    out: list[dict[str, Any]] = []
    for variable in space.variables:
        if isinstance(variable, Setting):
            ends = (int(variable.low), int(variable.high)) if variable.integer else (float(variable.low), float(variable.high))
            out += [{variable.field: value} for value in (variable.choices or ends)]
    return out


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256. Raises :class:`WeightsError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error


def check_weights(plan: Plan) -> None:
    """Build each backbone once with its weights, so that a wrong file is refused before a trial is spent on it.

    Raises :class:`WeightsError`. With ``pretrained`` this also fetches the weights once, before several workers would at the same time.
    """
    if plan.weights is None and not plan.pretrained:
        return
    # torch and timm take seconds to import; a study that goes on has been checked.
    from nasseg.models.backbones.registry import create_backbone  # noqa: PLC0415

    for name in plan.backbones:
        create_backbone(name, pretrained=plan.pretrained, weights=plan.weights)
