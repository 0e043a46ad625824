"""What every decoder must keep, and the tiny networks it is tried on.

``DecoderContract`` is a kit: a test class inherits it and lists genotypes in ``cases``; every test of the kit then runs on each of them.
``GENE_CASES`` walks the catalogue of genes: a new value of a gene is under the kit as soon as it stands in ``GENES``.
"""

from __future__ import annotations

import contextlib
import math
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.errors import ConfigError
from nasseg.genes.gene import GENES, GLOBAL_GENES, STAGE_GENES, STAGES, STRIDES
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.decoder import Decoder
from nasseg.models.segmenter import SegModel

M = TypeVar("M", bound=nn.Module)

CHANNELS = (8, 16, 24, 32)
SMALL: dict[str, Any] = {"fusion_width": 16, "heads": 2, "ffn": 1, "rank": 2}
"""A decoder of few parameters, the start of every case."""


class TinyBackbone(nn.Module):
    """Four maps of ``channels`` at strides 4, 8, 16, 32, one convolution each: fast, and every pixel counts. Sizes round up."""

    def __init__(self, channels: Sequence[int] = CHANNELS, in_chans: int = 3) -> None:
        super().__init__()
        self.name, self.channels, self.strides = "tiny", tuple(channels), STRIDES
        self.convs = nn.ModuleList(nn.Conv2d(in_chans, c, s, stride=s) for c, s in zip(channels, STRIDES, strict=True))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        height, width = x_BCHW.shape[2:]
        return tuple(
            conv(F.pad(x_BCHW, (0, -width % s, 0, -height % s)) if height % s or width % s else x_BCHW)
            for conv, s in zip(self.convs, STRIDES, strict=True)
        )


def tiny_model(genotype: Genotype, classes: int = 3, channels: Sequence[int] = CHANNELS) -> SegModel:
    """A whole network on :class:`TinyBackbone`, filled, in eval mode."""
    model = SegModel(genotype, TinyBackbone(channels), Decoder(genotype, channels, classes))
    return fill(model).eval()


def tiny_decoder(genotype: Genotype, classes: int = 3, channels: Sequence[int] = CHANNELS, **rates: float) -> Decoder:
    """A decoder, filled, in eval mode."""
    return fill(Decoder(genotype, channels, classes, **rates)).eval()


