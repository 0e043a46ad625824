"""Named schedules: the published settings of a data set's training as one YAML file, under a recipe.

``nasseg train TARGET --data D --schedule ade20k-160k --out runs/Y`` takes ``trainer``, ``size`` and ``settings`` from the file; what the
command line says goes first. ``by_backbone`` names backbones that the paper trains otherwise, with the size and the settings that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import parse_yaml, read_yaml
from nasseg.models.backbones.registry import BUILTIN, is_backbone, parse_name
from nasseg.training.trainer import HOME, load_trainer

FOLDER = "schedules"
SUFFIX = ".yaml"
KEYS = ("about", "trainer", "size", "settings")
BY_BACKBONE = "by_backbone"
PART_KEYS = ("size", "settings")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What differs for one backbone: another crop, other values of some settings."""

    size: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NamedSchedule:
    """A file's content. ``size`` is (height, width) of the training crop; ``settings`` are the recipe's fields the file sets;
    ``by_backbone`` what differs for some backbones, by name without arguments (:meth:`on`)."""

    name: str
    about: str
    trainer: str
    size: tuple[int, int]
    settings: Mapping[str, Any]
    by_backbone: Mapping[str, Part] = field(default_factory=dict)

    def on(self, backbone: str | None) -> Self:
        """The schedule as it is for ``backbone`` (arguments behind a question mark do not matter)."""
        part = self.by_backbone.get("" if backbone is None else parse_name(backbone)[0])
        if part is None:
            return replace(self, by_backbone={})
        return replace(self, size=part.size or self.size, settings={**self.settings, **part.settings}, by_backbone={})

    @classmethod
    def from_mapping(cls, name: str, raw: Any) -> Self:
        """Checked: keys, the recipe, the size and every setting; raises :class:`ConfigError` with all that is wrong."""
        where = f"schedule {name}"
        if not isinstance(raw, Mapping):
            raise ConfigError(Problem(where, "", f"must be a mapping with {', '.join(KEYS)}"))
        known = (*KEYS, BY_BACKBONE)
        problems = [Problem(where, str(key), "no such key", None, nearest(key, known), known) for key in raw if key not in known]
        problems += [Problem(where, key, "is missing") for key in KEYS if key not in raw]
        if problems:
            raise ConfigError(problems)
        size, settings, parts = raw["size"], raw["settings"], raw.get(BY_BACKBONE, {})
        problems += [*_size_problems(where, size), *_settings_problems(where, settings), *_part_problems(where, parts)]
        if problems:
            raise ConfigError(problems)
        config = load_trainer(str(raw["trainer"])).Config
        config.parse(settings, where=f"{where}: settings")
        for backbone, part in parts.items():
            config.parse({**settings, **part.get("settings", {})}, where=f"{where}: {BY_BACKBONE}: {backbone}: settings")
        return cls(
            name=name,
            about=str(raw["about"]),
            trainer=str(raw["trainer"]),
            size=(size[0], size[1]),
            settings=dict(settings),
            by_backbone={
                backbone: Part(size=tuple(part["size"]) if "size" in part else None, settings=dict(part.get("settings", {})))
                for backbone, part in parts.items()
            },
        )


def _size_problems(where: str, size: Any) -> list[Problem]:
    fits = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    return [] if fits else [Problem(where, "size", "must be [height, width] in pixels", size, "[512, 512]")]


def _settings_problems(where: str, settings: Any) -> list[Problem]:
    return [] if isinstance(settings, Mapping) else [Problem(where, "settings", "must be a mapping of the recipe's fields")]


def _part_problems(where: str, parts: Any) -> list[Problem]:
    """What is wrong with ``by_backbone``, the values of its settings apart."""
    where = f"{where}: {BY_BACKBONE}"
    if not isinstance(parts, Mapping):
        return [Problem(where, "", f"must be a mapping of backbones' names to {' and '.join(PART_KEYS)}")]
    problems: list[Problem] = []
    for backbone, part in parts.items():
        if not is_backbone(str(backbone)):
            problems.append(Problem(where, str(backbone), "no such backbone", None, nearest(backbone, BUILTIN)))
        elif not isinstance(part, Mapping) or not part or not set(part) <= set(PART_KEYS):
            problems.append(Problem(where, str(backbone), f"must be a mapping with {' or '.join(PART_KEYS)}, or both"))
        else:
            place = f"{where}: {backbone}"
            problems += _size_problems(place, part["size"]) if "size" in part else []
            problems += _settings_problems(place, part["settings"]) if "settings" in part else []
    return problems


def schedule_names() -> list[str]:
    """The schedules that come with nasseg."""
    return sorted(file.name.removesuffix(SUFFIX) for file in _home().iterdir() if file.name.endswith(SUFFIX))


def load_schedule(name: str) -> NamedSchedule:
    """A schedule by its name, or a file of one's own by its path.

    Raises :class:`ConfigError` for a name that is none, an unreadable file, and a file with anything wrong in it.
    """
    names = schedule_names()
    if name in names:
        return NamedSchedule.from_mapping(name, parse_yaml((_home() / f"{name}{SUFFIX}").read_text(encoding="utf-8"), name))
    if name.endswith((SUFFIX, ".yml", ".json")):
        return NamedSchedule.from_mapping(Path(name).stem, read_yaml(name))
    rule = f"no such schedule; there are {', '.join(names)}, or a YAML file"
    raise ConfigError(Problem("", "--schedule", rule, name, nearest(name, names)))


def _home() -> Traversable:
    return resources.files(HOME) / FOLDER
