"""The decoder that a genotype names: one block per kept stage, deep to shallow, then one fusion.

A stage is ``x → x + ATT(x) → + LPM(LN x) → + FFN(LN x)`` on the backbone's own width (SCASeg, arXiv 2411.17061, Eqs. 5-7); which parts
it has, where its keys and values come from, whose map it uses and what its residuals leave from is what the genes say.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nasseg.genes.gene import STAGES, STRIDES
from nasseg.genes.genotype import Genotype, StageGenes
from nasseg.models.attention import AttentionMap, InputNorm, Mixing, OwnAttention, ReusedAttention, UniformAttention
from nasseg.models.ffn import Ffn
from nasseg.models.fusion import Fusion
from nasseg.models.lpm import Lpm
from nasseg.models.ops import Residual, block_mean, channels_last, init_block, plus, stochastic_depth


class Stage(nn.Module):
    """Stage ``number`` of the decoder. With no part at all it gives its map back and has no parameter.

    ``pools`` lists its inputs as (stage, pooling ratio); ``takes_maps`` says that it normalises and pools them itself. ``source`` is the
    stage whose map it reuses, or None.
    """

    def __init__(self, genotype: Genotype, number: int, channels: Sequence[int], drop_path: float) -> None:
        super().__init__()
        genes = genotype.stage(number)
        assert genes is not None, f"stage {number} is not kept"
        width = channels[number - 1]
        self.source = genes.source
        self.pools = _pools(genotype, genes)
        self.takes_maps = bool(genes.input_norm)
        self.pool_edge = genes.pool_edge
        self.normalised = genes.residual == "normalised"
        self.attention: OwnAttention | ReusedAttention | UniformAttention | None = None
        if genes.attention != "none":
            widths = {j: channels[j - 1] for j, _ in self.pools}
            # The stage's own map takes the norm of its queries, where it has queries.
            shared = number if genes.heads is not None else None
            input_norm = InputNorm(widths, dict(self.pools), shared, genes.pool_edge) if genes.input_norm else None
            pooled = [j for j, ratio in self.pools if ratio > 1]
            mixing = Mixing(widths, pooled, bool(genes.pool_conv), genes.mixing or "norm_gelu", input_norm)
            heads = genotype.heads(channels)[number - 1]
            if genes.source is not None:
                self.attention = ReusedAttention(width, mixing)
            elif heads is None or genes.rank is None or genes.query_pool is None:
                self.attention = UniformAttention(width, mixing)
            else:
                self.attention = OwnAttention(
                    width,
                    mixing,
                    heads=heads,
                    rank=genes.rank,
                    query_pool=genes.query_pool,
                    shared=bool(genotype.reusers(number)),
                    softmax_scale=genes.softmax_scale,
                )
        self.drop_path = stochastic_depth(drop_path if self.attention is not None else 0.0)
        self.lpm = self.ffn = None
        if genes.lpm != "none":
            twice = genes.lpm_residual == "twice"
            self.lpm = Residual(width, Lpm(width, genes.lpm), drop_path, normalised=self.normalised, twice=twice)
        if genes.ffn:
            self.ffn = Residual(width, Ffn(width, genes.ffn, bool(genes.ffn_depthwise)), drop_path, normalised=self.normalised)
        init_block(self.modules())

    def forward(self, x_BCHW: Tensor, inputs: Sequence[Tensor], source: AttentionMap | None) -> tuple[Tensor, AttentionMap | None]:
        """F_i, its inputs and the map it reuses, if any → D_i of the same shape, and the map that other stages reuse, if any.

        The inputs are pooled to the key grid, or whole maps where the stage ``takes_maps``.
        """
        reused_by_others = None
        if isinstance(self.attention, OwnAttention):
            o_BCHW, normed_BCHW, reused_by_others = self.attention(x_BCHW, inputs)
            x_BCHW = plus(normed_BCHW if self.normalised else x_BCHW, self.drop_path(o_BCHW))
        elif isinstance(self.attention, ReusedAttention) and source is not None:
            x_BCHW = plus(x_BCHW, self.drop_path(self.attention(x_BCHW, inputs, source)))
        elif isinstance(self.attention, UniformAttention):
            x_BCHW = x_BCHW + self.drop_path(self.attention(inputs))
        if self.lpm is not None:
            x_BCHW = self.lpm(x_BCHW)
        if self.ffn is not None:
            x_BCHW = self.ffn(x_BCHW)
        return x_BCHW, reused_by_others


class Decoder(nn.Module):
    """Four encoder maps → logits at the stride of the shallowest kept stage.

    ``channels`` are the widths of the maps, shallow to deep, of strides 4, 8, 16, 32. Parts: ``stage1`` … ``stage4`` (those kept) and
    ``fusion``. ``drop_path`` is the stochastic depth of every residual, ``dropout`` the channel dropout before the classifier.
    """

    def __init__(
        self, genotype: Genotype, channels: Sequence[int], num_classes: int, *, drop_path: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.channels = tuple(channels)
        self.num_classes = num_classes
        self.kept = genotype.kept
        for number in reversed(self.kept):
            self.add_module(f"stage{number}", Stage(genotype, number, self.channels, drop_path))
        widths = {i: self.channels[i - 1] for i in self.kept}
        self.fusion = Fusion(
            genotype.fusion,
            widths,
            genotype.fusion_width,
            num_classes,
            project=genotype.project,
            project_norm=genotype.project_norm == "batch",
            dropout=dropout,
            ham_rank=genotype.ham_rank,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps (B, c_i, ceil(H/s_i), ceil(W/s_i)) → logits (B, K, ceil(H/s), ceil(W/s)), s the fusion stride."""
        maps = dict(zip(STAGES, map(channels_last, features), strict=True))
        pooled: dict[tuple[int, int, str | None], Tensor] = {}
        reused: dict[int, AttentionMap] = {}
        for number in reversed(self.kept):
            stage = self.get_submodule(f"stage{number}")
            assert isinstance(stage, Stage)
            if stage.takes_maps:
                inputs = [maps[j] for j, _ in stage.pools]
            else:
                edge = stage.pool_edge
                for j, ratio in stage.pools:
                    # Several stages read one map on one grid: it is pooled once.
                    if (j, ratio, edge) not in pooled:
                        pooled[j, ratio, edge] = block_mean(maps[j], ratio, edge)
                inputs = [pooled[j, ratio, edge] for j, ratio in stage.pools]
            source = reused[stage.source] if stage.source is not None else None
            maps[number], own = stage(maps[number], inputs, source)
            if own is not None:
                reused[number] = own
            # Shallower stages read the decoded map, so what was pooled from the encoder's is stale.
            pooled = {at: x for at, x in pooled.items() if at[0] != number}
        logits_BKHW: Tensor = self.fusion([maps[i] for i in self.kept])
        return logits_BKHW


def _pools(genotype: Genotype, genes: StageGenes) -> tuple[tuple[int, int], ...]:
    """Inputs of a stage as (stage, pooling ratio to the key grid); a reused map's grid is its source's."""
    owner = genotype.stage(genes.source) if genes.source is not None else genes
    if owner is None or owner.key_stride is None or genes.inputs is None:
        return ()
    return tuple((j, owner.key_stride // STRIDES[j - 1]) for j in genes.inputs)
