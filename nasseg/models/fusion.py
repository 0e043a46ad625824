"""From the decoded maps of the kept stages to logits.

Maps come shallow to deep; the first one's grid is the fusion grid. T is the sum of their widths (after the projection), E the fusion width,
K the number of classes, H and W the fusion grid, h and w a map's own grid.

As written, every map is brought to the fusion grid, all are concatenated, and a 1×1 convolution T → E reads the result. A 1×1 convolution
mixes channels and a bilinear resize mixes positions, so they commute, and the rows of the resize sum to 1, so a bias commutes as well::

    W [up(x_1), …, up(x_k)] = Σ_j up(W_j x_j),    W = [W_1, …, W_k]

What is executed is the right-hand side: each map meets its slice of the weight on its own grid, 4 to 64 times smaller, and no map of T
channels exists. A projection before it (x_j → P_j x_j + b_j) is multiplied into the slice where that is less work; with a ReLU between the
two (``project_norm`` ``batch``) there is no such product, and the projection runs as it is. A BatchNorm in eval mode is the scale and the
shift of W's rows. Names of weights, gradients and BatchNorm statistics are those of the form as written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.genes.gene import HAM_GROUPS
from nasseg.models.form import TwoForms
from nasseg.models.ham import Hamburger
from nasseg.models.ops import bands, in_bands, init_head, max_of_resized, mean_of_resized, plus, resize, resized_rows

RESIZE_FIRST = 8
"""A map that the weight makes so many times wider is resized before it: there the wide map's way through memory costs more than the
multiplications it saves. Measured at E = 64 … 768 over c = 16 … 256 on a CPU: even at 8, half the time at 16, twice at 4."""


Rows = Callable[[tuple[int, int]], Tensor]
"""A map by rows: (first, last + 1) → (B, E, rows, W)."""


class ConcatMix(TwoForms):
    """``ReLU(BN(Conv1x1_{T→E}(concat)))``, the convolution without bias: SegFormer, U-MixFormer, SCASeg."""

    by_rows = True
    """Whether a few rows of the fused map can be made without the others, in eval mode."""

    def __init__(self, widths: Sequence[int], fusion_width: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv = nn.Conv2d(sum(widths), fusion_width, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(fusion_width)

    def forward(self, maps: Sequence[Tensor], projections: Sequence[nn.Module]) -> Tensor:
        """Maps on their own grids, shallow to deep, and what projects each → (B, E, H, W)."""
        grid = grid_of(maps[0])
        if not self.as_written:
            return self.executed(maps, projections)((0, grid[0]))
        return self.written([resize(project(x_BChw), grid) for project, x_BChw in zip(projections, maps, strict=True)])

    def written(self, aligned: Sequence[Tensor]) -> Tensor:
        """The formula: projected maps on one grid → (B, E, H, W)."""
        return F.relu(self.norm(self.conv(torch.cat(tuple(aligned), dim=1))))

    def executed(self, maps: Sequence[Tensor], projections: Sequence[nn.Module | None], *, banded: bool = False) -> Rows:
        """The same function, map by map, for any rows of the fusion grid."""
        slices = torch.split(self.conv.weight.flatten(1), list(self.widths), dim=1)
        inner = normed(self.norm, list(zip(maps, slices, projections, strict=True)), grid_of(maps[0]), banded=banded)
        return lambda rows: F.relu(inner(rows), inplace=True)


class FcaMix(ConcatMix):
    """CANet's feature cross attention (arXiv 1907.10958), 1×1 form: a spatial gate from the shallow map, a channel gate from the deep ones.

    With s the shallowest map and d the others, concatenated::

        f   = ReLU(BN(Conv1x1_{T→E}([s, d])))
        a_s = sigmoid(BN(Conv1x1_{→1}(s)))                   (B, 1, H, W)
        a_c = sigmoid(FC(mean_HW d) + FC(max_HW d))          (B, E, 1, 1), one shared linear with bias
        out = ReLU(BN(Conv1x1_{E→E}(f·a_s·a_c + f)))

    Convolutions without bias. CANet uses 3×3 kernels; those are far outside the cost of this lineage.

    The mean and the maximum of d are those of the resized maps; :func:`nasseg.models.ops.mean_of_resized` and ``max_of_resized`` take them
    from the small ones.
    """

    def __init__(self, widths: Sequence[int], fusion_width: int) -> None:
        super().__init__(widths, fusion_width)
        self.spatial = nn.Conv2d(widths[0], 1, 1, bias=False)
        self.spatial_norm = nn.BatchNorm2d(1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.channel = nn.Conv2d(sum(widths[1:]), fusion_width, 1)
        self.out = nn.Conv2d(fusion_width, fusion_width, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(fusion_width)

    def written(self, aligned: Sequence[Tensor]) -> Tensor:
        """The formula: projected maps on one grid → (B, E, H, W)."""
        shallow_BCHW, deep_BCHW = aligned[0], torch.cat(tuple(aligned[1:]), dim=1)
        f_BEHW = super().written(aligned)
        spatial_B1HW = torch.sigmoid(self.spatial_norm(self.spatial(shallow_BCHW)))
        channel_BE11 = torch.sigmoid(self.channel(self.pool(deep_BCHW)) + self.channel(deep_BCHW.amax(dim=(2, 3), keepdim=True)))
        return F.relu(self.out_norm(self.out(torch.addcmul(f_BEHW, f_BEHW * spatial_B1HW, channel_BE11))))

    def executed(self, maps: Sequence[Tensor], projections: Sequence[nn.Module | None], *, banded: bool = False) -> Rows:
        """The same function; the deep maps are projected on their own grids, for the maximum reads them so."""
        grid = grid_of(maps[0])
        if isinstance(projections[0], NormedProjection):
            # Both readers of the shallow map take it projected, and neither can take the projection in.
            maps, projections = [projections[0](maps[0]), *maps[1:]], [None, *projections[1:]]
        deep = [x_BChw if project is None else project(x_BChw) for x_BChw, project in zip(maps[1:], projections[1:], strict=True)]
        f_of = super().executed([maps[0], *deep], [projections[0], *(None for _ in deep)], banded=banded)
        spatial_of = normed(self.spatial_norm, [(maps[0], self.spatial.weight.flatten(1), projections[0])], grid, banded=banded)
        mean_BD11 = torch.cat([mean_of_resized(x_BChw, grid) for x_BChw in deep], dim=1)
        max_BD11 = torch.cat([max_of_resized(x_BChw, grid) for x_BChw in deep], dim=1)
        channel_BE11 = torch.sigmoid(self.channel(mean_BD11) + self.channel(max_BD11))

        def out_of(rows: tuple[int, int]) -> Tensor:
            f_BERW = f_of(rows)
            gated_BERW = torch.addcmul(f_BERW, f_BERW * torch.sigmoid(spatial_of(rows)), channel_BE11)
            last = normed(self.out_norm, [(gated_BERW, self.out.weight.flatten(1), None)], grid_of(gated_BERW), banded=banded)
            return F.relu(last((0, gated_BERW.shape[2])), inplace=True)

        return out_of


class NormedProjection(nn.Module):
    """``ReLU(BN(Conv1x1(x)))``, the convolution without bias: mmsegmentation's form of SegFormer's projection."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, c, h, w) → (B, P, h, w)."""
        return F.relu(self.norm(self.conv(x_BChw)))


