"""How many panels the interpolation of :mod:`nasseg.models.strip` needs: its error bound, derived, and the bound's inverse.

A head of rank 1 is a function of one number, the query value q. With scale s, keys k_j and values v_j (j = 1…M)::

    f(q) = Σ_j p_j v_j,      p_j = e^{s q k_j} / Σ_i e^{s q k_i}

Let q range over [c - R, c + R] and put t = (q - c)/R in [-1, 1]. With Δ = max_j k_j - min_j k_j the one number that matters is the *range
product* ``T = |s| R Δ``. The range is cut into P panels of equal width, in t each of h = 2/P, and f is replaced by the cubic that has f and
f' at both ends of its panel (Hermite).

1. *Strip.* For complex t = x + iy the terms e^{s q k_i} are positive numbers times e^{i s R y k_i}, whose angles lie in an arc of |y|·T. If
   |y|·T < π they lie within |y|T/2 of its middle, so ``|Σ e^{…}| ≥ cos(|y|T/2) Σ |e^{…}|``. Hence p_j and f are analytic in |Im t| < π/T,
   ``Σ|p_j| ≤ κ = 1/cos(|y|T/2)`` and ``|f| ≤ κ max|v|``. Two clusters of keys of equal weight do have poles at |Im t| = π/T (f is a
   tanh), so no wider strip holds for all inputs.
2. *Derivative.* df/dt = s R Σ_j p_j (k_j - m)(v_j - f) for any m. With m in the middle of the keys ``|df/dt| ≤ T κ(1 + κ)/2 · max|v|``.
   In its own unit T·max|v| the factor is κ(1 + κ)/2, which is at least κ: one factor serves f, p_j and f'.
3. *Cauchy.* A function bounded by B(y) in the strip of half-width y has ``|g⁗| ≤ 4! B(y)/y⁴`` on the real axis. With y = aπ/T, 0 < a < 1::

       |g⁗| ≤ 24 (T/π)⁴ min_a  κ(1 + κ)/2 / a⁴,      κ = 1/cos(aπ/2)

4. *Hermite.* On a panel [a, b] the remainder of the cubic is ``g⁗(ξ)/4! · (t - a)²(t - b)²`` (Stoer and Bulirsch, Introduction to
   Numerical Analysis, section 2.1.5), at most ``h⁴/384 · max|g⁗|``.

Together, with C = 24/(384 π⁴) · min_a κ(1 + κ)/2/a⁴ = 0.0094::

    error / max|v|  ≤  C (T h)⁴  =  C (2T/P)⁴          so          P = 2T (C/tolerance)^(1/4)

The same bound holds for the derivative that the backward pass interpolates, from f' and f'', in its unit |s|·Δ·max|v|; and for dL/dv, which
is a sum of interpolated p_j, relative to the summed magnitude of the incoming gradient. Nothing here imports torch.
"""

from __future__ import annotations

import math

MOST_PANELS = 2048
"""Beyond this the nodes' own M·P work and rounding are no longer small; the range is called too wide."""


def _least() -> float:
    """``min_a κ(1 + κ)/2 / a⁴`` over 0 < a < 1 by golden-section search; the function has one minimum there."""
    low, high, ratio = 0.0, 1.0, (math.sqrt(5) - 1) / 2

    def at(a: float) -> float:
        kappa = 1 / math.cos(a * math.pi / 2)
        return kappa * (1 + kappa) / 2 / a**4

    for _ in range(80):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return at((low + high) / 2)


HERMITE: float = 24 / (384 * math.pi**4) * _least()
"""C above."""


def interpolation_bound(panels: int, range_product: float) -> float:
    """The bound above, relative to max|v|, for P = ``panels`` and T = ``range_product`` ≥ 0."""
    return HERMITE * (2 * range_product / panels) ** 4


def panels_for(range_product: float, tolerance: float) -> int | None:
    """The fewest panels that keep the error within ``tolerance``; None where the range is too wide for :data:`MOST_PANELS`, or is NaN."""
    wanted = 2 * range_product * math.sqrt(math.sqrt(HERMITE / tolerance))
    if not wanted <= MOST_PANELS:
        return None
    # Rounded up past the rounding of the formula itself, so that the bound as computed holds.
    return max(1, math.ceil(wanted * (1 + 1e-12)))
