"""One batch computed in parts: over processes, and one after another where memory is short.

The loss of a batch is Σ_i m_i·L_i / Σ_i m_i over its parts, m_i the mass of part i: its counted pixels, weighted as the loss weighs them
(:meth:`nasseg.training.losses.SegmentationLoss.mass`). For a mean over pixels that is the loss of the whole batch. OHEM, Dice and Lovász
take the hardest pixels, or the sums of a class, of each part by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasseg.data.images import IGNORE
from nasseg.training.distributed import World

Batch = tuple[Tensor, Tensor]

FULL = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory")
"""Words of torch's errors where memory is short."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in FULL)


def mass(loss: Callable[..., Any], target_BHW: Tensor) -> Tensor:
    """How much a part counts in the mean: what the loss says, else its pixels that are not 255."""
    weigh = getattr(loss, "mass", None)
    found: Tensor = (target_BHW != IGNORE).sum() if weigh is None else weigh(target_BHW)
    return found


def split_batch(x_BCHW: Tensor, y_BHW: Tensor, parts: int) -> Sequence[Batch]:
    """At most ``parts`` pieces of nearly equal length, none empty."""
    parts = min(parts, len(x_BCHW))
    return list(zip(x_BCHW.tensor_split(parts), y_BHW.tensor_split(parts), strict=True))


def shares(loss: Callable[..., Any], targets: Sequence[Tensor], world: World) -> list[float]:
    """m_i / Σ m over all parts of the batch in all processes, for the parts of this one. A batch without a counted pixel has zeros."""
    masses = torch.stack([mass(loss, y_BHW).double() for y_BHW in targets]).cpu()
    whole = float(world.sum(masses.sum()))
    return [float(m) / whole if whole else 0.0 for m in masses]


def rehearse(forward: Callable[[Tensor], Tensor], loss: Callable[..., Tensor], trained: Sequence[nn.Parameter], batch: Batch) -> bool:
    """Whether a part fits: forward and backward in this process alone, beside room for AdamW's two moments.

    Changes no weight and no gradient.
    """
    x_BCHW, y_BHW = batch
    try:
        room = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        torch.autograd.grad(loss(forward(x_BCHW), y_BHW), trained, allow_unused=True)
        del room
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True