class HamMix(ConcatMix):
    """SegNeXt's decoder (arXiv 2209.08575, section 3.2, figure 3c; ``LightHamHead`` in its code), E = ``fusion_width``::

        f   = ReLU(GN(Conv1x1_{T→E}(concat)))
        out = ReLU(GN(Conv1x1_{E→E}(Hamburger(f))))

    Convolutions without bias, GroupNorms of 32 groups; :class:`nasseg.models.ham.Hamburger` is the part between. SegNeXt reads stages 2 to
    4 at stride 8; any stages, projected or decoded, at any stride are legal here.
    """

    by_rows = False

    def __init__(self, widths: Sequence[int], fusion_width: int, rank: int) -> None:
        super().__init__(widths, fusion_width)
        self.norm = nn.GroupNorm(HAM_GROUPS, fusion_width)
        self.hamburger = Hamburger(fusion_width, rank)
        self.align = nn.Conv2d(fusion_width, fusion_width, 1, bias=False)
        self.align_norm = nn.GroupNorm(HAM_GROUPS, fusion_width)

    def written(self, aligned: Sequence[Tensor]) -> Tensor:
        """The formula: projected maps on one grid → (B, E, H, W)."""
        return self._behind(super().written(aligned))

    def executed(self, maps: Sequence[Tensor], projections: Sequence[nn.Module | None], *, banded: bool = False) -> Rows:
        """The same function; norms and factorisation read the whole map, so all rows are made at once."""
        out_BEHW = self._behind(super().executed(maps, projections)((0, maps[0].shape[2])))
        return lambda rows: out_BEHW[:, :, slice(*rows)]

    def _behind(self, f_BEHW: Tensor) -> Tensor:
        return F.relu(self.align_norm(self.align(self.hamburger(f_BEHW))))


