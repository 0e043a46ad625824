"""The genes of a genotype as a row of slots: in which order they are drawn, which ones a slot looks at, when it is read, what is legal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nasseg.genes.gene import GENES, STAGES, STRIDES
from nasseg.genes.genotype import Genotype, StageGenes, default_inputs, fits_groups

Values = Mapping[str, Any]
"""Canonical gene values by slot (``stage4.rank``, ``fusion``); None marks a gene that nothing reads."""

DEFAULT: Final = object()
"""Stands for the gene's default, which for ``inputs`` depends on the key grid."""

# Within a stage each gene comes after those it looks at; the derived slots are what other slots need to know of a map, an LPM and an FFN. A
# slot that looks at another follows it closely: what is between has to be counted for each value apart.
STAGE_ORDER = (
    "attention", "key_stride", "rank", "map", "softmax_scale", "grid", "heads", "inputs", "pool_conv", "pool_edge", "input_norm", "mixing",
    "query_pool", "lpm", "local", "lpm_residual", "ffn", "hidden", "ffn_depthwise", "residual",
)  # fmt: skip
DERIVED = ("map", "grid", "local", "hidden")
CHAIN: tuple[tuple[str, int], ...] = (
    ("backbone", 0),
    ("fusion_stride", 0),
    *((gene, stage) for stage in reversed(STAGES) for gene in STAGE_ORDER),
    ("project", 0),
    ("project_norm", 0),
    ("fusion", 0),
    ("ham_rank", 0),
    ("fusion_width", 0),
)
"""Genes in drawing order, deep stages first; a condition may move a slot behind the one it looks at."""


def slot_name(gene: str, stage: int) -> str:
    """``fusion`` for a global gene, ``stage3.lpm`` for a stage's."""
    return f"stage{stage}.{gene}" if stage else gene


def sees(gene: str, stage: int) -> tuple[str, ...]:
    """The slots that decide whether this one is read and what is legal there."""
    if stage == 0:
        return {"project_norm": ("project",), "ham_rank": ("fusion",), "fusion_width": ("fusion",)}.get(gene, ())
    here = f"stage{stage}."
    deeper = tuple(f"stage{j}.map" for j in STAGES if j > stage)
    return {
        "attention": ("fusion_stride", *deeper),
        "key_stride": (here + "attention",),
        "rank": (here + "attention",),
        "map": (here + "key_stride", here + "rank"),
        "grid": (here + "attention", here + "key_stride", *deeper),
        "heads": (here + "map",),
        "softmax_scale": (here + "map", here + "rank"),
        "inputs": (here + "grid", here + "attention"),
        "input_norm": (here + "grid",),
        "pool_conv": (here + "grid", here + "inputs"),
        "pool_edge": (here + "attention", here + "grid", here + "inputs"),
        "mixing": (here + "grid",),
        "query_pool": (here + "map",),
        "lpm": ("fusion_stride",),
        "local": (here + "lpm",),
        "lpm_residual": (here + "local",),
        "ffn": ("fusion_stride",),
        "hidden": (here + "ffn",),
        "ffn_depthwise": (here + "hidden",),
        "residual": (here + "map", here + "local", here + "hidden"),
    }[gene]