def fill(module: M) -> M:
    """Give every weight a value out of its name and position: no generator, so golden numbers hold on any machine and version.

    Matrices get unit gain, so that attention maps are far from uniform and gates far from one half.
    """
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            # The bases a factorisation starts from are not learned and not negative.
            if value.is_floating_point() and not name.endswith("factorise.bases"):
                wave = _wave(value.shape, name)
                if name.endswith("running_var"):
                    value.copy_(1 + 0.5 * wave)
                elif value.dim() > 1:
                    value.copy_(wave * math.sqrt(2 / (value.numel() // value.shape[0])))
                else:
                    value.copy_(0.3 * wave + (1.0 if name.endswith("norm.weight") else 0.0))
    return module


def features(batch: int = 2, size: tuple[int, int] = (64, 96), channels: Sequence[int] = CHANNELS, seed: str = "x") -> list[Tensor]:
    """Four encoder maps for an image of ``size``."""
    return [1.5 * _wave((batch, c, size[0] // s, size[1] // s), f"{seed}{s}") for c, s in zip(channels, STRIDES, strict=True)]


def image(batch: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """A batch of normalised images."""
    return 1.5 * _wave((batch, channels, *size), "image")


def _wave(shape: Sequence[int], name: str) -> Tensor:
    """Values in -1…1 without visible structure: the sine of growing steps from a start that hangs on the name."""
    start = zlib.crc32(name.encode()) % 10_000
    at = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(start + 12.9898 * at + 0.078233 * at * at).to(torch.float32).reshape(list(shape))


def gene_cases() -> dict[str, Genotype]:
    """For every value of every gene a small genotype in which it is read."""
    made: dict[str, Genotype] = {}
    for name, gene in GENES.items():
        for value in gene.values:
            made[f"{name}={value}"] = with_gene(name, value)
    return made


def with_gene(name: str, value: Any, start: Mapping[str, Any] = SMALL) -> Genotype:
    """``start`` with one gene set wherever it can be read."""
    raw = {**start, name: list(value) if isinstance(value, tuple) else value}
    if name == "attention" and str(value).startswith("stage"):
        source = int(value[-1])
        raw = {**start, **{f"stage{i}.attention": value if i < source else "own" for i in STAGES}}
    raw |= {
        "pool_conv": {"inputs": [1]},
        "pool_edge": {"inputs": [1], "key_stride": 64},
        "lpm_residual": {"lpm": "plain"},
        "project_norm": {"project": 64},
    }.get(name, {})
    if name in ("fusion", "ham_rank"):
        raw = {"fusion": "ham", **raw, "fusion_width": 32}
    return Genotype.from_dict(raw)


SPECIAL_CASES = {
    "normalised inputs of every kind": {
        **SMALL,
        "input_norm": True,
        "stage4.rank": 0,
        "stage3.inputs": [1, 3],
        "stage1.attention": "stage3",
        "stage1.inputs": [1, 4],
    },
    "two norms and pooled queries": {**SMALL, "mixing": "norm_norm_gelu", "residual": "normalised", "query_pool": 2, "input_norm": True},
    "normalised residuals of one branch": {
        **SMALL,
        "residual": "normalised",
        "stage4.ffn": 0,
        "stage3.attention": "none",
        "stage2.rank": 0,
    },
    "both residuals of an LPM": {**SMALL, "lpm": "se", "lpm_residual": "twice", "stage3.residual": "normalised"},
    "dropped edges": {
        **SMALL,
        "key_stride": 64,
        "inputs": "self",
        "pool_edge": "drop",
        "stage4.input_norm": True,
        "stage3.attention": "stage4",
        "stage2.attention": "stage4",
        "stage2.input_norm": True,
        "stage2.inputs": [1, 2],
        "stage1.rank": 0,
    },
    "scale of a reused map": {**SMALL, "softmax_scale": "rank", "stage2.attention": "stage4", "stage1.rank": "full"},
    "normed projections under fca": {**SMALL, "fusion": "fca", "project": 64, "project_norm": "batch", "fusion_stride": 8},
    "reuse of a full map": {**SMALL, "rank": "full", "stage3.attention": "stage4", "stage1.attention": "stage4"},
    "reuse of a pooled map": {**SMALL, "key_stride": 64, "query_pool": 2, "stage2.attention": "stage3", "stage1.attention": "stage3"},
    "reuse of a uniform map": {**SMALL, "rank": 0, "stage1.attention": "stage4"},
    "two sources": {**SMALL, "stage2.attention": "stage3", "stage1.attention": "stage4", "stage1.inputs": [1, 3]},
    "fine keys": {**SMALL, "key_stride": 8, "inputs": [1], "heads": 5},
    "inputs from below": {**SMALL, "fusion_stride": 8, "inputs": [1, 4], "key_stride": 32},
    "raw stages": {**SMALL, "attention": "none", "ffn": 0, "stage4.attention": "own", "stage4.lpm": "coord"},
    "fca with projection": {**SMALL, "fusion": "fca", "project": 64, "fusion_stride": 8, "stage4.lpm": "cbam"},
    "ham with projection and blocks": {**SMALL, "fusion": "ham", "fusion_width": 64, "project": 64, "ham_rank": 5},
    "gates of every kind": {**SMALL, "stage4.lpm": "se", "stage3.lpm": "eca", "stage2.lpm": "cbam", "stage1.lpm": "coord", "fusion": "fca"},
    "mixed grids": {**SMALL, "stage4.key_stride": 128, "stage3.key_stride": 64, "stage2.key_stride": 16, "stage1.query_pool": 2},
}


def covering_cases() -> dict[str, Genotype]:
    """A few decoders that between them read every value of every gene, of widths any one: programs differ in their sizes alone.

    The best of seeded draws, until nothing is left to cover.
    """
    rng = random.Random(0)
    draws = [draw_genotype(rng) for _ in range(400)]
    missing = {(name, width_or(name, value)) for name, gene in GENES.items() for value in gene.values}
    chosen: dict[str, Genotype] = {}
    while missing:
        # Of equals the one with the fewest genes: its graph is small.
        genotype = max(draws, key=lambda g: (len(missing & kinds_read(g)), -len(g.flat())))
        assert missing & kinds_read(genotype), f"no draw reads {sorted(map(str, missing))}"
        missing -= kinds_read(genotype)
        chosen[f"cover{len(chosen)}"] = genotype
    return chosen


def draw_genotype(rng: random.Random) -> Genotype:
    """A random legal genotype; every value of every gene has a chance."""
    while True:
        raw: dict[str, Any] = {name: rng.choice(GENES[name].values) for name in GLOBAL_GENES if GENES[name].values}
        for i in STAGES:
            stage = {name: rng.choice(GENES[name].values) for name in STAGE_GENES}
            if str(stage["attention"]).startswith("stage"):
                for gene in ("key_stride", "heads", "rank", "pool_edge", "softmax_scale", "query_pool"):
                    del stage[gene]
            elif stage["inputs"] == "all":
                stage["inputs"] = [j for j in STAGES if STRIDES[j - 1] <= stage["key_stride"]]
            raw[f"stage{i}"] = stage
        with contextlib.suppress(ConfigError):
            return Genotype.from_dict(raw)


def values_read(genotype: Genotype) -> set[tuple[str, Any]]:
    """The (gene, value) pairs of the catalogue that this genotype reads."""
    read: set[tuple[str, Any]] = set()
    for key, used in genotype.flat().items():
        head, _, tail = key.rpartition(".")
        gene, stage = GENES[tail], int(head[-1]) if head else 0
        plain = tuple(used) if isinstance(used, list) else used
        read |= {(tail, value) for value in gene.values if gene.check(value, stage) == plain}
    return read


def kinds_read(genotype: Genotype) -> set[tuple[str, Any]]:
    """:func:`values_read` with all widths of a gene as one."""
    return {(name, width_or(name, value)) for name, value in values_read(genotype)}


def width_or(name: str, value: Any) -> Any:
    """``width`` for a number of channels, any other value as it is."""
    return "width" if name in ("fusion_width", "project") and value != "none" else value


GENE_CASES = gene_cases()
PRESET_CASES = {name: preset(name) for name in PRESETS}
ALL_CASES = GENE_CASES | PRESET_CASES | {name: Genotype.from_dict(raw) for name, raw in SPECIAL_CASES.items()}


class DecoderContract:
    """The kit. Inherit it and set ``cases``."""

    cases: Mapping[str, Genotype]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "genotype" in metafunc.fixturenames:
            metafunc.parametrize("genotype", list(self.cases.values()), ids=list(self.cases))

    def test_logits_lie_at_the_fusion_stride(self, genotype: Genotype) -> None:
        model = tiny_model(genotype, classes=5)
        s = genotype.fusion_stride
        for height, width in ((64, 96), (37, 51), (32, 32), (1, 1)):
            x_BCHW = image(1, (height, width))
            with torch.no_grad():
                logits, resized = model(x_BCHW), model.predict(x_BCHW)
            assert logits.shape == (1, 5, math.ceil(height / s), math.ceil(width / s))
            assert resized.shape == (1, 5, height, width)
            assert logits.isfinite().all()
            assert resized.isfinite().all()

    def test_every_parameter_learns(self, genotype: Genotype) -> None:
        decoder = tiny_decoder(genotype)
        silent = dict(decoder.named_parameters())
        for seed in "abcd":
            decoder.zero_grad()
            # Wide enough for two keys on the coarsest grid: a softmax over one key is constant.
            weighted(decoder(features(size=(64, 160), seed=seed))).backward()
            for name, parameter in decoder.named_parameters():
                assert parameter.grad is not None, f"{name} has no gradient"
                if parameter.grad.abs().max() > 1e-9:
                    silent.pop(name, None)
        assert not silent, f"no gradient reaches {list(silent)}"

    def test_trains_with_drop_path_and_dropout(self, genotype: Genotype) -> None:
        torch.manual_seed(0)
        decoder = tiny_decoder(genotype, drop_path=0.2, dropout=0.2).train()
        weighted(decoder(features(4, (32, 64)))).backward()
        gradients = [p.grad for p in decoder.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)

    def test_bfloat16_autocast_stays_near_single_precision(self, genotype: Genotype) -> None:
        decoder = tiny_decoder(genotype)
        maps = features(1)
        with torch.no_grad():
            exact = decoder(maps)
            with torch.autocast("cpu", torch.bfloat16):
                rough = decoder(maps)
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()

    def test_eval_is_deterministic(self, genotype: Genotype) -> None:
        decoder = tiny_decoder(genotype, drop_path=0.5, dropout=0.5)
        maps = features()
        with torch.no_grad():
            assert torch.equal(decoder(maps), decoder(maps))

    def test_images_of_a_batch_do_not_meet(self, genotype: Genotype) -> None:
        decoder = tiny_decoder(genotype)
        maps = features(3)
        with torch.no_grad():
            together = decoder(maps)
            alone = torch.cat([decoder([m[b : b + 1] for m in maps]) for b in range(3)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together[0], together[1])

    def test_weights_go_through_a_state_dict(self, genotype: Genotype) -> None:
        decoder, other = tiny_decoder(genotype), Decoder(genotype, CHANNELS, 3).eval()
        maps = features(1)
        with torch.no_grad():
            assert not torch.equal(decoder(maps), other(maps))
            other.load_state_dict(decoder.state_dict(), strict=True)
            assert torch.equal(decoder(maps), other(maps))

    def test_parts_carry_the_names_the_cost_counts_by(self, genotype: Genotype) -> None:
        decoder = Decoder(genotype, CHANNELS, 3)
        assert {name for name, _ in decoder.named_children()} == {*(f"stage{i}" for i in genotype.kept), "fusion"}
        for i in genotype.kept:
            genes = genotype.stage(i)
            assert genes is not None
            empty = genes.attention == "none" and genes.lpm == "none" and genes.ffn == 0
            assert (sum(p.numel() for p in decoder.get_submodule(f"stage{i}").parameters()) == 0) == empty


def weighted(logits: Tensor) -> Tensor:
    """A scalar in which every logit has a weight of its own."""
    return (logits * _wave(logits.shape, "loss")).sum()