def make_mix(kind: str, widths: Sequence[int], fusion_width: int, ham_rank: int | None) -> ConcatMix:
    """The fusion that the gene ``fusion`` names, for maps of these widths; ``ham_rank`` is read by ``ham`` alone."""
    if kind == "ham":
        assert ham_rank is not None
        return HamMix(widths, fusion_width, ham_rank)
    return {"concat": ConcatMix, "fca": FcaMix}[kind](widths, fusion_width)


class Fusion(nn.Module):
    """Projection per stage, resize to the fusion grid, one of the fusions (:func:`make_mix`), dropout, classifier.

    ``widths`` are the channels of the kept stages by number, shallow to deep. ``project`` puts a 1×1 convolution c_i → P with bias on every
    map at its own grid, before the upsample (SegFormer's head), ``project_norm`` a :class:`NormedProjection` instead. The classifier is a
    1×1 convolution E → K with bias, behind channel dropout. Initialisation: :func:`nasseg.models.ops.init_head`.
    """

    def __init__(
        self,
        kind: str,
        widths: Mapping[int, int],
        fusion_width: int,
        num_classes: int,
        *,
        project: int | None,
        dropout: float,
        project_norm: bool = False,
        ham_rank: int | None = None,
    ) -> None:
        super().__init__()
        self.project = nn.ModuleDict({f"stage{i}": _projection(c, project, project_norm) for i, c in widths.items()})
        self.mix = make_mix(kind, [project or c for c in widths.values()], fusion_width, ham_rank)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(fusion_width, num_classes, 1)
        init_head(self.modules(), self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, c_i, H_i, W_i) of the kept stages, shallow to deep → logits (B, K, H, W) on the first map's grid."""
        projections = list(self.project.values())
        rows = [] if self.training or self.mix.as_written or not self.mix.by_rows else bands(maps[0], self.classifier.in_channels)
        if len(rows) < 2 or any(maps[0].shape[2] % x_BChw.shape[2] for x_BChw in maps):
            logits_BKHW: Tensor = self.classifier(self.dropout(self.mix(maps, projections)))
            return logits_BKHW
        # Nothing is learned from this pass: the fused map of E channels is made and read a few rows at a time.
        fused = self.mix.executed(maps, projections, banded=True)
        parts = (self.classifier(fused(band)) for band in rows)
        return in_bands(parts, rows, maps[0].shape[2])


def _projection(channels: int, width: int | None, norm: bool) -> nn.Module:
    if width is None:
        return nn.Identity()
    return NormedProjection(channels, width) if norm else nn.Conv2d(channels, width, 1)


Term = tuple[Tensor, Tensor, nn.Module | None]
"""A map (B, c, h, w), the weight (E, P) of a 1×1 convolution, and what projects the map before it, c → P, if anything."""


