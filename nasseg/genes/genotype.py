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
from nasseg.genes.gene import GENES, GLOBAL_GENES, HAM_GROUPS, IMPLIED, STAGE_GENES, STAGES, STRIDES, check_value

FORMAT = 1
"""Version of the genotype file; a reader refuses a higher one."""


STAGE_NAMES = tuple(f"stage{stage}" for stage in STAGES)

_OF_A_MAP = ("key_stride", "rank", "heads", "pool_edge", "softmax_scale", "query_pool")
"""What a map is made of; a stage that reuses one has its source's."""


@dataclass(frozen=True, slots=True)
class StageGenes:
    """The genes of one kept stage. ``None`` marks a gene that nothing reads at this stage.

    A reused map (``attention`` is ``stage2``…``stage4``) has no ``heads``, ``key_stride``, ``rank``, ``pool_edge``, ``softmax_scale`` or
    ``query_pool`` of its own: they are its source's. A uniform map (``rank`` 0) has no ``heads``, ``softmax_scale`` or ``query_pool``:
    every query of every head gets the same mean. At full rank the two values of ``softmax_scale`` are one.
    """

    attention: str
    heads: int | None
    key_stride: int | None
    rank: int | str | None
    inputs: tuple[int, ...] | None
    input_norm: bool | None
    pool_edge: str | None
    pool_conv: bool | None
    mixing: str | None
    softmax_scale: str | None
    query_pool: int | None
    lpm: str
    lpm_residual: str | None
    ffn: int
    ffn_depthwise: bool | None
    residual: str | None

    @property
    def source(self) -> int | None:
        """The stage whose map is reused, or None."""
        return int(self.attention[-1]) if self.attention.startswith("stage") else None

    def active(self) -> dict[str, Any]:
        """The genes that are read, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in named.items() if v is not None}

    def to_dict(self) -> dict[str, Any]:
        """The genes that are read, less those that are implied (:data:`nasseg.genes.gene.IMPLIED`)."""
        return _stated(self.active())


@dataclass(frozen=True)
class Genotype:
    """A decoder, and the backbone it stands on (``None`` for a published design that fits any four-stage backbone).

    ``stages[i - 1]`` holds stage i's genes, or ``None`` for a stage shallower than ``fusion_stride``; ``ham_rank`` is ``None`` unless
    ``fusion`` is ``ham``. Built by :meth:`from_dict` and :meth:`load`; calling the constructor with anything but canonical values is an
    error of the caller.
    """

    backbone: str | None
    fusion_stride: int
    stages: tuple[StageGenes | None, StageGenes | None, StageGenes | None, StageGenes | None]
    project: int | None
    project_norm: str | None
    fusion: str
    fusion_width: int
    ham_rank: int | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "genotype") -> Self:
        """Read one spelling.

        Keys are global genes, ``stage1``…``stage4`` (each a mapping of stage genes), dotted ``stage3.lpm``, or a bare stage gene such as
        ``lpm``, which holds for every stage that reads it and does not say otherwise.

        Raises :class:`ConfigError` with every problem at once: unknown genes, illegal values (read or not), a reused map that is not there,
        inputs that cannot be pooled to the key grid, and genes of a stage that contradict the map it reuses.
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
        globals_ = {name: check_value(name, raw.get(name, GENES[name].default or None), 0, where, name, problems) for name in GLOBAL_GENES}
        stages: list[StageGenes | None] = [None] * 4
        for stage in reversed(STAGES):
            if STRIDES[stage - 1] >= globals_["fusion_stride"]:
                stages[stage - 1] = _stage(stage, named[stage], stages, where, problems)
        if not fits_groups(globals_["fusion"], globals_["fusion_width"]):
            rule = f"with fusion ham a multiple of {HAM_GROUPS}, the groups of its GroupNorms"
            near = max(HAM_GROUPS, round(globals_["fusion_width"] / HAM_GROUPS) * HAM_GROUPS)
            problems.append(Problem(where, "fusion_width", rule, globals_["fusion_width"], near))
        if problems:
            raise ConfigError(problems)
        project = None if globals_["project"] == "none" else globals_["project"]
        return cls(
            backbone=globals_["backbone"],
            fusion_stride=globals_["fusion_stride"],
            stages=(stages[0], stages[1], stages[2], stages[3]),
            project=project,
            project_norm=None if project is None else globals_["project_norm"],
            fusion=globals_["fusion"],
            fusion_width=globals_["fusion_width"],
            ham_rank=globals_["ham_rank"] if globals_["fusion"] == "ham" else None,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a genotype file (YAML or JSON)."""
        return cls.from_dict(read_yaml(path), where=str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the canonical form as YAML, atomically."""
        write_atomic(path, dump_yaml(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: active genes only, stages from deep to shallow. ``from_dict`` gives the same genotype back.

        Genes that came after format 1 had its first files (:data:`nasseg.genes.gene.IMPLIED`) are left out at their default, so that a
        genotype has the same form and the same id as before there were such genes.
        """
        out: dict[str, Any] = {"format": FORMAT}
        if self.backbone is not None:
            out["backbone"] = self.backbone
        out["fusion_stride"] = self.fusion_stride
        for stage in reversed(STAGES):
            genes = self.stages[stage - 1]
            if genes is not None:
                out[f"stage{stage}"] = genes.to_dict()
        return out | _stated(self._fusion())

    def _fusion(self) -> dict[str, Any]:
        """The active genes of the fusion."""
        project: dict[str, Any] = (
            {"project": "none"} if self.project is None else {"project": self.project, "project_norm": self.project_norm}
        )
        ham = {} if self.ham_rank is None else {"ham_rank": self.ham_rank}
        return project | {"fusion": self.fusion} | ham | {"fusion_width": self.fusion_width}

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
        for key in assignments:
            head, _, tail = key.partition(".")
            for name in STAGE_NAMES:
                genes = raw.get(name)
                if genes is None or (key not in STAGE_GENES and head != name):
                    continue
                genes.pop(tail or key, None)
                if (tail or key) == "attention":
                    # What the old map was made of says nothing about the new one.
                    for old in _OF_A_MAP if str(assignments[key]).startswith("stage") else ():
                        genes.pop(old, None)
        made = type(self).from_dict({**raw, **assignments}, where=where)
        flat = made.flat()
        problems = []
        for key, value in assignments.items():
            gene = key.rpartition(".")[2]
            if gene in GENES and key != "backbone" and not any(name == key or name.endswith(f".{key}") for name in flat):
                rule = f"nothing reads this gene here: it is read when {GENES[gene].active_when}"
                problems.append(Problem(where, key, rule, value))
        if problems:
            raise ConfigError(problems)
        return made

    def flat(self) -> dict[str, Any]:
        """All active genes, implied ones too, under dotted names: ``{"fusion_stride": 4, "stage4.attention": "own", …}``."""
        out: dict[str, Any] = {} if self.backbone is None else {"backbone": self.backbone}
        out["fusion_stride"] = self.fusion_stride
        for stage in reversed(STAGES):
            genes = self.stages[stage - 1]
            if genes is not None:
                out.update({f"stage{stage}.{gene}": value for gene, value in genes.active().items()})
        return out | self._fusion()

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
        """A few words for a table: ``4:own1 3:4 2:4 1:- | k32 self | lpm se | ffn 4 | concat 128/4``.

        Stages deep to shallow; behind ``own`` the rank, then the key stride (``q2`` for pooled queries) and the inputs (``+n`` normalised).
        ``m`` marks a plain MLP, ``res n`` residuals of normalised maps, ``p`` the width of a projection (``bn`` with BatchNorm), the number
        behind ``ham`` its rank; what differs between stages stands with dots between. Heads, pool_conv, pool_edge, mixing, softmax_scale
        and lpm_residual are left out.
        """
        kept = [(i, genes) for i in reversed(STAGES) if (genes := self.stages[i - 1]) is not None]
        attending = [(i, g) for i, g in kept if g.inputs is not None]
        maps = " ".join(f"{i}:{_map_word(g)}" for i, g in kept)
        keys = _joined([f"k{g.key_stride}{' q2' if g.query_pool == 2 else ''}" for _, g in attending if g.key_stride])
        inputs = _joined(
            [
                ("all" if g.inputs == STAGES else "self" if g.inputs == (i,) else "".join(map(str, g.inputs or ())))
                + ("+n" if g.input_norm else "")
                for i, g in attending
            ]
        )
        ffn = _joined([f"{g.ffn}{'' if g.ffn_depthwise or not g.ffn else 'm'}" for _, g in kept])
        residual = _joined(["n" if g.residual == "normalised" else "-" for _, g in kept if g.residual] or ["-"])
        project = f" p{self.project}{'bn' if self.project_norm == 'batch' else ''}" if self.project else ""
        fusion = f"{self.fusion}{self.ham_rank or ''}{project} {self.fusion_width}/{self.fusion_stride}"
        lpm = f"lpm {_joined([g.lpm for _, g in kept])}"
        words = (maps, f"{keys} {inputs}" if attending else "", lpm, f"ffn {ffn}", "" if residual == "-" else f"res {residual}", fusion)
        return " | ".join(word for word in words if word)


def _stated(genes: dict[str, Any]) -> dict[str, Any]:
    """Without the genes that are implied: those at the default that a file without them has."""
    return {gene: value for gene, value in genes.items() if gene not in IMPLIED or value != IMPLIED[gene]}


def _map_word(genes: StageGenes) -> str:
    if genes.attention == "own":
        return f"own{'F' if genes.rank == 'full' else genes.rank}"
    return "-" if genes.source is None else str(genes.source)


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else "·".join(words)


def fits_groups(fusion: str, width: int) -> bool:
    """Whether a fusion can have this width: that of ``ham`` falls into the groups of its GroupNorms."""
    return fusion != "ham" or width % HAM_GROUPS == 0


def no_stage_gene(where: str, key: str, gene: Any) -> Problem:
    """The problem of a name that is no gene of a stage."""
    if gene in GLOBAL_GENES:
        return Problem(where, key, "a gene of the whole decoder, not of a stage", None, gene)
    return Problem(where, key, "no such stage gene", None, nearest(gene, STAGE_GENES), tuple(STAGE_GENES))


def default_inputs(stage: int, grid: int, reuses: bool) -> tuple[int, ...]:
    """What ``inputs`` are where nobody says: all stages that can be pooled to the key grid; at a stage that reuses a map, its own."""
    pooled = tuple(j for j in STAGES if STRIDES[j - 1] <= grid)
    return (stage,) if reuses and stage in pooled else pooled


def _by_stage(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """For each stage its own values and those of a bare gene, which hold where it has none. All of them are checked, read or not."""
    own: dict[int, dict[str, Any]] = {1: {}, 2: {}, 3: {}, 4: {}}
    spread: dict[str, Any] = {}
    for key, value in raw.items():
        head, _, tail = str(key).partition(".")
        if key in STAGE_GENES:
            found = len(problems)
            check_value(key, value, 4, where, key, problems)
            if len(problems) == found:
                spread[key] = value
        elif head in STAGE_NAMES:
            if not tail and not isinstance(value, Mapping):
                problems.append(Problem(where, key, "a stage is a mapping of its genes", value))
                continue
            stage = int(head[-1])
            for gene, given in ({tail: value} if tail else value).items():
                if gene not in STAGE_GENES:
                    problems.append(no_stage_gene(where, f"{head}.{gene}", gene))
                    continue
                if gene in own[stage]:
                    problems.append(Problem(where, f"{head}.{gene}", "is given twice", given))
                own[stage][gene] = check_value(gene, given, stage, where, f"{head}.{gene}", problems)
        elif key != "format" and key not in GLOBAL_GENES:
            legal = (*GLOBAL_GENES, *STAGE_GENES, *STAGE_NAMES)
            problems.append(Problem(where, str(key), "no such gene", None, nearest(key, legal), legal))
    return {stage: (own[stage], {gene: GENES[gene].check(value, stage) for gene, value in spread.items()}) for stage in STAGES}


def _stage(
    stage: int,
    named: tuple[dict[str, Any], dict[str, Any]],
    deeper: Sequence[StageGenes | None],
    where: str,
    problems: list[Problem],
) -> StageGenes:
    """The canonical genes of one stage, given those of the deeper ones."""
    own, spread = named
    place = f"stage{stage}"

    def read(name: str) -> Any:
        return own.get(name, spread.get(name, GENES[name].check(GENES[name].default, stage)))

    attention, lpm, ffn = read("attention"), read("lpm"), read("ffn")
    heads: int | None = None
    key_stride: int | None = None
    rank: int | str | None = None
    inputs: tuple[int, ...] | None = None
    pool_conv: bool | None = None
    pool_edge: str | None = None
    softmax_scale: str | None = None
    query_pool: int | None = None
    grid: int | None = None
    reuses = attention not in ("none", "own")
    if attention == "own":
        grid = key_stride = read("key_stride")
        rank = read("rank")
        if rank != 0:
            heads, query_pool = read("heads"), read("query_pool")
            softmax_scale = None if rank == "full" else read("softmax_scale")
    elif reuses:
        source = deeper[int(attention[-1]) - 1] if int(attention[-1]) > stage else None
        if source is None or source.attention != "own":
            owners = [f"stage{j}" for j in STAGES if j > stage and (g := deeper[j - 1]) is not None and g.attention == "own"]
            rule = "a reused map must belong to a deeper stage whose attention is own"
            problems.append(Problem(where, f"{place}.attention", rule, attention, [*owners, "own"][0]))
        else:
            grid = source.key_stride
            for gene in _OF_A_MAP:
                theirs = getattr(source, gene)
                if gene in own and theirs is not None and own[gene] != theirs:
                    problems.append(
                        Problem(where, f"{place}.{gene}", f"a reused map has that of its source, {attention}", own[gene], theirs)
                    )
            if source.rank == 0:
                # A uniform map is the same wherever it comes from: one network, one spelling.
                attention, rank, key_stride = "own", 0, grid
    if grid is not None:
        inputs = own.get("inputs", spread.get("inputs", default_inputs(stage, grid, reuses)))
        pool_conv = read("pool_conv")
        pooled = [j for j in STAGES if STRIDES[j - 1] <= grid]
        if not set(inputs) <= set(pooled):
            rule = f"maps are pooled to the key grid, never upsampled: at key_stride {grid} the inputs must be out of {pooled}"
            problems.append(Problem(where, f"{place}.inputs", rule, list(inputs), [j for j in inputs if j in pooled] or pooled))
        if grid in STRIDES and inputs == (STRIDES.index(grid) + 1,):
            # Nothing is pooled, so there is no map for the convolution to stand on.
            pool_conv = None
        elif attention == "own" and len(inputs) == 1:
            pool_edge = read("pool_edge")
    return StageGenes(
        attention=attention,
        heads=heads,
        key_stride=key_stride,
        rank=rank,
        inputs=inputs,
        input_norm=None if grid is None else read("input_norm"),
        pool_edge=pool_edge,
        pool_conv=pool_conv,
        mixing=None if grid is None else read("mixing"),
        softmax_scale=softmax_scale,
        query_pool=query_pool,
        lpm=lpm,
        lpm_residual=None if lpm == "none" else read("lpm_residual"),
        ffn=ffn,
        ffn_depthwise=read("ffn_depthwise") if ffn else None,
        residual=read("residual") if heads is not None or lpm != "none" or ffn else None,
    )
