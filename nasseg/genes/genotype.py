"""One complete choice of genes, in its one canonical form.

A raw form (a YAML file, a dictionary, dotted overrides) is read by :meth:`Genotype.from_dict`, which fills in defaults, drops genes that
nothing reads, and refuses what contradicts itself. What comes out is frozen, hashable, and the same for every spelling of one network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import canonical_json, digest, dump_yaml, read_yaml, write_atomic
from nasseg.genes.gene import GENES, GLOBAL_GENES, STAGE_GENES, STAGES, STRIDES, check_value

FORMAT = 1
"""Version of the genotype file; a reader refuses a higher one."""


@dataclass(frozen=True, slots=True)
class StageGenes:
    """The genes of one kept stage. ``None`` marks a gene that nothing reads at this stage.

    A reused map (``attention`` is ``stage2``…``stage4``) has no ``heads``, ``key_stride``, ``rank`` or ``query_pool`` of its own: they are
    its source's. A uniform map (``rank`` 0) has neither ``heads`` nor ``query_pool``: every query of every head gets the same mean.
    """

    attention: str
    heads: int | None
    key_stride: int | None
    rank: int | str | None
    inputs: tuple[int, ...] | None
    pool_conv: bool | None
    query_pool: int | None
    lpm: str
    ffn: int
    ffn_depthwise: bool | None

    @property
    def source(self) -> int | None:
        """The stage whose map is reused, or None."""
        return int(self.attention[-1]) if self.attention.startswith("stage") else None

    def to_dict(self) -> dict[str, Any]:
        """The genes that are read, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in named.items() if v is not None}


