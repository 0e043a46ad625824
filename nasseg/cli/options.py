"""What several verbs read from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from nasseg.errors import ConfigError, Problem
from nasseg.files import parse_yaml


class SizeType(click.ParamType[tuple[int, int]]):
    """``HxW`` in pixels, or one number for a square."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", str(value).strip())
        if not found or int(found[1]) < 1 or int(found[2] or 1) < 1:
            raise ConfigError(Problem("", f"--{param.name}" if param else "size", "a size is HEIGHTxWIDTH in pixels", value, "512x512"))
        return int(found[1]), int(found[2] or found[1])


SIZE = SizeType()


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """``("stage3.lpm=se", "trainer.lr=1e-3")`` to a mapping; values are YAML scalars or inline lists."""
    out: dict[str, Any] = {}
    problems: list[Problem] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            problems.append(Problem("", "--set", "wants key=value", pair, f"{key or 'key'}=value"))
        else:
            out[key.strip()] = parse_yaml(text, f"--set {key}") if text.strip() else None
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
