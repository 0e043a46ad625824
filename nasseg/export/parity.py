"""Do the exported files compute what the module computes? Measured on logits and on mIoU before a bundle is moved into place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasseg.data.dataset import Split
from nasseg.errors import ExportFailed
from nasseg.export.predict import fit
from nasseg.export.preprocessing import Preprocessing
from nasseg.export.program import first_line
from nasseg.training.evaluate import covering, evaluate
from nasseg.training.windows import Forward

LOGIT_TOLERANCE = 1e-3
"""Largest |Δlogit| allowed, as a share of the largest |logit| of the module. Float32 in another order of summation gives about 1e-6."""
MIOU_TOLERANCE = 0.05
"""Largest |ΔmIoU| allowed, in percentage points."""
BATCHES = (1, 3)
"""Batch sizes that are tried, so that a batch frozen into a file shows."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One file against the module: largest |Δlogit|, the largest |logit| to judge it by, cells of equal class in percent, mIoU or None."""

    name: str
    delta: float
    scale: float
    same: float
    miou: float | None

    @property
    def relative(self) -> float:
        """|Δlogit| as a share of the largest logit."""
        return self.delta / self.scale


@dataclass(frozen=True, slots=True)
class Parity:
    """All files against the module. ``pictures`` says what the logits were compared on; ``miou`` is the module's over ``images`` images."""

    pictures: str
    agreements: tuple[Agreement, ...]
    miou: float | None = None
    images: int = 0

    def check(self) -> None:
        """Raise :class:`ExportFailed` with the figures where a file parts from the module by more than the tolerances."""
        wrong = []
        for one in self.agreements:
            if not one.relative <= LOGIT_TOLERANCE:
                wrong.append(
                    f"{one.name}: logits differ by {one.delta:.3g}, {one.relative:.2g} of the largest ({one.scale:.3g}); "
                    f"allowed {LOGIT_TOLERANCE:g}; {one.same:.2f} % of cells get the same class"
                )
            if one.miou is not None and self.miou is not None and not abs(one.miou - self.miou) <= MIOU_TOLERANCE:
                wrong.append(
                    f"{one.name}: mIoU {one.miou:.3f} instead of {self.miou:.3f} over {self.images} images; allowed ±{MIOU_TOLERANCE:g}"
                )
        if wrong:
            raise ExportFailed("the exported files do not compute what the module computes, nothing was written:\n" + "\n".join(wrong))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "pictures": self.pictures,
            "miou": self.miou,
            "images": self.images,
            "files": {
                a.name: {"max_delta": a.delta, "relative": a.relative, "same_class": a.same, "miou": a.miou} for a in self.agreements
            },
        }


def compare(module: Forward, files: Mapping[str, Forward], facts: Preprocessing, split: Split | None, images: int) -> Parity:
    """Run everything on the same pictures.

    Logits are compared on ``max(BATCHES)`` images of ``split``, or on random pictures without one, at every batch size of :data:`BATCHES`;
    mIoU on ``images`` images spread evenly over the split (all, if it has fewer). Raises :class:`ExportFailed` where the module's own
    logits are not finite or a file does not run.
    """
    count = max(BATCHES)
    # A data set has RGB images; a network of other channels is compared on random ones.
    measured = split if split is not None and len(split) and facts.in_chans == 3 and images > 0 else None
    if measured is not None:
        chosen = spread(len(measured), count)
        x_BCHW = torch.stack([facts.normalise(fit(measured[i].image, facts.size)) for i in chosen])
        pictures = f"{len(chosen)} images of {measured.name}"
    else:
        x_BCHW = random_pictures(facts, count)
        pictures = f"{count} random pictures"
    batches = [x_BCHW[:size] for size in BATCHES if size <= len(x_BCHW)]
    expected = [module(batch) for batch in batches]
    scale = max(float(logits.abs().max()) for logits in expected)
    if not np.isfinite(scale):
        raise ExportFailed("the network's own logits are not finite numbers: train it again")
    part = None if measured is None else measured.subset(spread(len(measured), images), measured.name)
    agreements = [_agreement(name, forward, batches, expected, scale or 1.0, part, facts) for name, forward in files.items()]
    return Parity(pictures, tuple(agreements), None if part is None else _miou(module, part, facts), 0 if part is None else len(part))


def spread(length: int, count: int) -> list[int]:
    """``count`` indices spread evenly over ``length``, or all of them."""
    return list(range(length)) if count >= length else [round(v) for v in np.linspace(0, length - 1, count)]


def random_pictures(facts: Preprocessing, count: int) -> Tensor:
    """Coarse coloured noise with fine noise on it, normalised: logits of many classes instead of one."""
    random = np.random.default_rng(0)
    height, width = facts.size
    pictures = []
    for _ in range(count):
        coarse = random.integers(0, 256, (max(1, height // 16), max(1, width // 16), facts.in_chans), dtype=np.uint8)
        fine = random.normal(0, 12, (height, width, facts.in_chans))
        pictures.append(facts.normalise(np.clip(fit(coarse, facts.size) + fine, 0, 255).astype(np.uint8)))
    return torch.stack(pictures)


def _agreement(
    name: str, forward: Forward, batches: list[Tensor], expected: list[Tensor], scale: float, part: Split | None, facts: Preprocessing
) -> Agreement:
    try:
        answers = [forward(batch) for batch in batches]
    except Exception as error:  # runtimes raise anything; all of it means that the file is no good
        sizes = " and ".join(str(len(batch)) for batch in batches)
        raise ExportFailed(f"{name} does not run on batches of {sizes}: {first_line(error)}") from error
    for answer, logits in zip(answers, expected, strict=True):
        if answer.shape != logits.shape:
            raise ExportFailed(f"{name} gives logits of {tuple(answer.shape)}, the module of {tuple(logits.shape)}")
    delta = max(float((a - e).abs().max()) for a, e in zip(answers, expected, strict=True))
    equal = torch.cat([(a.argmax(1) == e.argmax(1)).flatten() for a, e in zip(answers, expected, strict=True)])
    return Agreement(name, delta, scale, 100 * float(equal.float().mean()), None if part is None else _miou(forward, part, facts))


def _miou(forward: Forward, part: Split, facts: Preprocessing) -> float:
    """mIoU in percent by the protocol closest to the network's that a file of one size can be measured by."""
    return evaluate(
        covering(forward, facts.stride, facts.pad_multiple, only=facts.size),
        part,
        num_classes=facts.num_classes,
        classes=facts.classes,
        mean=facts.mean,
        std=facts.std,
        batch_size=4,
        **facts.protocol.at(facts.size).options(),
    ).miou
