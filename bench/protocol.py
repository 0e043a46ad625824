"""What a protocol decides: one network's mIoU with its images padded, as they are, and resized up, and as mmsegmentation resizes them.

    python bench/protocol.py RUN [--data D] [--split val]

RUN is a run's folder whose validation meets sides that are no multiples of 32. Every row is its own protocol but for what is named:

* *padded*, *as they are*, *resized up*: ``pad_multiple`` 32 and 1, ``size_divisor`` 32;
* *logits resized twice*: to the network's input first, then to the mask, as ``EncoderDecoder.predict`` does;
* *images not antialiased*: bilinear as OpenCV's ``INTER_LINEAR``, which reads the four nearest pixels however much an image is reduced.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nasseg.data.dataset import Sample, Split
from nasseg.data.layouts import open_data
from nasseg.training.evaluate import evaluate
from nasseg.training.job import forward
from nasseg.training.protocol import Protocol
from nasseg.training.rundir import RunDir


class Plainly(Split):
    """A split whose images come resized already, without an antialiasing filter."""

    def __init__(self, split: Split, protocol: Protocol) -> None:
        self.split, self.protocol = split, protocol
        self.name, self.ids = split.name, split.ids

    @property
    def key(self) -> str:
        return f"{self.split.key} plainly"

    def read(self, index: int) -> Sample:
        image, mask = self.split[index]
        x_1CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        small = F.interpolate(x_1CHW, size=self.protocol.fitted(mask.shape), mode="bilinear", align_corners=False, antialias=False)
        return Sample(small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy(), mask)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return Plainly(self.split.subset(indices, name), self.protocol)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    run = RunDir.open(arguments.run)
    split = open_data(arguments.data or str(run.facts["data"])).split(arguments.split)
    model, own = run.load_model(), run.protocol

    def measure(protocol: Protocol, images: Split, *, twice: bool = False) -> float:
        model.pad_multiple = protocol.pad_multiple
        predict = functools.partial(forward, model)

        def enlarged(x_BCHW: Tensor) -> Tensor:
            return F.interpolate(predict(x_BCHW), size=x_BCHW.shape[-2:], mode="bilinear", align_corners=False)

        return evaluate(
            enlarged if twice else predict,
            images,
            num_classes=len(run.classes),
            classes=run.classes,
            mean=tuple(run.facts["mean"]),
            std=tuple(run.facts["std"]),
            **protocol.options(),
        ).miou

    padded, bare = replace(own, pad_multiple=32, size_divisor=1), replace(own, pad_multiple=1, size_divisor=1)
    rounded = replace(own, size_divisor=32)
    print(f"{run.path}: {run.genotype.backbone}, {split.name}, {len(split)} images at {own.size[0]}x{own.size[1]}")
    for name, protocol in (("padded", padded), ("as they are", bare), ("resized up", rounded)):
        print(f"{name:36} {measure(protocol, split):6.2f}", flush=True)
    print(f"{'own, logits resized twice':36} {measure(own, split, twice=True):6.2f}")
    print(f"{'own, images not antialiased':36} {measure(own, Plainly(split, own)):6.2f}")
    print(f"{'own':36} {measure(own, split):6.2f}")


if __name__ == "__main__":
    main()
