"""nasseg finds the best segmentation decoder that fits your budget, and hands you the trained model.

The public door::

    space = nasseg.Space.load("decoder")
    genotype = nasseg.preset("scaseg", backbone="mit_b0")
    cost = nasseg.cost(genotype, size=(512, 512), num_classes=150)
    model = nasseg.build(genotype, num_classes=150)
    study = nasseg.search("tiny", data="synthetic", backbone="mit_b0", size=(96, 128), trials=8, out="results/first")
    model = nasseg.load("bundle")

Importing nasseg loads neither torch nor ray; each name loads what it needs when it is first used. ``nasseg.cost`` and ``nasseg.search``
are packages that can also be called (docs/decisions/0002-callable-packages.md).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nasseg.cost
import nasseg.search  # noqa: F401  (made callable below)

if TYPE_CHECKING:
    from nasseg.export.bundle import load_bundle
    from nasseg.export.load import load
    from nasseg.genes.budget import Budget
    from nasseg.genes.genotype import Genotype
    from nasseg.genes.presets import preset
    from nasseg.genes.space import Space
    from nasseg.models.segmenter import SegModel, build

__version__ = "0.1.0"

__all__ = ["Budget", "Genotype", "SegModel", "Space", "build", "cost", "load", "load_bundle", "preset", "search"]

_HOMES = {
    "Budget": "nasseg.genes.budget",
    "Genotype": "nasseg.genes.genotype",
    "SegModel": "nasseg.models.segmenter",
    "Space": "nasseg.genes.space",
    "build": "nasseg.models.segmenter",
    "load": "nasseg.export.load",
    "load_bundle": "nasseg.export.bundle",
    "preset": "nasseg.genes.presets",
}

_CALLS = {"nasseg.cost": "nasseg.models.costing:cost", "nasseg.search": "nasseg.search.run:search"}


class _CallablePackage(ModuleType):
    """A package whose call is the one function it is named for."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, function = _CALLS[self.__name__].partition(":")
        return getattr(importlib.import_module(module), function)(*args, **kwargs)


for _name in _CALLS:
    sys.modules[_name].__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nasseg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
