"""The decoder against its equations, written out once more with einsum, loops and the weights of the built module."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from kits_model import ALL_CASES, CHANNELS, SMALL, features, tiny_decoder
from references.light_ham import factorised
from torch import Tensor

from nasseg.genes.gene import STRIDES
from nasseg.genes.genotype import Genotype, StageGenes
from nasseg.models.ham import fixed_bases

Weights = Mapping[str, Tensor]


def layer_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def dense(x: Tensor, w: Weights, name: str) -> Tensor:
    """A linear map or a 1×1 convolution over the last axis."""
    matrix = w[f"{name}.weight"].flatten(1)
    return torch.einsum("...i,oi->...o", x, matrix) + w.get(f"{name}.bias", torch.zeros(matrix.shape[0]))


def batch_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5).sqrt()
    return (x - w[f"{name}.running_mean"]) * scale + w[f"{name}.bias"]


def group_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """Of B H W C, 32 groups of neighbouring channels."""
    grouped = x.unflatten(3, (32, -1))
    centred = grouped - grouped.mean((1, 2, 4), keepdim=True)
    normed = centred / (centred.square().mean((1, 2, 4), keepdim=True) + 1e-5).sqrt()
    return normed.flatten(3) * w[f"{name}.weight"] + w[f"{name}.bias"]


def depthwise(x: Tensor, w: Weights, name: str) -> Tensor:
    """3×3 over the two middle axes of B H W C."""
    height, width = x.shape[1:3]
    around = F.pad(x, (0, 0, 1, 1, 1, 1))
    kernel = w[f"{name}.weight"][:, 0]
    return w[f"{name}.bias"] + sum(around[:, i : i + height, j : j + width] * kernel[:, i, j] for i in range(3) for j in range(3))


def pool(x: Tensor, ratio: int) -> Tensor:
    """Mean of B H W C over windows, the last ones as large as the map leaves them."""
    rows = [x[:, top : top + ratio] for top in range(0, x.shape[1], ratio)]
    return torch.stack(
        [torch.stack([r[:, :, left : left + ratio].mean((1, 2)) for left in range(0, r.shape[2], ratio)], 1) for r in rows], 1
    )


def upsample(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear over the two middle axes of B H W C, pixel centres aligned at the borders of the map."""

    def along(x: Tensor, axis: int, size: int) -> Tensor:
        at = ((torch.arange(size) + 0.5) * x.shape[axis] / size - 0.5).clamp(0, x.shape[axis] - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(x.dim())])
        return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share

    return along(along(x, 1, height), 2, width)


