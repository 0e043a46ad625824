"""Hamburger: global context from a low-rank factorisation of the map ("Is Attention Better Than Matrix Decomposition?", arXiv 2109.04553).

SegNeXt's decoder (arXiv 2209.08575, section 3.2, figure 3c) uses it in the form of its configs: one non-negative factorisation of the map
as a matrix of channels by positions. Letters in names: B batch, D channels, N positions, R the rank.

Where we differ from the authors' code: the factorisation starts from random bases. There they are drawn at every forward pass, so the same
image has other logits in each call; here that holds in training alone. In eval mode every image starts from the same bases, drawn once from
a fixed seed, so a network is a function and can be exported. They are no part of the weights: published ones have no bases either.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.cost.macs import HAM_STEPS
from nasseg.genes.gene import HAM_GROUPS
from nasseg.models.form import TwoForms
from nasseg.models.ops import to_map, to_tokens

TRAINING_STEPS = 6
"""Updates in training (SegNeXt's ``TRAIN_STEPS``)."""
EPS = 1e-6
"""Added to the denominator of an update, as in the authors' code."""
SEED = 210904553
"""Of the bases in eval mode."""


def fixed_bases(channels: int, rank: int) -> Tensor:
    """Bases (D, R) for eval mode: uniform in 0…1, then columns of length 1, as the authors draw them; always the same ones.

    NumPy keeps the stream of ``RandomState`` the same in every version and on every machine (NEP 19); PyTorch promises no such thing.
    """
    drawn_DR = np.random.RandomState(SEED).random_sample((channels, rank))
    return torch.tensor(drawn_DR / np.linalg.norm(drawn_DR, axis=0), dtype=torch.float32)


class Factorisation(TwoForms):
    """Non-negative X (D×N) ≈ D Cᵀ with bases D (D×R) and coefficients C (N×R), by multiplicative updates (2109.04553; Lee and Seung)::

        C₀ = softmax_R(Xᵀ D₀)
        C ← C ⊙ (Xᵀ D) / (C Dᵀ D + ε),   then   D ← D ⊙ (X C) / (D Cᵀ C + ε)      7 times, 6 in training
        C ← C ⊙ (Xᵀ D) / (C Dᵀ D + ε)

    The gradient passes through all of it, as in SegNeXt's code (the Hamburger paper stops it before the last update). ε = 1e-6 is far below
    what half precision resolves beside these sums, so everything is computed in float32 or more, under autocast too.
    """

    bases: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.register_buffer("bases", fixed_bases(channels, rank), persistent=False)

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Non-negative tokens (B, N, D) → bases (B, D, R) and coefficients (B, N, R), both float32 (float64 where the tokens are)."""
        with without_autocast(x_BND):
            return self._factors(x_BND.to(torch.promote_types(x_BND.dtype, torch.float32)))

    def _factors(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, channels = x_BND.shape
        if self.training:
            bases_BDR = F.normalize(torch.rand(batch, channels, self.rank, dtype=x_BND.dtype, device=x_BND.device), dim=1)
        else:
            bases_BDR = self.bases.to(x_BND.dtype).expand(batch, -1, -1)
        product_BNR = x_BND @ bases_BDR
        coefficients_BNR = product_BNR.softmax(dim=2)
        if self.as_written:
            # The numerator of the first update is that same product.
            product_BNR = x_BND @ bases_BDR
        for _ in range(TRAINING_STEPS if self.training else HAM_STEPS):
            coefficients_BNR = updated(coefficients_BNR, product_BNR, bases_BDR)
            bases_BDR = updated(bases_BDR, x_BND.transpose(1, 2) @ coefficients_BNR, coefficients_BNR)
            product_BNR = x_BND @ bases_BDR
        return bases_BDR, updated(coefficients_BNR, product_BNR, bases_BDR)


def updated(factor_BMR: Tensor, numerator_BMR: Tensor, other_BLR: Tensor) -> Tensor:
    """One multiplicative update of a factor F against the other one G: ``F ⊙ numerator / (F Gᵀ G + ε)``."""
    return factor_BMR * numerator_BMR / (factor_BMR @ (other_BLR.transpose(1, 2) @ other_BLR) + EPS)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off where it is on; nothing else, so that an exported program has no trace of it."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


class Hamburger(TwoForms):
    """``ReLU(x + GN(W₂ NMF(ReLU(W₁ x + b))))``: a 1×1 convolution with bias, the factorisation's product D Cᵀ, one without, GroupNorm.

    What is executed: W₂ (D Cᵀ) = (W₂ D) Cᵀ, a product of E×E with R columns in place of one with N; and the product Xᵀ D₀, which the
    formula has twice, is computed once.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.factorise = Factorisation(channels, rank)
        self.leave = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(HAM_GROUPS, channels)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """(B, D, H, W) → the same shape."""
        grid = (x_BDHW.shape[2], x_BDHW.shape[3])
        tokens_BND = to_tokens(F.relu(self.enter(x_BDHW)))
        bases_BDR, coefficients_BNR = self.factorise(tokens_BND)
        with without_autocast(x_BDHW):
            if self.as_written:
                context_BDHW = to_map(coefficients_BNR @ bases_BDR.transpose(1, 2), grid)
            else:
                mixed_BDR = self.leave.weight.flatten(1).to(bases_BDR.dtype) @ bases_BDR
                context_BDHW = to_map(coefficients_BNR @ mixed_BDR.transpose(1, 2), grid)
        if self.as_written:
            context_BDHW = self.leave(context_BDHW.to(tokens_BND.dtype))
        return F.relu(x_BDHW + self.norm(context_BDHW.to(tokens_BND.dtype)))