@dataclass(frozen=True)
class Genotype:
    """A decoder, and the backbone it stands on (``None`` for a published design that fits any four-stage backbone).

    ``stages[i - 1]`` holds stage i's genes, or ``None`` for a stage shallower than ``fusion_stride``. Built by :meth:`from_dict` and
    :meth:`load`; calling the constructor with anything but canonical values is an error of the caller.
    """

    backbone: str | None
    fusion_stride: int
    stages: tuple[StageGenes | None, StageGenes | None, StageGenes | None, StageGenes | None]
    project: int | None
    fusion: str
    fusion_width: int

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "genotype") -> Self:
        """Read one spelling.

        Keys are global genes, ``stage1``…``stage4`` (each a mapping of stage genes), dotted ``stage3.lpm``, or a bare stage gene such as
        ``lpm``, which holds for every stage that does not say otherwise. Raises :class:`ConfigError` with every problem at once.
        """
        problems: list[Problem] = []
        if not isinstance(raw, Mapping):
            raise ConfigError(Problem(where, "", "a genotype is a mapping of gene names to values", type(raw).__name__))
        version = raw.get("format", FORMAT)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ConfigError(Problem(where, "format", "must be a whole number from 1", version, FORMAT))
        if version > FORMAT:
            raise ConfigError(Problem(where, "format", f"written by a newer nasseg; this one reads format {FORMAT}", version, FORMAT))
        named = _by_stage(raw, where, problems)
        globals_ = {
            name: check_value(name, named[0].get(name, GENES[name].default or None), 0, where, name, problems) for name in GLOBAL_GENES
        }
        stages: list[StageGenes | None] = [None] * 4
        for stage in reversed(STAGES):
            if STRIDES[stage - 1] >= globals_["fusion_stride"]:
                stages[stage - 1] = _stage(stage, named[stage], stages, where, problems)
        if problems:
            raise ConfigError(problems)
        return cls(
            backbone=globals_["backbone"],
            fusion_stride=globals_["fusion_stride"],
            stages=(stages[0], stages[1], stages[2], stages[3]),
            project=None if globals_["project"] == "none" else globals_["project"],
            fusion=globals_["fusion"],
            fusion_width=globals_["fusion_width"],
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a genotype file (YAML or JSON)."""
        return cls.from_dict(read_yaml(path), where=str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the canonical form as YAML, atomically."""
        write_atomic(path, dump_yaml(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: active genes only, stages from deep to shallow. ``from_dict`` gives the same genotype back."""
        out: dict[str, Any] = {"format": FORMAT}
        if self.backbone is not None:
            out["backbone"] = self.backbone
        out["fusion_stride"] = self.fusion_stride
        for stage in reversed(STAGES):
            genes = self.stages[stage - 1]
            if genes is not None:
                out[f"stage{stage}"] = genes.to_dict()
        return out | {"project": self.project or "none", "fusion": self.fusion, "fusion_width": self.fusion_width}

    def to_json(self) -> str:
        """The canonical form on one line with sorted keys: what ``id`` is the digest of (the format number left out)."""
        return canonical_json({k: v for k, v in self.to_dict().items() if k != "format"})

    @cached_property
    def id(self) -> str:
        """12 hex digits of SHA-256 of the canonical JSON, backbone included: one network, one id."""
        return digest({k: v for k, v in self.to_dict().items() if k != "format"})

    def override(self, assignments: Mapping[str, Any], *, where: str = "--set") -> Self:
        """A copy with genes replaced: a bare stage gene (``lpm``) at every stage that reads it, a dotted one (``stage3.lpm``) at its own.

        Raises :class:`ConfigError` for unknown genes, illegal values, and a dotted gene that the resulting network would not read.
        """
        raw = self.to_dict()
        for key, value in assignments.items():
            head, _, tail = key.partition(".")
            if tail:
                raw.setdefault(head, {})
                raw[head] = {**raw[head], tail: value}
            elif key in STAGE_GENES:
                for stage in STAGES:
                    name = f"stage{stage}"
                    if name in raw:
                        raw[name] = {**raw[name], key: value}
            else:
                raw[key] = value
        made = type(self).from_dict(raw, where=where)
        flat = made.flat()
        problems = [
            Problem(where, key, f"nothing reads this gene here: it is read when {GENES[key.partition('.')[2]].active_when}", value)
            for key, value in assignments.items()
            if "." in key and key not in flat
        ]
        if problems:
            raise ConfigError(problems)
        return made

    def flat(self) -> dict[str, Any]:
        """Active genes under dotted names: ``{"fusion_stride": 4, "stage4.attention": "own", …}``."""
        out: dict[str, Any] = {}
        for key, value in self.to_dict().items():
            if isinstance(value, dict):
                out.update({f"{key}.{gene}": v for gene, v in value.items()})
            elif key != "format":
                out[key] = value
        return out

    def on(self, backbone: str | None) -> Self:
        """The same decoder on another backbone."""
        return self if backbone == self.backbone else type(self).from_dict({**self.to_dict(), "backbone": backbone})

    def stage(self, number: int) -> StageGenes | None:
        """The genes of stage 1…4, or None where the stage is not kept."""
        return self.stages[number - 1]

    @property
    def kept(self) -> tuple[int, ...]:
        """The stages that are decoded and fused, shallow to deep."""
        return tuple(stage for stage in STAGES if self.stages[stage - 1] is not None)

    def reusers(self, source: int) -> tuple[int, ...]:
        """The stages that reuse ``source``'s map, shallow to deep."""
        return tuple(i for i in self.kept if (genes := self.stages[i - 1]) is not None and genes.source == source)

    def heads(self, channels: Sequence[int]) -> tuple[int | None, int | None, int | None, int | None]:
        """Heads used at each stage on a backbone of these four widths; None where no map is.

        The largest number at or below the one asked for that divides the width of the stage that owns the map and of every stage that
        reuses it, so a reused map always meets values with its own head count.
        """
        used: list[int | None] = [None] * 4
        for owner in self.kept:
            genes = self.stages[owner - 1]
            if genes is None or genes.heads is None:
                continue
            group = (owner, *self.reusers(owner))
            count = next(h for h in range(genes.heads, 0, -1) if all(channels[i - 1] % h == 0 for i in group))
            for stage in group:
                used[stage - 1] = count
        return (used[0], used[1], used[2], used[3])

    def short(self) -> str:
        """A few words for a table: ``4:own1 3:4 2:4 1:- | lpm se | ffn 4 | concat 128/4``. Stages deep to shallow, rank behind ``own``."""

        def joined(values: list[str]) -> str:
            return values[0] if len(set(values)) == 1 else "·".join(values)

        kept = [(i, genes) for i in reversed(STAGES) if (genes := self.stages[i - 1]) is not None]
        maps = " ".join(
            f"{i}:" + ("-" if g.attention == "none" else str(g.source) if g.source else f"own{'F' if g.rank == 'full' else g.rank}")
            for i, g in kept
        )
        ffn = joined([f"{g.ffn}{'' if g.ffn_depthwise or not g.ffn else 'm'}" for _, g in kept])
        project = f" p{self.project}" if self.project else ""
        return (
            f"{maps} | lpm {joined([g.lpm for _, g in kept])} | ffn {ffn} | {self.fusion}{project} {self.fusion_width}/{self.fusion_stride}"
        )


def _by_stage(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> dict[int, dict[str, Any]]:
    """Raw values by stage, 0 holding the global genes; a bare stage gene is spread over the stages that do not give their own."""
    named: dict[int, dict[str, Any]] = {0: {}, 1: {}, 2: {}, 3: {}, 4: {}}
    spread: dict[str, Any] = {}
    for key, value in raw.items():
        head, _, tail = str(key).partition(".")
        if key == "format":
            continue
        if key in GLOBAL_GENES:
            named[0][key] = value
        elif key in STAGE_GENES:
            spread[key] = value
        elif head in ("stage1", "stage2", "stage3", "stage4"):
            if tail:
                content: Any = {tail: value}
            elif isinstance(value, Mapping):
                content = value
            else:
                problems.append(Problem(where, key, "a stage is a mapping of its genes", value))
                continue
            for gene, given in content.items():
                if gene in STAGE_GENES:
                    named[int(head[-1])][gene] = given
                else:
                    problems.append(Problem(where, f"{head}.{gene}", "no such stage gene", None, nearest(gene, STAGE_GENES)))
        else:
            legal = (*GLOBAL_GENES, *STAGE_GENES, *(f"stage{i}" for i in STAGES))
            problems.append(Problem(where, str(key), "no such gene", None, nearest(key, legal)))
    for stage in STAGES:
        named[stage] = spread | named[stage]
    return named


def _stage(stage: int, raw: Mapping[str, Any], deeper: Sequence[StageGenes | None], where: str, problems: list[Problem]) -> StageGenes:
    """The canonical genes of one stage, given those of the deeper ones."""
    found = len(problems)

    def read(name: str, default: Any = None) -> Any:
        fallback = GENES[name].default if default is None else default
        return check_value(name, raw.get(name, fallback), stage, where, f"stage{stage}.{name}", problems)

    attention, lpm, ffn = read("attention"), read("lpm"), read("ffn")
    heads: int | None = None
    key_stride: int | None = None
    rank: int | str | None = None
    inputs: tuple[int, ...] | None = None
    pool_conv: bool | None = None
    query_pool: int | None = None
    grid: int | None = None
    default_inputs: Any = "self"
    if attention == "own":
        grid = key_stride = read("key_stride")
        default_inputs = [j for j in STAGES if STRIDES[j - 1] <= grid]
        rank = read("rank")
        if rank != 0:
            heads, query_pool = read("heads"), read("query_pool")
    elif attention != "none":
        source = deeper[int(attention[-1]) - 1] if int(attention[-1]) > stage else None
        if source is None or source.attention != "own":
            owners = [f"stage{j}" for j in STAGES if j > stage and (g := deeper[j - 1]) is not None and g.attention == "own"]
            problems.append(
                Problem(
                    where,
                    f"stage{stage}.attention",
                    "a reused map must belong to a deeper stage whose attention is own",
                    attention,
                    [*owners, "own"][0],
                )
            )
        else:
            grid = source.key_stride
            if "key_stride" in raw and read("key_stride") != grid:
                problems.append(
                    Problem(
                        where, f"stage{stage}.key_stride", f"a reused map needs its source's grid ({attention})", raw["key_stride"], grid
                    )
                )
            if source.rank == 0:
                # A uniform map is the same wherever it comes from: one network, one spelling.
                attention, rank, key_stride = "own", 0, grid
            elif "heads" in raw and read("heads") != source.heads:
                problems.append(
                    Problem(
                        where, f"stage{stage}.heads", f"reuse needs the head count of its source ({attention})", raw["heads"], source.heads
                    )
                )
    if grid is not None and len(problems) == found:
        pooled = [j for j in STAGES if STRIDES[j - 1] <= grid]
        inputs = read("inputs", default_inputs)
        pool_conv = read("pool_conv")
        finer = [j for j in inputs or () if j not in pooled]
        if finer:
            problems.append(
                Problem(
                    where,
                    f"stage{stage}.inputs",
                    f"maps are pooled to the key grid, never upsampled: at key_stride {grid} the inputs must be out of {pooled}",
                    list(inputs or ()),
                    [j for j in inputs or () if j in pooled] or pooled,
                )
            )
        if inputs is not None and grid in STRIDES and inputs == (STRIDES.index(grid) + 1,):
            # Nothing is pooled, so there is no map for the convolution to stand on.
            pool_conv = None
    return StageGenes(attention, heads, key_stride, rank, inputs, pool_conv, query_pool, lpm, ffn, read("ffn_depthwise") if ffn else None)