def mixing(genes: StageGenes, owner: StageGenes, stage: int, maps: dict[int, Tensor], w: Weights, name: str) -> Tensor:
    parts = []
    grid = owner.key_stride
    assert grid is not None
    assert genes.inputs is not None
    for j in genes.inputs:
        ratio, part = grid // STRIDES[j - 1], maps[j]
        if genes.input_norm:
            of_queries = j == stage and genes.attention == "own" and genes.rank != 0
            part = layer_norm(part, w, f"stage{j}.attention.norm" if of_queries else f"{name}.input_norm.stage{j}")
        part = pool(part, ratio)
        if owner.pool_edge == "drop":
            # Of an image of whole multiples of 32: so many whole cells of the key grid, or one.
            height, width = (side * STRIDES[0] for side in maps[1].shape[1:3])
            part = part[:, : max(height // grid, 1), : max(width // grid, 1)]
        parts.append(dense(part, w, f"{name}.convs.stage{j}") if ratio > 1 and genes.pool_conv else part)
    y = layer_norm(torch.cat(parts, -1).flatten(1, 2), w, f"{name}.norm")
    if genes.mixing == "norm_norm_gelu":
        y = layer_norm(y, w, f"{name}.second_norm")
    return y if genes.mixing == "norm" else F.gelu(y)


def gate(x: Tensor, kind: str, w: Weights, name: str) -> Tensor:
    mean, peak = x.mean((1, 2)), x.flatten(1, 2).max(1).values
    if kind == "se":
        return x * torch.sigmoid(dense(F.relu(dense(mean, w, f"{name}.reduce")), w, f"{name}.expand"))[:, None, None]
    if kind == "eca":
        left, centre, right = w[f"{name}.conv.weight"].flatten()
        beside = F.pad(mean, (1, 1))
        return x * torch.sigmoid(left * beside[:, :-2] + centre * mean + right * beside[:, 2:])[:, None, None]
    if kind == "cbam":
        mean, peak = (dense(F.relu(dense(v, w, f"{name}.reduce")), w, f"{name}.expand") for v in (mean, peak))
        y = x * torch.sigmoid(mean + peak)[:, None, None]
        planes = torch.stack((y.mean(-1), y.max(-1).values), 1)
        around = F.pad(planes, (3, 3, 3, 3)).unfold(2, 7, 1).unfold(3, 7, 1)
        return y * torch.sigmoid(torch.einsum("bchwij,cij->bhw", around, w[f"{name}.spatial.weight"][0]))[..., None]
    if kind == "coord":

        def strip(v: Tensor, out: str) -> Tensor:
            hidden = batch_norm(dense(v, w, f"{name}.reduce"), w, f"{name}.norm")
            return torch.sigmoid(dense(hidden * (hidden + 3).clamp(0, 6) / 6, w, f"{name}.{out}"))

        return x * strip(x.mean(2), "rows")[:, :, None] * strip(x.mean(1), "columns")[:, None]
    assert kind == "plain"
    return x


def literal_decoder(genotype: Genotype, features: list[Tensor], w: Weights) -> Tensor:
    """Section by section what the genes say, with every map B H W C and the propagated map upsampled as a map."""
    maps = {i + 1: f.permute(0, 2, 3, 1) for i, f in enumerate(features)}
    handed: dict[int, tuple[Tensor, int, int]] = {}
    heads = genotype.heads(CHANNELS)
    for i in reversed(genotype.kept):
        genes, x, name = genotype.stage(i), maps[i], f"stage{i}"
        assert genes is not None
        height, width, c = x.shape[1:]
        base = x
        if genes.attention != "none":
            owner: StageGenes | None = genotype.stage(genes.source) if genes.source else genes
            assert owner is not None
            y = mixing(genes, owner, i, maps, w, f"{name}.attention.mixing")
            if genes.source is not None:
                a, gh, gw = handed[genes.source]
                h, m = a.shape[1], a.shape[3]
                # The literal reading: a map of N_i × M, made by upsampling the query axis.
                a = (
                    upsample(a.permute(0, 2, 1, 3).reshape(-1, gh, gw, h * m), height, width)
                    .reshape(-1, height * width, h, m)
                    .transpose(1, 2)
                )
                gh, gw = height, width
            elif genes.rank == 0:
                h, gh, gw = 1, height, width
                a = torch.softmax(torch.zeros(x.shape[0], 1, height * width, y.shape[1]), -1)
            else:
                h = heads[i - 1] or 0
                q = layer_norm(x, w, f"{name}.attention.norm")
                base = q if genes.residual == "normalised" else x
                if genes.query_pool == 2:
                    q = F.gelu(layer_norm(dense(pool(q, 2), w, f"{name}.attention.query_conv"), w, f"{name}.attention.query_norm"))
                gh, gw = q.shape[1:3]
                q = dense(q.flatten(1, 2), w, f"{name}.attention.query").unflatten(2, (h, -1))
                k = dense(y, w, f"{name}.attention.key").unflatten(2, (h, -1))
                assert q.shape[3] == (c // h if genes.rank == "full" else genes.rank)
                divisor = q.shape[3] if genes.softmax_scale == "rank" else c / h
                a = torch.softmax(torch.einsum("bnhr,bmhr->bhnm", q, k) / math.sqrt(divisor), -1)
                handed[i] = a, gh, gw
            v = dense(y, w, f"{name}.attention.value").unflatten(2, (h, -1))
            o = dense(torch.einsum("bhnm,bmhd->bnhd", a, v).flatten(2), w, f"{name}.attention.out")
            x = base + upsample(o.unflatten(1, (gh, gw)), height, width)
        if genes.lpm != "none":
            y = layer_norm(x, w, f"{name}.lpm.norm")
            u = F.relu(dense(y, w, f"{name}.lpm.branch.enter"))
            u = gate(depthwise(u, w, f"{name}.lpm.branch.depthwise"), genes.lpm, w, f"{name}.lpm.branch.gate")
            within = y if genes.lpm_residual == "twice" else 0
            x = (y if genes.residual == "normalised" else x) + within + dense(u, w, f"{name}.lpm.branch.leave")
        if genes.ffn:
            y = layer_norm(x, w, f"{name}.ffn.norm")
            u = dense(y, w, f"{name}.ffn.branch.expand")
            u = depthwise(u, w, f"{name}.ffn.branch.depthwise") if genes.ffn_depthwise else u
            assert u.shape[3] == genes.ffn * c
            x = (y if genes.residual == "normalised" else x) + dense(F.gelu(u), w, f"{name}.ffn.branch.reduce")
        maps[i] = x
    return literal_fusion(genotype, [maps[i] for i in genotype.kept], w)


def literal_fusion(genotype: Genotype, maps: list[Tensor], w: Weights) -> Tensor:
    if genotype.project_norm == "batch":
        names = [f"fusion.project.stage{i}" for i in genotype.kept]
        maps = [F.relu(batch_norm(dense(x, w, f"{n}.conv"), w, f"{n}.norm")) for n, x in zip(names, maps, strict=True)]
    elif genotype.project:
        maps = [dense(x, w, f"fusion.project.stage{i}") for i, x in zip(genotype.kept, maps, strict=True)]
    s, *deep = [upsample(x, *maps[0].shape[1:3]) for x in maps]
    d = torch.cat(deep, -1)
    norm = group_norm if genotype.fusion == "ham" else batch_norm
    f = F.relu(norm(dense(torch.cat((s, d), -1), w, "fusion.mix.conv"), w, "fusion.mix.norm"))
    if genotype.ham_rank is not None:
        x = F.relu(dense(f, w, "fusion.mix.hamburger.enter"))
        start = fixed_bases(x.shape[3], genotype.ham_rank).expand(len(x), -1, -1)
        context = factorised(x.flatten(1, 2).transpose(1, 2), start, steps=7).transpose(1, 2).reshape(x.shape)
        f = F.relu(f + group_norm(dense(context, w, "fusion.mix.hamburger.leave"), w, "fusion.mix.hamburger.norm"))
        f = F.relu(group_norm(dense(f, w, "fusion.mix.align"), w, "fusion.mix.align_norm"))
    if genotype.fusion == "fca":
        spatial = torch.sigmoid(batch_norm(dense(s, w, "fusion.mix.spatial"), w, "fusion.mix.spatial_norm"))
        d = d.flatten(1, 2)
        channel = torch.sigmoid(dense(d.mean(1), w, "fusion.mix.channel") + dense(d.max(1).values, w, "fusion.mix.channel"))
        f = F.relu(batch_norm(dense(f * spatial * channel[:, None, None] + f, w, "fusion.mix.out"), w, "fusion.mix.out_norm"))
    return dense(f, w, "fusion.classifier").permute(0, 3, 1, 2)


@pytest.mark.parametrize("genotype", list(ALL_CASES.values()), ids=list(ALL_CASES))
def test_decoder_equals_its_equations(genotype: Genotype) -> None:
    decoder = tiny_decoder(genotype)
    # The deepest map is 3×5: pooled grids beyond it have windows that reach over the edge.
    maps = features(2, (96, 160))
    with torch.no_grad():
        logits, literal = decoder(maps), literal_decoder(genotype, maps, decoder.state_dict())
    assert literal.std() > 0.05
    torch.testing.assert_close(logits, literal, rtol=1e-4, atol=2e-5 * float(literal.abs().max()))


@pytest.mark.parametrize("fusion", ["fca", "ham"])
def test_every_weight_of_the_equations_is_read(fusion: str) -> None:
    # A reference that skipped a weight would agree with a decoder that skips it too.
    genotype = Genotype.from_dict(
        {
            **SMALL,
            "lpm": "se",
            "input_norm": True,
            "stage4.mixing": "norm_norm_gelu",
            "stage3.attention": "stage4",
            "stage2.query_pool": 2,
            "fusion": fusion,
            "fusion_width": 32,
            "project": 64,
            "project_norm": "batch",
        }
    )
    decoder = tiny_decoder(genotype)
    read: set[str] = set()

    class Watched(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            read.add(name)
            return super().__getitem__(name)

        def get(self, name: str, default: Tensor | None = None) -> Tensor | None:  # type: ignore[override]
            read.add(name)
            return super().get(name, default)

    with torch.no_grad():
        literal_decoder(genotype, features(1), Watched(decoder.state_dict()))
    assert {name for name in decoder.state_dict() if not name.endswith("num_batches_tracked")} <= read
