"""How many Chebyshev nodes a rank-1 attention needs: the error bound behind :mod:`nasseg.models.strip`, and its inverse.

A head of rank 1 is a function of one number, the query value q. With scale s, keys k_j and values v_j (j = 1…M)::

    f(q) = Σ_j e^{s q k_j} v_j / D(q),      D(q) = Σ_j e^{s q k_j}

Let q range over [c - R, c + R] and put t = (q - c)/R in [-1, 1]. With Δ = max_j k_j - min_j k_j the one number that matters is the *range
product* ``T = |s| R Δ``. The derivation:

1. For complex t = x + iy the terms of D are positive numbers times e^{i s R y k_j}, whose angles lie within an arc of |y| T. If |y| T < π
   they all lie within ±|y|T/2 of the arc's middle, so ``|D(t)| ≥ cos(|y|T/2) Σ_j |e^{s q k_j}|``. So f is analytic in |Im t| < π/T, its
   complex weights p_j satisfy ``Σ|p_j| ≤ κ = 1/cos(|y|T/2)``, and ``|f| ≤ κ max|v|``. The poles nearest to the real axis do lie at
   |Im t| = π/T when two clusters of keys share the weight equally, so no larger strip holds for all inputs.
2. f' = s Σ_j p_j (k_j - m)(v_j - f) for any m; with m in the middle of the keys ``|f'| ≤ |s| (Δ/2) κ (1 + κ) max|v|`` there. Measured in
   its own unit |s| Δ max|v| that is κ(1 + κ)/2, which is at least κ: one factor serves values and derivative.
3. The Bernstein ellipse E_ρ (foci ±1, semi-axes summing to ρ) reaches up to y = (ρ - 1/ρ)/2. A function bounded by B in E_ρ has Chebyshev
   coefficients |a_k| ≤ 2Bρ^{-k} and its interpolant of degree n at Chebyshev nodes errs by at most ``4 B ρ^{-n}/(ρ - 1)``
   (Trefethen, Approximation Theory and Approximation Practice, Theorems 8.1 and 8.2). The theorem is stated for nodes of the second kind;
   at the first kind, used here, T_k with k > n aliases to ± a polynomial of degree at most n or to 0, so the same sum bounds the error.

Together, for G nodes (n = G - 1)::

    error / max|v|  ≤  min over ρ with (ρ - 1/ρ)/2 < π/T  of   4 · κ(1 + κ)/2 · ρ^{1-G} / (ρ - 1)

which falls geometrically in G, at the rate ρ ≈ 1 + π/T for wide ranges. The same bound holds for the error of dL/dv (relative to the summed
magnitude of the incoming gradient) since p_j itself is such a function with |p_j| ≤ κ. Nothing here imports torch.
"""

from __future__ import annotations

import math
from functools import lru_cache

TIERS = (2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Numbers of nodes in use. Few of them, so that compiled code and cached tables meet few shapes."""


def interpolation_bound(nodes: int, range_product: float) -> float:
    """The bound above, relative to max|v|, for G = ``nodes`` and T = ``range_product`` ≥ 0; minimised over ρ."""
    if range_product <= 0.0:
        return 0.0  # a constant, met by any number of nodes

    def at(share: float) -> float:
        # share of the strip that is used: y·T = share·π; ρ from y = (ρ - 1/ρ)/2.
        y = share * math.pi / range_product
        kappa = 1.0 / math.cos(share * math.pi / 2)
        log_rho = math.asinh(y)
        exponent = math.log(2.0 * kappa * (1.0 + kappa)) - (nodes - 1) * log_rho - math.log(math.expm1(log_rho))
        return exponent

    # One minimum inside (0, 1): the exponent falls with the rate and rises again towards the pole.
    low, high = 0.0, 1.0
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return math.exp(min(at((low + high) / 2), 700.0))


@lru_cache(maxsize=1024)
def reach(nodes: int, tolerance: float) -> float:
    """The largest range product that ``nodes`` nodes cover within ``tolerance``: the bound's inverse, by bisection (rounded down)."""
    low, high = 0.0, 1.0
    while interpolation_bound(nodes, high) <= tolerance:
        low, high = high, high * 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if interpolation_bound(nodes, middle) <= tolerance else (low, middle)
    return low


def nodes_for(range_product: float, tolerance: float) -> int | None:
    """The smallest of :data:`TIERS` that keeps the error within ``tolerance``; None where the range is too wide for all (or is NaN)."""
    for nodes in TIERS:
        if range_product <= reach(nodes, tolerance):
            return nodes
    return None
