"""The published designs: each a genotype without a backbone, at home on any four-stage one."""

from __future__ import annotations

from importlib.resources import files

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import parse_yaml
from nasseg.genes.genotype import Genotype

PRESETS = ("segformer", "feedformer", "u_mixformer", "metaseg", "scaseg", "scaseg_city", "csap", "canet_fca")
"""Names, in the order they are listed."""


def preset_text(name: str) -> str:
    """The preset's file, comments and all. Raises :class:`ConfigError` for a name that is not in :data:`PRESETS`."""
    if name not in PRESETS:
        raise ConfigError(Problem("", "preset", f"no such design; there are {', '.join(PRESETS)}", name, nearest(name, PRESETS)))
    return (files("nasseg.search_spaces.presets") / f"{name}.yaml").read_text(encoding="utf-8")


def preset(name: str, backbone: str | None = None) -> Genotype:
    """The published design ``name``, set on ``backbone`` if one is given."""
    return Genotype.from_dict(parse_yaml(preset_text(name), f"preset {name}"), where=f"preset {name}").on(backbone)


def describe_preset(name: str) -> tuple[str, str]:
    """What the design is and where it was published, in one sentence each, from the head of its file."""
    lines = [line.removeprefix("#").strip() for line in preset_text(name).splitlines() if line.startswith("#")]
    return lines[0], lines[1].removeprefix("Source:").strip()
