"""Two forms of one function: as written, operation by operation, and as executed, in fewer operations.

The papers' costs are counted on the form as written: a strip map of N×M entries, maps upsampled before the fusion's 1×1 convolution. What
runs is an equal form of less work. A block that has both carries the attribute ``as_written`` (False: the fast form), and the tests hold
the two together. Counting (:func:`nasseg.models.costing.cost`'s tests, the budget's convention) uses the form as written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class TwoForms(nn.Module):
    """A block whose formula is executed in another, equal form unless ``as_written`` is set."""

    as_written: bool = False


@contextmanager
def written_out(module: nn.Module) -> Iterator[None]:
    """Within, every block below ``module`` computes the formula of its docstring operation by operation, as the papers count it."""
    before = [(block, block.as_written) for block in module.modules() if isinstance(block, TwoForms)]
    for block, _ in before:
        block.as_written = True
    try:
        yield
    finally:
        for block, was in before:
            block.as_written = was
