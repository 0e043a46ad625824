"""Stand-ins that the tests of export, predict and overlays share."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from nasseg.export.preprocessing import Preprocessing

CLASSES = ("red", "green", "blue")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def preprocessing(size: tuple[int, int] = (32, 48), image_size: tuple[int, int] | None = (32, 48), stride: int = 4) -> Preprocessing:
    """Three classes, normalisation that leaves pixel / 255 as it is."""
    return Preprocessing(classes=CLASSES, palette=PALETTE, size=size, mean=(0.0,) * 3, std=(1.0,) * 3, stride=stride, image_size=image_size)


def strongest_colour(x_BCHW: Tensor) -> Tensor:
    """A network whose logits are the mean colour of each 4×4 cell: its class is the strongest channel. It sees nothing beyond a cell."""
    return F.avg_pool2d(x_BCHW, 4, ceil_mode=True)


def blocks(height: int, width: int, block: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of square blocks in pure class colours, and its true mask."""
    labels = np.random.default_rng(seed).integers(0, 3, (-(-height // block), -(-width // block)))
    mask = labels.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.uint8)
    return np.eye(3, dtype=np.uint8)[mask] * 255, mask
