"""The cost of a whole network: the backbone counted once and remembered on disk, the decoder by arithmetic.

Importing this loads no torch, and neither does a call whose backbone has been counted before: ``nasseg cost`` then answers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nasseg
from nasseg.cost.cost import PARTS, Cost, Part
from nasseg.cost.macs import decoder_cost, padded
from nasseg.errors import ConfigError, Problem
from nasseg.files import cache_dir, canonical_json, digest, read_json_or_none, write_atomic
from nasseg.genes.genotype import Genotype

Channels = tuple[int, int, int, int]

FORMAT = 1
"""Version of a cached count; another one is counted again."""


def cost(
    genotype: Genotype,
    *,
    size: tuple[int, int],
    num_classes: int,
    backbone: str | None = None,
    in_chans: int = 3,
    resize_logits: bool = False,
) -> Cost:
    """Live parameters and MACs of a network for one image of ``size`` (height, width).

    ``backbone`` replaces the genotype's. ``resize_logits`` adds the resize of the logits to the input size to the fvcore count.

    Raises :class:`ConfigError` where neither names a backbone or a number is out of range, :class:`BackboneError` for a backbone that
    cannot be built.
    """
    whole = genotype if backbone is None else genotype.on(backbone)
    if whole.backbone is None:
        raise ConfigError(Problem("cost", "backbone", "the genotype names no backbone, so one must be given", None, "mit_b0"))
    check_numbers(size, num_classes, in_chans)
    facts = _facts(whole.backbone, *padded(size), in_chans, str(cache_dir()))
    counted = decoder_cost(whole, facts.channels, size, num_classes, resize_logits=resize_logits)
    parts = {name: counted.get(name, Part()) for name in PARTS} | {"backbone": facts.part if reads_stage1(whole) else facts.part_unread1}
    return Cost(whole.id, whole.backbone, (size[0], size[1]), num_classes, parts)


def reads_stage1(genotype: Genotype) -> bool:
    """Whether the decoder reads the backbone's shallowest map. If not, what only that map depends on (a norm, say) is not live."""
    return genotype.stage(1) is not None or any(genes is not None and 1 in (genes.inputs or ()) for genes in genotype.stages)


def check_numbers(size: tuple[int, int], num_classes: int, in_chans: int) -> None:
    """Raise :class:`ConfigError` with every number below 1."""
    numbers = {"height": size[0], "width": size[1], "classes": num_classes, "in_chans": in_chans}
    problems = [Problem("cost", name, "must be a whole number from 1", value, 1) for name, value in numbers.items() if value < 1]
    if problems:
        raise ConfigError(problems)


def backbone_cost(name: str, size: tuple[int, int], in_chans: int = 3) -> Part:
    """Live parameters and MACs of a backbone for one image of ``size`` (height, width), padded up to a multiple of 32."""
    return backbone_facts(name, size, in_chans)[1]


def backbone_facts(name: str, size: tuple[int, int], in_chans: int = 3) -> tuple[Channels, Part]:
    """A backbone's four widths, shallow to deep, and its cost at ``size``. Counted on the meta device once, then read from the cache.

    A cached count is used only by the versions of nasseg, torch and timm that wrote it, and the same text of our backbones and counter.
    Raises :class:`BackboneError` for a backbone that cannot be built.
    """
    facts = _facts(name.strip().removeprefix("timm:"), *padded(size), in_chans, str(cache_dir()))
    return facts.channels, facts.part


@dataclass(frozen=True)
class _Facts:
    """What a cache file holds. ``live_without1`` are the parameters that the three deeper maps depend on."""

    channels: Channels
    part: Part
    live_without1: int

    @property
    def part_unread1(self) -> Part:
        """The cost where nobody reads the shallowest map: it is still computed."""
        return replace(self.part, params=self.live_without1)


@cache
def _facts(name: str, height: int, width: int, in_chans: int, folder: str) -> _Facts:
    key = {
        "format": FORMAT,
        "backbone": name,
        "size": [height, width],
        "in_chans": in_chans,
        "versions": {"nasseg": nasseg.__version__, "torch": version("torch"), "timm": version("timm")},
        "source": _source_digest(),
    }
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80]
    path = Path(folder) / "backbones" / f"{plain}-{height}x{width}-{digest(key)}.json"
    known = _parse(read_json_or_none(path), key)
    if known is not None:
        return known
    facts = _count(name, height, width, in_chans)
    content = {"key": key, "channels": list(facts.channels), **asdict(facts.part), "live_without1": facts.live_without1}
    # A cache that cannot be written costs the next call its time and nothing else.
    with contextlib.suppress(OSError):
        write_atomic(path, canonical_json(content) + "\n")
    return facts


def _parse(content: Mapping[str, Any] | None, key: Mapping[str, Any]) -> _Facts | None:
    """What a cache file says, or None where it is missing, torn or about something else."""
    if content is None or content.get("key") != key:
        return None
    channels = content.get("channels")
    numbers: list[Any] = [content.get(name) for name in ("params", "macs", "fvcore", "live_without1")]
    if not isinstance(channels, list) or len(channels) != 4 or not all(type(n) is int and n >= 0 for n in (*channels, *numbers)):
        return None
    return _Facts((channels[0], channels[1], channels[2], channels[3]), Part(*numbers[:3]), numbers[3])


@cache
def _source_digest() -> str:
    """SHA-256 over the text of what decides a count: our backbones, the adapter for timm's, and the counter."""
    here = Path(__file__).parent
    text = hashlib.sha256()
    for path in sorted([here / "counting.py", *(here / "backbones").glob("*.py")], key=os.fspath):
        text.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return text.hexdigest()[:16]


def _count(name: str, height: int, width: int, in_chans: int) -> _Facts:
    # torch and timm take seconds to import, and a cached answer needs neither.
    import torch  # noqa: PLC0415

    from nasseg.models.backbones.registry import create_backbone  # noqa: PLC0415
    from nasseg.models.counting import count  # noqa: PLC0415

    with torch.device("meta"):
        backbone = create_backbone(name, in_chans=in_chans)
        image_BCHW = torch.empty(1, in_chans, height, width)
    counted = count(backbone, image_BCHW)
    deeper = count(backbone, image_BCHW, outputs=lambda maps: maps[1:])
    return _Facts(backbone.channels, counted.part, deeper.params)