def is_read(gene: str, stage: int, values: Values) -> bool:
    """Whether the network looks at this gene, as :mod:`nasseg.genes.genotype` has it."""
    here = f"stage{stage}."
    match gene:
        case "attention" | "lpm" | "ffn":
            return bool(STRIDES[stage - 1] >= values["fusion_stride"])
        case "key_stride" | "rank":
            return bool(values[here + "attention"] == "own")
        case "heads" | "query_pool":
            return values[here + "map"] is not None
        case "softmax_scale":
            return values[here + "map"] is not None and values[here + "rank"] != "full"
        case "inputs" | "input_norm" | "mixing":
            return values[here + "grid"] is not None
        case "pool_conv":
            grid = values[here + "grid"]
            return grid is not None and not (grid in STRIDES and values[here + "inputs"] == (STRIDES.index(grid) + 1,))
        case "pool_edge":
            inputs = values[here + "inputs"]
            return bool(values[here + "attention"] == "own" and len(inputs) == 1 and STRIDES[inputs[0] - 1] < values[here + "grid"])
        case "lpm_residual":
            return bool(values[here + "local"])
        case "ffn_depthwise":
            return bool(values[here + "hidden"])
        case "residual":
            return values[here + "map"] is not None or bool(values[here + "local"] or values[here + "hidden"])
        case "project_norm":
            return bool(values["project"] != "none")
        case "ham_rank":
            return bool(values["fusion"] == "ham")
    return True


def is_legal(gene: str, stage: int, value: Any, values: Values) -> bool:
    """Whether this value of a gene that is read goes with the earlier ones."""
    if gene == "attention" and value.startswith("stage"):
        return int(value[5:]) > stage and values[f"{value}.map"] is not None
    if gene == "inputs":
        return bool(all(STRIDES[j - 1] <= values[f"stage{stage}.grid"] for j in value))
    if gene == "fusion_width":
        return fits_groups(values["fusion"], value)
    return True


def default_value(gene: str, stage: int, values: Values) -> Any:
    """The canonical default: what a genotype file that does not name the gene gets."""
    if gene == "inputs":
        return default_inputs(stage, values[f"stage{stage}.grid"], values[f"stage{stage}.attention"] != "own")
    default = GENES[gene].default
    return GENES[gene].check(default, stage) if default != "" else None


def derived(slot: str, values: Values) -> Any:
    """``map``: the key grid of a stage that owns a map others may reuse. ``grid``: the key grid a stage works on. ``local``, ``hidden``:
    whether it has an LPM, an FFN."""
    here, _, gene = slot.partition(".")
    if gene == "local":
        return values[f"{here}.lpm"] not in (None, "none")
    if gene == "hidden":
        return values[f"{here}.ffn"] not in (None, 0)
    if gene == "map":
        return values[f"{here}.key_stride"] if values[f"{here}.rank"] not in (None, 0) else None
    attention = values[f"{here}.attention"]
    if attention == "own":
        return values[f"{here}.key_stride"]
    return values[f"{attention}.map"] if attention is not None and attention != "none" else None


def to_genotype(values: Values) -> Genotype:
    """The genotype with these values. They are canonical already, so the genotype is made as it is and not read again."""
    stages: list[StageGenes | None] = []
    for stage in STAGES:
        genes = {gene: values[f"stage{stage}.{gene}"] for gene in STAGE_ORDER if gene not in DERIVED}
        stages.append(None if genes["attention"] is None else StageGenes(**genes))
    project = values["project"]
    return Genotype(
        backbone=values["backbone"],
        fusion_stride=values["fusion_stride"],
        stages=(stages[0], stages[1], stages[2], stages[3]),
        project=None if project == "none" else project,
        project_norm=values["project_norm"],
        fusion=values["fusion"],
        ham_rank=values["ham_rank"],
        fusion_width=values["fusion_width"],
    )


def to_values(genotype: Genotype) -> dict[str, Any]:
    """The inverse of :func:`to_genotype`, without the derived slots."""
    values: dict[str, Any] = {
        "backbone": genotype.backbone,
        "fusion_stride": genotype.fusion_stride,
        "project": genotype.project or "none",
        "project_norm": genotype.project_norm,
        "fusion": genotype.fusion,
        "ham_rank": genotype.ham_rank,
        "fusion_width": genotype.fusion_width,
    }
    for stage in STAGES:
        genes = genotype.stage(stage)
        for gene in STAGE_ORDER:
            if gene not in DERIVED:
                values[f"stage{stage}.{gene}"] = None if genes is None else getattr(genes, gene)
    return values
