"""Space files: what one says, what it extends. :mod:`nasseg.genes.binding` gives it its meaning."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import parse_yaml, read_yaml
from nasseg.genes.budget import Budget
from nasseg.genes.gene import GLOBAL_GENES, STAGE_GENES, STAGES
from nasseg.genes.genotype import Genotype, no_stage_gene
from nasseg.genes.presets import PRESETS, preset
from nasseg.metric import read_metric

KEYS = ("extends", "name", "description", "genotype", "genes", "budget", "objectives", "presets")
ENTRY_KEYS = ("value", "choices", "low", "high", "step", "log", "when", "else", "tie")
GIVEN = "given"
"""``genotype: given`` marks a space whose decoder comes from outside, by ``--genotype``."""

_SETTING = re.compile(r"train\.[a-z][a-z0-9_]*")
_METRIC = re.compile(r"[a-z][a-z0-9_]*(\[[^\[\]]+\](_[^\[\]]+)?)?")


@dataclass(frozen=True)
class SpaceFile:
    """A space as written, with all that it extends merged in.

    ``genes`` maps normalised keys (``fusion``, ``lpm``, ``stage3.lpm``, ``train.lr``) to what stands behind them, ``origin`` the same keys
    to the file they come from. ``design`` is the published design that ``genotype`` is, if it is named as one: on a backbone that the space
    settles it has the size that was published there. ``own`` holds the keys the last file wrote itself; ``own_presets`` says whether it
    wrote ``presets``.
    """

    name: str
    where: str
    description: str = ""
    genotype: Genotype | str | None = None
    design: str | None = None
    genes: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    own_presets: bool = False
    budget: Budget = field(default_factory=Budget)
    objectives: Mapping[str, str] = field(default_factory=lambda: {"miou": "max"})
    presets: tuple[str, ...] = ()


def shipped() -> tuple[str, ...]:
    """The names of the spaces that come with nasseg."""
    found = (Path(entry.name) for entry in files("nasseg.search_spaces").iterdir())
    return tuple(sorted(path.stem for path in found if path.suffix == ".yaml"))


def load(name: str | os.PathLike[str]) -> SpaceFile:
    """A shipped space by name, or a file by path. Raises :class:`ConfigError` with every problem at once."""
    return _follow(name, None, ())


def read(raw: Any, *, where: str, parent: SpaceFile | None = None, folder: Path | None = None) -> SpaceFile:
    """A mapping on top of ``parent``, or of what its ``extends`` names. Raises :class:`ConfigError` with every problem at once."""
    return _merge(raw, where, folder, parent, ())


def _follow(name: str | os.PathLike[str], folder: Path | None, trail: tuple[str, ...]) -> SpaceFile:
    """The file behind a name or path. ``trail`` holds the files that led here, by what identifies them."""
    if str(name) in shipped():
        identity = where = f"search_spaces/{name}.yaml"
        raw = parse_yaml((files("nasseg.search_spaces") / f"{name}.yaml").read_text(encoding="utf-8"), where)
        inside = None
    else:
        path = (folder or Path()) / Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml", ".json") and not path.is_file():
            rule = f"no such space, and no file of that name; shipped spaces are {', '.join(shipped())}"
            raise ConfigError(
                Problem(trail[-1] if trail else "", "extends" if trail else "space", rule, str(name), nearest(name, shipped()))
            )
        identity, where, inside = str(path.resolve()), str(path), path.parent
        if identity not in trail:
            raw = read_yaml(path)
    if identity in trail:
        raise ConfigError(Problem(trail[-1], "extends", f"goes round in a circle: {' → '.join((*trail, identity))}", str(name)))
    return _merge(raw, where, inside, None, (*trail, identity))


def _merge(raw: Any, where: str, folder: Path | None, parent: SpaceFile | None, trail: tuple[str, ...]) -> SpaceFile:
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(Problem(where, "", f"a space is a mapping of {', '.join(KEYS)}", type(raw).__name__))
    problems = [Problem(where, str(k), "no such key of a space", None, nearest(k, KEYS), tuple(KEYS)) for k in raw if k not in KEYS]
    if raw.get("extends") is not None:
        if isinstance(raw["extends"], str):
            try:
                parent = _follow(raw["extends"], folder, trail or (where,))
            except ConfigError as error:
                problems += error.problems
        else:
            problems.append(Problem(where, "extends", "is the name of a shipped space or the path of a file", raw["extends"]))
    for key in ("name", "description"):
        if not isinstance(raw.get(key, ""), str):
            problems.append(Problem(where, key, "is a text", raw[key]))
    base = parent or SpaceFile(name="", where=where)
    own = _genes(raw.get("genes"), where, problems)
    # What is said later and of all stages wins over what was said earlier of one.
    kept = {k: v for k, v in base.genes.items() if k.partition(".")[2] not in own or not k.startswith("stage")}
    genotype, design = base.genotype, base.design
    if raw.get("genotype") is not None:
        genotype = _genotype(raw["genotype"], where, folder, problems)
        design = raw["genotype"] if isinstance(raw["genotype"], str) and raw["genotype"] in PRESETS else None
    genes = {**kept, **own}
    if design is not None and isinstance(genes.get("backbone"), str):
        with contextlib.suppress(ConfigError):  # A backbone that is no name is reported with the other genes.
            genotype = preset(design, genes["backbone"]).on(None)
    made = SpaceFile(
        name=str(raw.get("name") or Path(where).stem),
        where=where,
        description=" ".join(str(raw.get("description") or base.description).split()),
        genotype=genotype,
        design=design,
        genes=genes,
        origin={**base.origin, **dict.fromkeys(own, where)},
        own=frozenset(own),
        own_presets=raw.get("presets") is not None,
        budget=_budget(raw["budget"], where, problems) if "budget" in raw else base.budget,
        objectives=_objectives(raw["objectives"], where, problems) if raw.get("objectives") is not None else base.objectives,
        presets=_presets(raw["presets"], where, problems) if raw.get("presets") is not None else base.presets,
    )
    if problems:
        raise ConfigError(problems)
    return made


def _genes(raw: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    """The entries by normalised key; what stands behind a key is looked at later."""
    found: dict[str, Any] = {}
    if raw is not None and not isinstance(raw, Mapping):
        problems.append(Problem(where, "genes", "is a mapping of genes to values", raw))
        return found
    stages = tuple(f"stage{i}" for i in STAGES)

    def put(key: str, value: Any, given: str) -> None:
        if key in found:
            problems.append(Problem(where, f"genes.{given}", f"{key} is given twice"))
        found[key] = value

    for key, value in (raw or {}).items():
        head, _, tail = str(key).partition(".")
        if key in GLOBAL_GENES or key in STAGE_GENES:
            put(key, value, key)
        elif head in (*stages, "train") and (tail or isinstance(value, Mapping)):
            for gene, inner in ({tail: value} if tail else value).items():
                whole = f"{head}.{gene}"
                if head == "train" and not _SETTING.fullmatch(whole):
                    problems.append(
                        Problem(where, f"genes.{whole}", "a training gene is train. and a field of the trainer, such as train.lr")
                    )
                elif head != "train" and gene not in STAGE_GENES:
                    problems.append(no_stage_gene(where, f"genes.{whole}", gene))
                else:
                    put(whole, inner, str(key) if tail else f"{head}.{gene}")
        elif head in (*stages, "train"):
            what = "a trainer's fields" if head == "train" else "stage genes"
            problems.append(Problem(where, f"genes.{key}", f"is a mapping of {what}", value))
        else:
            legal = (*GLOBAL_GENES, *STAGE_GENES, *stages, "train.lr")
            problems.append(Problem(where, f"genes.{key}", "no such gene", None, nearest(key, legal), legal))
    return found


def _genotype(raw: Any, where: str, folder: Path | None, problems: list[Problem]) -> Genotype | str | None:
    try:
        if isinstance(raw, Mapping):
            return Genotype.from_dict(raw, where=f"{where}: genotype")
        if raw == GIVEN:
            return GIVEN
        if isinstance(raw, str) and raw in PRESETS:
            return preset(raw)
        if isinstance(raw, str) and Path(raw).suffix in (".yaml", ".yml", ".json"):
            return Genotype.load((folder or Path()) / raw)
    except ConfigError as error:
        problems += error.problems
        return None
    rule = f"is '{GIVEN}' (it comes by --genotype), a published design, the path of a genotype file, or a mapping of genes"
    problems.append(Problem(where, "genotype", rule, raw, nearest(raw, (*PRESETS, GIVEN))))
    return None


def _budget(raw: Any, where: str, problems: list[Problem]) -> Budget:
    try:
        return Budget.from_mapping(raw, where=f"{where}: budget")
    except ConfigError as error:
        problems += error.problems
        return Budget()


def _objectives(raw: Any, where: str, problems: list[Problem]) -> dict[str, str]:
    """Names and directions. Whether the recipe reports a metric of the name is known when a recipe is: :mod:`nasseg.search.objectives`."""
    if not isinstance(raw, Mapping) or not raw:
        problems.append(Problem(where, "objectives", "is a mapping such as {miou: max, macs: min}", raw))
        return {}
    for name, direction in raw.items():
        key = f"objectives.{name}"
        if not isinstance(name, str) or not _METRIC.fullmatch(name):
            rule = "is the name of a metric, such as miou, miou_holdout or iou[crop,weed], or of a cost"
            problems.append(Problem(where, "objectives", rule, name, nearest(name, ("miou", *Budget.NAMES))))
            continue
        right = "min" if name in Budget.NAMES else _own_direction(name)
        if direction not in ("max", "min"):
            problems.append(Problem(where, key, "must be max or min", direction, right or "max"))
        elif right not in (None, direction):
            problems.append(Problem(where, key, f"must be {right}", direction, right))
    return {str(name): str(direction) for name, direction in raw.items()}


def _own_direction(name: str) -> str | None:
    """The direction of a metric that nasseg's recipes report; None for another's."""
    try:
        return read_metric(name).metric.direction
    except ConfigError:
        return None


def _presets(raw: Any, where: str, problems: list[Problem]) -> tuple[str, ...]:
    if not isinstance(raw, list):
        problems.append(Problem(where, "presets", "is a list of published designs", raw, list(PRESETS)))
        return ()
    for name in raw:
        if name not in PRESETS:
            problems.append(Problem(where, "presets", f"no such design; there are {', '.join(PRESETS)}", name, nearest(name, PRESETS)))
        elif raw.count(name) > 1:
            problems.append(Problem(where, "presets", "names a design twice", name))
    return tuple(name for name in raw if name in PRESETS)
