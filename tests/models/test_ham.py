"""Hamburger: SegNeXt's decoder against an independent one, its bases, its factorisation, and what AMP and batches do to it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from kits_model import features, fill, tiny_decoder
from references.light_ham import LightHam, factorised
from torch import Tensor

from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models.decoder import Decoder
from nasseg.models.form import written_out
from nasseg.models.ham import Factorisation, Hamburger, fixed_bases

MSCAN_T = (32, 64, 160, 256)
NAMES = {
    "squeeze.conv": "mix.conv",
    "squeeze.gn": "mix.norm",
    "hamburger.ham_in.conv": "mix.hamburger.enter",
    "hamburger.ham_out.conv": "mix.hamburger.leave",
    "hamburger.ham_out.gn": "mix.hamburger.norm",
    "align.conv": "mix.align",
    "align.gn": "mix.align_norm",
    "conv_seg": "classifier",
}
"""Layers of SegNeXt's weights files (below ``decode_head.``), and ours (below ``decoder.fusion.``)."""


def pair(rank: int, width: int, channels: tuple[int, ...] = MSCAN_T) -> tuple[Decoder, LightHam]:
    """Our decoder and the reference with its weights, both in eval mode."""
    genotype = preset("segnext").override({"ham_rank": rank, "fusion_width": width})
    decoder, reference = tiny_decoder(genotype, classes=7, channels=channels), LightHam(channels[1:], width, 7)
    ours = decoder.fusion.state_dict()
    reference.load_state_dict({key: ours[f"{NAMES[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"] for key in reference.state_dict()})
    assert len(ours) == len(reference.state_dict())
    return decoder, reference.eval()


def tokens(batch: int = 2, n: int = 24, d: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(batch, n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("as_written", [False, True], ids=["executed", "written"])
@pytest.mark.parametrize(("rank", "width"), [(16, 256), (64, 512), (5, 64)])
def test_logits_are_those_of_the_reference(rank: int, width: int, as_written: bool) -> None:
    decoder, reference = pair(rank, width)
    maps = features(2, (96, 160), MSCAN_T)
    with torch.no_grad():
        expected = reference(maps[1:], fixed_bases(width, rank))
        if as_written:
            with written_out(decoder):
                logits = decoder(maps)
        else:
            logits = decoder(maps)
    assert expected.std() > 0.05
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def test_training_draws_bases_for_every_image_and_takes_six_steps() -> None:
    decoder, reference = pair(16, 256)
    maps = [x.requires_grad_() for x in features(2, (64, 64), MSCAN_T)]
    torch.manual_seed(3)
    logits = decoder.train()(maps)
    torch.manual_seed(3)
    bases = F.normalize(torch.rand(2, 256, 16), dim=1)
    expected = reference(maps[1:], bases, steps=6)
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6 * largest)
    assert not torch.allclose(decoder(maps), expected, rtol=0, atol=1e-3 * largest)
    # The gradient goes through every update.
    weight = torch.linspace(-1, 1, logits.numel()).sin().reshape(logits.shape)
    ours = torch.autograd.grad((logits * weight).sum(), [*maps[1:], decoder.fusion.get_parameter("mix.hamburger.enter.weight")])
    theirs = torch.autograd.grad((expected * weight).sum(), [*maps[1:], reference.hamburger.ham_in.conv.weight])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))


def test_bases_are_the_same_for_ever() -> None:
    bases = fixed_bases(256, 16)
    torch.testing.assert_close(bases.square().sum(0), torch.ones(16))
    assert bases.min() >= 0
    torch.testing.assert_close(bases[[0, 0, 255], [0, 15, 15]], torch.tensor([0.102736443, 0.006970821, 0.014682266]), rtol=1e-6, atol=0)
    # Neither torch's generator nor NumPy's is touched or read.
    before = torch.get_rng_state()
    assert torch.equal(fixed_bases(256, 16), bases)
    assert torch.equal(torch.get_rng_state(), before)


def test_bases_are_no_weights() -> None:
    block = Factorisation(32, 4)
    assert not block.state_dict()
    assert not list(block.parameters())
    assert torch.equal(block.bases, fixed_bases(32, 4))
    with torch.device("meta"):
        assert Factorisation(32, 4).bases.device.type == "meta"


@pytest.mark.parametrize(("rank", "steps"), [(1, 6), (4, 6), (8, 6)])
def test_the_factorisation_follows_the_updates_and_draws_nearer(rank: int, steps: int) -> None:
    block, x_BND = Factorisation(32, rank).eval(), tokens()
    bases_BDR, coefficients_BNR = block(x_BND)
    assert bases_BDR.shape == (2, 32, rank)
    assert coefficients_BNR.shape == (2, 24, rank)
    found = coefficients_BNR @ bases_BDR.transpose(1, 2)
    assert found.min() >= 0
    matrix, start = x_BND.transpose(1, 2), fixed_bases(32, rank).expand(2, -1, -1)
    torch.testing.assert_close(found.transpose(1, 2), factorised(matrix, start, 7), rtol=1e-5, atol=1e-6)
    # Multiplicative updates never move away (Lee and Seung).
    distances = [float((factorised(matrix, start, n) - matrix).square().sum()) for n in range(steps)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(distances))
    assert distances[-1] < 0.6 * float(matrix.square().sum())


def test_a_map_of_low_rank_is_found() -> None:
    # Rank 1 is exact after one update of either factor.
    column, row = tokens(1, 32, 1, seed=1), tokens(1, 1, 24, seed=2)
    block = Factorisation(32, 1).eval()
    bases_BDR, coefficients_BNR = block((column @ row).transpose(1, 2))
    torch.testing.assert_close(bases_BDR @ coefficients_BNR.transpose(1, 2), column @ row, rtol=1e-4, atol=1e-6)


def test_dead_maps_stay_finite() -> None:
    block = Factorisation(32, 4).eval()
    x_BND = tokens().requires_grad_()
    dead = x_BND * torch.tensor([0.0, 1.0])[:, None, None]
    bases_BDR, coefficients_BNR = block(dead)
    assert not coefficients_BNR[0].any()
    (gradient,) = torch.autograd.grad((bases_BDR.sum() + coefficients_BNR.sum()), x_BND)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_updates_stay_in_single_precision(dtype: torch.dtype) -> None:
    block, x_BND = Factorisation(32, 4).eval(), tokens().to(dtype)
    expected = block(x_BND.float())
    with torch.autocast("cpu", dtype):
        found = block(x_BND)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_network_in_half_precision_runs() -> None:
    burger = fill(Hamburger(32, 4)).eval()
    x_BDHW = features(1, (64, 64), (32, 32, 32, 32))[1]
    with torch.no_grad():
        expected = burger(x_BDHW)
        found = burger.to(torch.bfloat16)(x_BDHW.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_wide_maps_are_not_taken_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two megabytes of an intermediate map and more are made by rows, where rows can be had one by one.
    decoder = tiny_decoder(Genotype.from_dict({"attention": "none", "ffn": 0, "fusion": "ham", "fusion_width": 64, "fusion_stride": 4}))
    maps = features(1, (512, 512))
    with torch.no_grad():
        expected = decoder(maps)
        monkeypatch.setattr("nasseg.models.ops.BAND", 2**40)
        assert torch.equal(decoder(maps), expected)
        with written_out(decoder):
            torch.testing.assert_close(decoder(maps), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
