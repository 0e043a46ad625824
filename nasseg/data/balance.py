"""Class-balanced sampling: images of rare classes are seen more often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nasseg.data.dataset import Order, Split

BALANCE_STREAM = 3
"""Which of a seed's streams of random numbers the draws come from; 0 to 2 are the order's, the augmentation's and the workers'."""
TEMPERATURE = 0.01
LEAST = 0.001
"""An image holds a class from this share of its counted pixels on."""


class Balanced:
    """A sampler (:class:`nasseg.data.loader.Sampler`): a pass in the split's own order, a share of it drawn by rarity.

    Each position of a pass is, with probability ``share``, given to an image that is drawn: first a class with probability
    P(c) = exp((1 − f_c) / T) / Σ exp((1 − f_c') / T), f_c its share of the split's pixels, then one of the images that hold it, each as
    likely: rare class sampling of DAFormer (Hoyer et al., 2111.14887; T = 0.01). Their code has an image hold a class from 3000 pixels
    on, which goes with Cityscapes' size; here it is a thousandth of the counted pixels or, for a class that no image has so much of, one.
    Classes that never occur are not drawn. What is drawn replaces an image that this pass then does not show. On a split that streams
    (shards), drawn images lie anywhere, so reading jumps.
    """

    def __init__(self, split: Split, counts_NK: NDArray[np.int32], share: float, temperature: float = TEMPERATURE) -> None:
        """``counts_NK``: pixels by image and class (:func:`nasseg.data.statistics.class_counts`)."""
        self.split = split
        self.share = share
        pixels = counts_NK.sum(axis=0, dtype=np.int64)
        self.probability = class_probability(pixels, temperature)
        enough = counts_NK >= np.maximum(1, LEAST * counts_NK.sum(axis=1, keepdims=True))
        self.holding = [
            np.flatnonzero(enough[:, c] if enough[:, c].any() else counts_NK[:, c] > 0).astype(np.int32) for c in range(len(pixels))
        ]

    def order(self, seed: int, number: int) -> Order:
        """Pass ``number``: as many indices as the split has samples, a function of (seed, number)."""
        found = self.split.order(seed, number).copy()
        random = np.random.default_rng([seed, BALANCE_STREAM, number])
        places = np.flatnonzero(random.random(len(found)) < self.share)
        classes = random.choice(len(self.probability), size=len(places), p=self.probability)
        picks = random.random(len(places))
        for place, label, pick in zip(places, classes, picks, strict=True):
            images = self.holding[label]
            found[place] = images[int(pick * len(images))]
        return found


def class_probability(pixels: NDArray[np.int64], temperature: float = TEMPERATURE) -> NDArray[np.float64]:
    """P(c) of :class:`Balanced`; 0 for classes without a pixel."""
    score = (1 - pixels / pixels.sum()) / temperature
    score[pixels == 0] = -np.inf
    weight = np.exp(score - score.max())
    found: NDArray[np.float64] = weight / weight.sum()
    return found
