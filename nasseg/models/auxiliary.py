"""A second head that is there in training only: it teaches the backbone's third map, and is then thrown away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from nasseg.models.ops import init_head

MAP = 2
"""The backbone's map it stands on: the third, of stride 16 (mmsegmentation's ``in_index=2``)."""
WIDTH = 256
DROPOUT = 0.1
PREFIX = "auxiliary."
"""What the names of its weights begin with in a network's state dict."""

Value = TypeVar("Value")


class AuxiliaryHead(nn.Sequential):
    """3×3 convolution to 256 channels, BatchNorm, ReLU, channel dropout 0.1, 1×1 convolution to the classes.

    The FCN head (Long et al., 1411.4038) with one convolution, as mmsegmentation puts it beside PSPNet (Zhao et al., 1612.01105,
    section 3.3) with weight 0.4. (B, channels, H/16, W/16) → logits (B, K, H/16, W/16).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        init_head(self.modules(), self[-1])


def without_auxiliary(weights: Mapping[str, Value]) -> dict[str, Value]:
    """A network's weights but those of its auxiliary head: what is kept of a run."""
    return {name: value for name, value in weights.items() if not name.startswith(PREFIX)}


def load_network(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill ``model`` from weights that may have an auxiliary head, whether or not ``model`` has one.

    Its own stays as it is where they have none.

    Raises RuntimeError, as :meth:`torch.nn.Module.load_state_dict`, for weights of another network.
    """
    given = without_auxiliary(weights)
    own = {name: value for name, value in model.state_dict().items() if name.startswith(PREFIX)}
    theirs = {name: weights.get(name, value) for name, value in own.items()}
    model.load_state_dict({**given, **theirs})
