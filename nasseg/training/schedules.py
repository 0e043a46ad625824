"""Named schedules: the published settings of a data set's training as one YAML file, under a recipe.

``nasseg train TARGET --data D --schedule ade20k-160k --out runs/Y`` takes ``trainer``, ``size`` and ``settings`` from the file; what the
command line says goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import parse_yaml, read_yaml
from nasseg.training.trainer import HOME, load_trainer

FOLDER = "schedules"
SUFFIX = ".yaml"
KEYS = ("about", "trainer", "size", "settings")


@dataclass(frozen=True, kw_only=True)
class NamedSchedule:
    """A file's content. ``size`` is (height, width) of the training crop; ``settings`` are the recipe's fields the file sets."""

    name: str
    about: str
    trainer: str
    size: tuple[int, int]
    settings: Mapping[str, Any]

    @classmethod
    def from_mapping(cls, name: str, raw: Any) -> Self:
        """Checked: keys, the recipe, the size and every setting; raises :class:`ConfigError` with all that is wrong."""
        where = f"schedule {name}"
        if not isinstance(raw, Mapping):
            raise ConfigError(Problem(where, "", f"must be a mapping with {', '.join(KEYS)}"))
        problems = [Problem(where, str(key), "no such key", None, nearest(key, KEYS), tuple(KEYS)) for key in raw if key not in KEYS]
        problems += [Problem(where, key, "is missing") for key in KEYS if key not in raw]
        if problems:
            raise ConfigError(problems)
        size, settings = raw["size"], raw["settings"]
        if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
            problems.append(Problem(where, "size", "must be [height, width] in pixels", size, "[512, 512]"))
        if not isinstance(settings, Mapping):
            problems.append(Problem(where, "settings", "must be a mapping of the recipe's fields"))
        if problems:
            raise ConfigError(problems)
        load_trainer(str(raw["trainer"])).Config.parse(settings, where=f"{where}: settings")
        return cls(name=name, about=str(raw["about"]), trainer=str(raw["trainer"]), size=(size[0], size[1]), settings=dict(settings))


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
