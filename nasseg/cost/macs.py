"""Exact cost of a decoder by arithmetic on its genotype: no module is built, no torch imported.

Symbols: stage i has stride s_i = 2^(i+1), width c_i and N_i = H_i·W_i positions at the input size padded up to a multiple of 32. A stage's
keys lie on a grid of M = ceil(H/G)·ceil(W/G) positions, G its ``key_stride``, and T is the summed width of the maps concatenated there. h
heads of rank r; K classes; E the fusion's width. Every formula is the count on the built module, digit for digit
(``tests/models/test_counting.py`` holds them together); what counts and what does not is said at :class:`nasseg.cost.cost.Part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from nasseg.cost.cost import Part
from nasseg.errors import ConfigError, Problem
from nasseg.genes.gene import STRIDES
from nasseg.genes.genotype import Genotype, StageGenes

Grid = tuple[int, int]
"""Height and width of a map, in positions."""

PAD = 32
"""A network pads its input at the right and the bottom to a multiple of this, the stride of its deepest map."""


HAM_STEPS = 7
"""Updates of the factorisation in eval mode (SegNeXt's ``EVAL_STEPS``); 6 in training. A cost is one of inference."""


REMEMBERED = 4096
"""Terms that few values decide are computed once: an LPM, an FFN, a mixing. The least recently used are forgotten beyond this many."""


_NOTHING = Part()


def padded(size: Grid) -> Grid:
    """The size (height, width) a network works at: both rounded up to a multiple of 32."""
    return -(-size[0] // PAD) * PAD, -(-size[1] // PAD) * PAD


@lru_cache(maxsize=REMEMBERED)
def stage_grids(size: Grid) -> tuple[Grid, ...]:
    """The grids of the four stages' maps, shallow to deep, for an input of ``size`` (height, width) pixels."""
    height, width = padded(size)
    return tuple([(height // s, width // s) for s in STRIDES])


def check_image(size: Grid, num_classes: int) -> None:
    """Raise :class:`ConfigError` for a height, width or class count below 1."""
    if size[0] < 1 or size[1] < 1 or num_classes < 1:
        raise ConfigError(Problem("cost", "", "height, width and classes must be 1 or more", (*size, num_classes)))


def source_of(genes: StageGenes, stages: Sequence[StageGenes | None]) -> StageGenes | None:
    """The genes of the stage whose map is reused, or None."""
    return stages[genes.source - 1] if genes.source else None


def decoder_cost(
    genotype: Genotype, channels: Sequence[int], size: Grid, num_classes: int, *, resize_logits: bool = False
) -> dict[str, Part]:
    """The cost of every part of a decoder, for one image of ``size`` (height, width) pixels.

    ``channels`` are the backbone's four widths, shallow to deep. Keys are ``stage1``…``stage4`` for the stages kept, then ``fusion``.
    ``resize_logits`` adds the bilinear resize of the logits to the input size, 4·K·H·W, to the fusion's fvcore count: so SegNeXt and
    MetaSeg print their ADE20K numbers. Raises :class:`ConfigError` for a size or class count below 1.
    """
    check_image(size, num_classes)
    grids = stage_grids((size[0], size[1]))
    heads = genotype.heads(channels)
    parts: dict[str, Part] = {}
    for i, genes in enumerate(genotype.stages):
        if genes is not None:
            parts[f"stage{i + 1}"] = stage_cost(i, genes, source_of(genes, genotype.stages), heads[i] or 1, channels, grids)
    parts["fusion"] = fusion_cost(genotype, channels, grids, num_classes)
    if resize_logits:
        parts["fusion"] += Part(0, 0, 4 * num_classes * size[0] * size[1])
    return parts


def stage_cost(i: int, genes: StageGenes, source: StageGenes | None, heads: int, channels: Sequence[int], grids: Sequence[Grid]) -> Part:
    """Attention, LPM and FFN of stage ``i + 1``. ``source``: genes of the stage whose map is reused; ``heads``: those in use."""
    c, grid = channels[i], grids[i]
    attention = attention_cost(i, genes, source, heads, channels, grids)
    lpm = lpm_cost(genes.lpm, c, grid)
    ffn = ffn_cost(genes.ffn, genes.ffn_depthwise is True, c, grid)
    return Part(
        attention.params + lpm.params + ffn.params,
        attention.macs + lpm.macs + ffn.macs,
        attention.fvcore + lpm.fvcore + ffn.fvcore,
    )


def attention_cost(
    i: int, genes: StageGenes, source: StageGenes | None, heads: int, channels: Sequence[int], grids: Sequence[Grid]
) -> Part:
    """The attention of stage ``i + 1``, its mixing included: own map, reused map, uniform map, or nothing."""
    if genes.attention == "none":
        return _NOTHING
    of_map = genes if source is None else source
    owner = i if genes.source is None else genes.source - 1
    assert genes.inputs is not None
    assert of_map.key_stride is not None
    key_stride, query_pool = of_map.key_stride, of_map.query_pool or 1
    key_grid = keys_on(grids, key_stride, drop=of_map.pool_edge == "drop")
    keys = key_grid[0] * key_grid[1]
    widths = tuple([channels[j - 1] for j in genes.inputs])
    convolved = tuple([channels[j - 1] for j in genes.inputs if STRIDES[j - 1] < key_stride]) if genes.pool_conv else ()
    mixing = mixing_cost(widths, convolved, keys)
    if genes.mixing == "norm_norm_gelu":
        mixing += norm_cost(sum(widths), keys)
    if genes.input_norm:
        # The stage's own map takes the norm of its queries, which is counted with them.
        shared = i + 1 if genes.source is None and genes.rank != 0 else None
        for j in genes.inputs:
            if j != shared:
                mixing += norm_cost(channels[j - 1], grids[j - 1][0] * grids[j - 1][1])
    width = sum(widths)
    c, n = channels[i], grids[i][0] * grids[i][1]
    if of_map.rank == 0:
        return mixing + uniform_cost(width, c, keys)
    queries = -(-grids[owner][0] // query_pool) * -(-grids[owner][1] // query_pool)
    if source is not None:
        return mixing + reuse_cost(width, c, n, queries, keys)
    rank = c if genes.rank == "full" else heads * int(genes.rank or 0)
    return mixing + own_cost(width, c, rank, n, queries, keys, query_pool > 1)


def keys_on(grids: Sequence[Grid], key_stride: int, *, drop: bool) -> Grid:
    """The grid of the keys, the same from whichever stage's map they are pooled: ceil(H/G) × ceil(W/G). Where windows that reach over the
    edge are left out (``pool_edge`` is ``drop``), floor(H/G) × floor(W/G), but at least 1 each way."""
    height, width = grids[0][0] * STRIDES[0], grids[0][1] * STRIDES[0]
    if drop:
        return max(height // key_stride, 1), max(width // key_stride, 1)
    return -(-height // key_stride), -(-width // key_stride)


def norm_cost(width: int, positions: int) -> Part:
    """A LayerNorm over ``width`` channels at so many positions: 2·width parameters, 5·positions·width for fvcore."""
    return Part(2 * width, 0, 5 * positions * width)


@lru_cache(maxsize=REMEMBERED)
def mixing_cost(widths: tuple[int, ...], convolved: tuple[int, ...], keys: int) -> Part:
    """Keys and values' common source Y = GELU(LN(concat)): the pooled maps, a 1×1 convolution with bias on some of them, LayerNorm.

    ``widths`` are those of all maps, T their sum; ``convolved`` those of the maps with a convolution; ``keys`` is M. Parameters
    Σ(w² + w) + 2T and MACs M·Σw², both sums over the convolved; LayerNorm 5·M·T. A second LayerNorm (``mixing`` is ``norm_norm_gelu``) and
    those of ``input_norm`` are :func:`norm_cost`; without GELU the cost is the same.
    """
    width, squares = sum(widths), sum([w * w for w in convolved])
    return Part(squares + sum(convolved) + 2 * width, keys * squares, keys * squares + 5 * keys * width)


def own_cost(width: int, c: int, rank: int, n: int, queries: int, keys: int, pooled: bool) -> Part:
    """A softmax map of the stage's own, applied and projected. ``width`` is T, ``rank`` h·r (c for full rank), ``n`` N and ``queries`` N_q.

    LayerNorm of the map, 2c; with ``pooled`` queries a 1×1 convolution with bias and a second LayerNorm, c² + c + 2c; W_q c·hr, W_k T·hr,
    W_v T·c without bias; W_o c² + c. MACs: N_q·c·hr + M·T·(hr + c) + N_q·M·(hr + c) + N_q·c², pooled queries N_q·c² more. The result is
    resized to N positions where N_q is fewer.
    """
    params = 2 * c + rank * (c + width) + width * c + c * c + c
    macs = queries * c * rank + keys * width * (rank + c) + queries * keys * (rank + c) + queries * c * c
    extra = 5 * n * c
    if pooled:
        params += c * c + 3 * c
        macs += queries * c * c
        extra += 5 * queries * c
    if queries != n:
        extra += 4 * n * c
    return Part(params, macs, macs + extra)


def uniform_cost(width: int, c: int, keys: int) -> Part:
    """A map of rank 0: every query gets the mean of the keys. W_v T·c without bias, W_o c² + c, both on one token; the mean reads M·T."""
    macs = width * c + c * c
    return Part(macs + c, macs, macs + keys * width)


def reuse_cost(width: int, c: int, n: int, queries: int, keys: int) -> Part:
    """A deeper stage's map on this stage's values: W_v T·c without bias, A·V and W_o on the source's ``queries``, a resize to ``n``."""
    macs = keys * width * c + queries * keys * c + queries * c * c
    return Part(width * c + c * c + c, macs, macs + (4 * n * c if queries != n else 0))


@lru_cache(maxsize=REMEMBERED)
def lpm_cost(kind: str, c: int, grid: Grid) -> Part:
    """The local perception module PW2(gate · DW3×3(ReLU(PW1(LN x)))) with its gate (``none``: nothing at all).

    Without a gate: parameters 2c + 2(c² + c) + 10c, MACs N·(2c² + 9c), LayerNorm 5·N·c. Gates, m = max(1, c//16): ``se`` two linear layers
    with bias on the mean; ``eca`` three weights; ``cbam`` a shared MLP without bias on mean and maximum, and a 7×7 convolution of two
    channels; ``coord`` m = max(8, c//32), one convolution to m and a BatchNorm on the H + W strip positions, one back on each strip.
    """
    if kind == "none":
        return _NOTHING
    height, width = grid
    n = height * width
    params = 2 * c + 2 * (c * c + c) + 10 * c
    macs = n * (2 * c * c + 9 * c)
    extra = 5 * n * c
    if kind == "plain":
        return Part(params, macs, macs + extra)
    extra += n * c
    m = max(1, c // 16)
    if kind == "se":
        params += 2 * c * m + m + c
        macs += 2 * c * m
    elif kind == "eca":
        params += 3
        macs += 3 * c
    elif kind == "cbam":
        params += 2 * c * m + 98
        macs += 4 * c * m + 98 * n
    elif kind == "coord":
        m = max(8, c // 32)
        params += 3 * c * m + 2 * m + 2 * c
        macs += 2 * (height + width) * c * m
        extra += n * c + 2 * (height + width) * m
    else:
        raise AssertionError(f"no cost term for lpm {kind!r}")
    return Part(params, macs, macs + extra)


@lru_cache(maxsize=REMEMBERED)
def ffn_cost(ratio: int, depthwise: bool, c: int, grid: Grid) -> Part:
    """W2 GELU(DW3×3(W1 LN x)) of hidden width ec, or nothing for ratio 0.

    Parameters 2c + 2ec² + ec + c, MACs N·2ec²; the depthwise convolution adds 10ec and N·9ec.
    """
    if ratio == 0:
        return _NOTHING
    n, hidden = grid[0] * grid[1], ratio * c
    params = 2 * c + 2 * hidden * c + hidden + c
    macs = 2 * hidden * c
    if depthwise:
        params += 10 * hidden
        macs += 9 * hidden
    return Part(params, n * macs, n * (macs + 5 * c))


def fusion_cost(genotype: Genotype, channels: Sequence[int], grids: Sequence[Grid], num_classes: int) -> Part:
    """Projections at each stage's own grid, resizes to the shallowest kept one, the fusion and the classifier E → K with bias.

    A projection c_i → P with bias has c_i·P + P parameters; with BatchNorm c_i·P + 2P, and 2·N_i·P for fvcore.
    ``concat``: T·E + 2E parameters. ``fca``, s the shallowest width and d the sum of the others: (s+d)·E + 2E for the first convolution,
    s + 2 for the spatial gate, d·E + E for the channel gate (used twice, on one position), E² + 2E for the last convolution. ``ham``:
    T·E + 2E for the first convolution, then :func:`ham_cost`.
    """
    kept = [i for i, genes in enumerate(genotype.stages) if genes is not None]
    params = macs = extra = 0
    widths = [channels[i] for i in kept]
    if genotype.project is not None:
        project = genotype.project
        for i in kept:
            positions = grids[i][0] * grids[i][1]
            params += channels[i] * project + project
            macs += positions * channels[i] * project
            if genotype.project_norm == "batch":
                params += project
                extra += 2 * positions * project
        widths = [project] * len(kept)
    n = grids[kept[0]][0] * grids[kept[0]][1]
    shallow, deep = widths[0], sum(widths[1:])
    e = genotype.fusion_width
    extra += 4 * n * deep
    params += (shallow + deep) * e + 2 * e
    macs += n * (shallow + deep) * e
    extra += (5 if genotype.fusion == "ham" else 2) * n * e
    if genotype.ham_rank is not None:
        ham = ham_cost(e, genotype.ham_rank, n)
        params += ham.params
        macs += ham.macs
        extra += ham.fvcore - ham.macs
    if genotype.fusion == "fca":
        params += shallow + 2 + deep * e + e + e * e + 2 * e
        macs += n * shallow + 2 * deep * e + n * e * e
        extra += 2 * n + n * deep + 2 * n * e
    params += e * num_classes + num_classes
    macs += n * e * num_classes
    return Part(params, macs, macs + extra)


def ham_cost(e: int, rank: int, n: int) -> Part:
    """SegNeXt's Hamburger on n positions of E channels, and the 1×1 convolution that aligns its output: three E → E, the first with bias.

    Parameters 3E² + E and 4E of two GroupNorms; MACs n·3E²; GroupNorms 2·5·n·E. The factorisation X (E×n) ≈ D Cᵀ, rank R, S = 7 updates as
    in eval mode: n·E·R for the first coefficients, S times (2·n·E·R + 2·E·R² + 2·n·R²), n·E·R + E·R² + n·R² for the last coefficients,
    n·E·R for the product; in all n·E·R·(2S + 3) + (n + E)·R²·(2S + 1).
    """
    updates = 2 * HAM_STEPS + 1
    macs = 3 * n * e * e + n * e * rank * (updates + 2) + (n + e) * rank * rank * updates
    return Part(3 * e * e + 5 * e, macs, macs + 10 * n * e)
