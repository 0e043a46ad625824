"""The genes of a decoder: what each is called, what it may be, when it is read, what it means.

This is the one catalogue. Space files, the cost model and the decoder all speak these names; `tests/genes/test_gene_layers.py`
and `tests/models/test_gene_walk.py` walk the catalogue and fail when a gene is missing in one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nasseg.errors import Problem, nearest

STAGES = (1, 2, 3, 4)
STRIDES = (4, 8, 16, 32)
"""Stride of stage i is ``STRIDES[i - 1]`` = 2^(i+1)."""

NATIVE_HEADS = (1, 2, 5, 8)
"""Heads of stages 1..4 in MiT and U-MixFormer (configs of 2312.06272); what ``heads: native`` stands for."""

HAM_GROUPS = 32
"""Groups of each GroupNorm of ``fusion: ham`` (SegNeXt's configs); its width is a multiple of this."""

Value = str | int | bool | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gene:
    """One named choice.

    ``scope`` is ``global`` (once a decoder) or ``stage`` (once a stage). ``values`` are the canonical values a search may list; ``check``
    turns one spelling of a value at stage ``i`` (0 for a global gene) into its canonical form, or raises ``ValueError`` with the rule.

    ``implied``: at its default the gene is left out of genotype files and of ids. Genes added after the first genotype files are, so a
    genotype written before them keeps its id.
    """

    name: str
    scope: str
    values: tuple[Value, ...]
    default: Value
    active_when: str
    meaning: str
    check: Callable[[Any, int], Any]
    implied: bool = False


def _one_of(*legal: Value) -> Callable[[Any, int], Any]:
    def check(value: Any, stage: int) -> Any:
        for option in legal:
            if value == option and isinstance(value, bool) == isinstance(option, bool):
                return option
        raise ValueError(f"must be one of {', '.join(str(o).lower() if isinstance(o, bool) else str(o) for o in legal)}")

    return check


def _whole(low: int, high: int, step: int = 1) -> Callable[[Any, int], Any]:
    rule = f"must be a whole number from {low} to {high}" + (f", a multiple of {step}" if step > 1 else "")

    def check(value: Any, stage: int) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high or value % step:
            raise ValueError(rule)
        return value

    return check


def _heads(value: Any, stage: int) -> Any:
    if value == "native":
        return NATIVE_HEADS[stage - 1]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
        raise ValueError("must be 'native' (1, 2, 5, 8 for stages 1 to 4) or a whole number from 1 to 64")
    return value


def _inputs(value: Any, stage: int) -> Any:
    if value == "self":
        return (stage,)
    if value == "all":
        return STAGES
    given = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(given, (list, tuple)) and given and all(type(j) is int and j in STAGES for j in given) and len(set(given)) == len(given):
        return tuple(sorted(given))
    raise ValueError("must be 'self', 'all' or a non-empty list of stages out of 1, 2, 3, 4, each once")


def _backbone(value: Any, stage: int) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value.strip():
        model, mark, arguments = value.strip().removeprefix("timm:").partition("?")
        return model + mark + "&".join(sorted(arguments.split("&")))
    raise ValueError("must be the name of a backbone, such as mit_b0 or resnet18")


_OWN = "the stage's attention is own"
_ATTENDS = "the stage's attention is not none"
_GATED = "the stage is kept"

GENES: dict[str, Gene] = {
    gene.name: gene
    for gene in (
        Gene("backbone", "global", (), "", "always", "the encoder: MiT, MSCAN, or any timm model with strides 4, 8, 16, 32", _backbone),
        Gene("fusion_stride", "global", (4, 8), 4, "always", "stride of the shallowest stage kept, and of the logits", _one_of(4, 8)),
        Gene(
            "attention",
            "stage",
            ("none", "own", "stage2", "stage3", "stage4"),
            "own",
            _GATED,
            "none; own softmax map; or the propagation source stage whose map is reused with this stage's values",
            _one_of("none", "own", "stage2", "stage3", "stage4"),
        ),
        Gene(
            "heads",
            "stage",
            ("native", 1, 2, 4, 5, 8),
            "native",
            f"{_OWN} with a rank above 0",
            "heads asked for; the largest divisor of the widths at or below it is used",
            _heads,
        ),
        Gene(
            "key_stride",
            "stage",
            (4, 8, 16, 32, 64, 128),
            32,
            _OWN,
            "grid of keys and values, in input pixels",
            _one_of(4, 8, 16, 32, 64, 128),
        ),
        Gene(
            "rank",
            "stage",
            (0, 1, 2, 4, 8, "full"),
            1,
            _OWN,
            "Q/K channels per head; 0 is the uniform map",
            _one_of(0, 1, 2, 4, 8, "full"),
        ),
        Gene(
            "inputs",
            "stage",
            ("self", "all"),
            "all",
            _ATTENDS,
            "stages whose pooled maps are concatenated by channel into K and V; a decoded stage gives its decoded map",
            _inputs,
        ),
        Gene(
            "input_norm",
            "stage",
            (False, True),
            False,
            _ATTENDS,
            "LayerNorm on each input map before it is pooled; the stage's own map takes the norm of its queries where it has one",
            _one_of(False, True),
            implied=True,
        ),
        Gene(
            "pool_edge",
            "stage",
            ("mean", "drop"),
            "mean",
            f"{_OWN}, its inputs are one stage, and that map is pooled",
            "a pooling window that reaches over the edge of the map is the mean of the pixels it has, or is left out",
            _one_of("mean", "drop"),
            implied=True,
        ),
        Gene("pool_conv", "stage", (True, False), True, _ATTENDS, "1×1 convolution on each map that was pooled", _one_of(True, False)),
        Gene(
            "mixing",
            "stage",
            ("norm_gelu", "norm", "norm_norm_gelu"),
            "norm_gelu",
            _ATTENDS,
            "what follows the concatenated maps: LayerNorm and GELU, LayerNorm alone, or two LayerNorms and GELU",
            _one_of("norm_gelu", "norm", "norm_norm_gelu"),
            implied=True,
        ),
        Gene(
            "softmax_scale",
            "stage",
            ("width", "rank"),
            "width",
            f"{_OWN} with a rank of 1 to 8",
            "Q·K is divided by the square root of the stage's width per head, or of the rank",
            _one_of("width", "rank"),
            implied=True,
        ),
        Gene(
            "query_pool",
            "stage",
            (1, 2),
            1,
            f"{_OWN} with a rank above 0",
            "queries average-pooled by this factor, the result upsampled by it",
            _one_of(1, 2),
        ),
        Gene(
            "lpm",
            "stage",
            ("none", "plain", "se", "eca", "cbam", "coord"),
            "none",
            _GATED,
            "local perception module and its gate",
            _one_of("none", "plain", "se", "eca", "cbam", "coord"),
        ),
        Gene(
            "lpm_residual",
            "stage",
            ("once", "twice"),
            "once",
            "the stage's lpm is not none",
            "twice: the LPM's normalised input is added to its output, and the sum to the stage's residual",
            _one_of("once", "twice"),
            implied=True,
        ),
        Gene("ffn", "stage", (0, 1, 2, 4), 4, _GATED, "expansion ratio of the FFN; 0 for none", _one_of(0, 1, 2, 4)),
        Gene(
            "ffn_depthwise",
            "stage",
            (True, False),
            True,
            "the stage's ffn is above 0",
            "Mix-FFN with its 3×3 depthwise convolution, or a plain MLP",
            _one_of(True, False),
        ),
        Gene(
            "residual",
            "stage",
            ("raw", "normalised"),
            "raw",
            "a branch of the stage normalises its input: own attention with a rank above 0, LPM, FFN",
            "what these branches are added to: their input, or the LayerNorm of it that they read",
            _one_of("raw", "normalised"),
            implied=True,
        ),
        Gene(
            "project",
            "global",
            ("none", 64, 128, 256, 512, 768),
            "none",
            "always",
            "width of a 1×1 per stage before fusion",
            _one_of("none", 64, 128, 256, 512, 768),
        ),
        Gene(
            "project_norm",
            "global",
            ("none", "batch"),
            "none",
            "project is not none",
            "batch: the projection has no bias, BatchNorm and ReLU follow it",
            _one_of("none", "batch"),
            implied=True,
        ),
        Gene(
            "fusion",
            "global",
            ("concat", "fca", "ham"),
            "concat",
            "always",
            "concat + 1×1; CANet's feature cross attention; or SegNeXt's Hamburger, a matrix factorisation",
            _one_of("concat", "fca", "ham"),
        ),
        Gene(
            "ham_rank",
            "global",
            (16, 64),
            16,
            "fusion is ham",
            "rank of the factorisation: columns of the bases",
            _whole(1, 256),
        ),
        Gene(
            "fusion_width",
            "global",
            (64, 96, 128, 192, 256, 384, 512, 768, 1024),
            128,
            "always",
            "channels of the fused map",
            _whole(16, 1024, 8),
        ),
    )
}

STAGE_GENES = tuple(name for name, gene in GENES.items() if gene.scope == "stage")
GLOBAL_GENES = tuple(name for name, gene in GENES.items() if gene.scope == "global")
IMPLIED = {name: gene.default for name, gene in GENES.items() if gene.implied}
"""Defaults of the genes that are left out of files and ids at their default."""


def check_value(name: str, value: Any, stage: int, where: str, key: str, problems: list[Problem]) -> Any:
    """The canonical form of ``value`` for gene ``name`` at ``stage``; on a breach a :class:`Problem` is noted and the default returned."""
    gene = GENES[name]
    try:
        return gene.check(value, stage)
    except ValueError as error:
        problems.append(Problem(where, key, str(error), value, nearest(value, gene.values)))
        return gene.check(gene.default, stage) if gene.default != "" else None