def normed(norm: nn.Module, terms: Sequence[Term], grid: tuple[int, int], *, banded: bool) -> Rows:
    """``norm(Σ_j up(W_j project_j(x_j)))``, the first map on ``grid``, by rows. A norm that reads the batch is given all rows at once."""
    biases: list[Tensor] = []
    sources: list[tuple[Tensor, Tensor]] = []
    for x_BChw, weight_EP, project in terms:
        if isinstance(project, nn.Conv2d) and _pays_to_compose(x_BChw, project, weight_EP):
            weight_EC, bias_E = composed(weight_EP, project)
            biases += [bias_E] if bias_E is not None else []
            sources.append((x_BChw, weight_EC))
        else:
            sources.append((x_BChw if project is None else project(x_BChw), weight_EP))
    total_E = torch.stack(biases).sum(dim=0) if biases else None
    affine = scale_and_shift(norm)
    if affine is None:
        plain = summed(sources, total_E, grid, banded=banded)
        return lambda rows: norm(plain(rows))
    scale_E, shift_E = affine
    scaled = [(x_BChw, weight_EC * scale_E[:, None]) for x_BChw, weight_EC in sources]
    return summed(scaled, shift_E if total_E is None else total_E * scale_E + shift_E, grid, banded=banded)


def summed(sources: Sequence[tuple[Tensor, Tensor]], bias_E: Tensor | None, grid: tuple[int, int], *, banded: bool = False) -> Rows:
    """``Σ_j up(W_j x_j) + bias`` for pairs of a map (B, c_j, h, w) and a weight (E, c_j), the first map on ``grid``: (B, E, rows, W).

    ``banded`` promises that few rows are asked for at a time; the wide map then costs no way through memory.
    """
    late: list[tuple[Tensor, Tensor]] = []
    early: list[Tensor] = []
    for x_BChw, weight_EC in sources:
        if grid_of(x_BChw) == grid or (not banded and x_BChw.shape[1] * RESIZE_FIRST <= weight_EC.shape[0]):
            late.append((resize(x_BChw, grid), weight_EC))
        else:
            early.append(F.conv2d(x_BChw, weight_EC[:, :, None, None]))
    # What is as large as the result anyway meets the weight together.
    x_BCHW, joined_EC = late[0] if len(late) == 1 else (torch.cat([x for x, _ in late], dim=1), torch.cat([w for _, w in late], dim=1))

    def sum_of(rows: tuple[int, int]) -> Tensor:
        whole = rows == (0, grid[0])
        sum_BERW = F.conv2d(x_BCHW if whole else x_BCHW[:, :, slice(*rows)], joined_EC[:, :, None, None], bias_E)
        for y_BEhw in early:
            sum_BERW = plus(resize(y_BEhw, grid) if whole else resized_rows(y_BEhw, grid, rows), sum_BERW)
        return sum_BERW

    return sum_of


def composed(slice_EP: Tensor, project: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """The 1×1 convolution ``slice ∘ project`` as a weight (E, C) and a bias (E,)."""
    weight_EC = slice_EP @ project.weight.flatten(1)
    return weight_EC, None if project.bias is None else slice_EP @ project.bias


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """What a BatchNorm does to each channel in eval mode: ``x·scale + shift``. None where it reads the batch, and for anything else."""
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    scale_C = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale_C = scale_C * norm.weight
    shift_C = -norm.running_mean * scale_C
    return scale_C, shift_C if norm.bias is None else shift_C + norm.bias


def grid_of(x_BCHW: Tensor) -> tuple[int, int]:
    """Height and width of a map."""
    return x_BCHW.shape[2], x_BCHW.shape[3]


def _pays_to_compose(x_BChw: Tensor, project: nn.Conv2d, slice_EP: Tensor) -> bool:
    """Whether E·P·c for the product of the weights and E·c a position are fewer multiplications than P·c + E·P a position."""
    (e, p), c, positions = slice_EP.shape, project.in_channels, x_BChw.shape[2] * x_BChw.shape[3]
    return e * p * c + e * c * positions < (p * c + e * p) * positions
