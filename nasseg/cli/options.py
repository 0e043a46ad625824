"""What several verbs read from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import click
from typing_extensions import override

from nasseg.errors import ConfigError, Problem
from nasseg.files import parse_yaml


class SizeType(click.ParamType[tuple[int, int]]):
    """``HxW`` in pixels, or one number for a square."""

    name = "HxW"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", str(value).strip())
        if not found or int(found[1]) < 1 or int(found[2] or 1) < 1:
            raise ConfigError(Problem("", f"--{param.name}" if param else "size", "a size is HEIGHTxWIDTH in pixels", value, "512x512"))
        return int(found[1]), int(found[2] or found[1])


SIZE = SizeType()


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """``("stage3.lpm=se", "trainer.lr=1e-3")`` to a mapping; values are YAML scalars or inline lists.

    Raises :class:`ConfigError` with every pair that is none and every key that is given twice (``train.`` and ``trainer.`` mean the same).
    """
    out: dict[str, Any] = {}
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            problems.append(Problem("", "--set", "wants key=value", pair, f"{key or 'key'}=value"))
            continue
        meant = f"trainer.{key.removeprefix('train.')}" if key.startswith("train.") else key
        if meant in seen:
            problems.append(Problem("", f"--set {key}", f"takes one value, and two are given: {seen[meant]}, {text}"))
        seen[meant] = text
        out[key] = parse_yaml(text, f"--set {key}") if text else None
    if problems:
        raise ConfigError(problems)
    return out


def split_sets(sets: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Genes, and the trainer's fields with ``trainer.`` or ``train.`` taken off."""
    genes: dict[str, Any] = {}
    trainer: dict[str, Any] = {}
    for key, value in sets.items():
        head, _, tail = key.partition(".")
        if head in ("trainer", "train") and tail:
            trainer[tail] = value
        else:
            genes[key] = value
    return genes, trainer
