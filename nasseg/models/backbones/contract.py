"""What every backbone is: four maps at strides 4, 8, 16 and 32, and the numbers that say how to feed it.

Shapes: B images, C channels, H × W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from nasseg.errors import BackboneError

STRIDES = (4, 8, 16, 32)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The contract as data, checked when it is made.

    ``channels`` are the widths of the four maps. ``mean`` and ``std`` hold one number per input channel, for images scaled to 0…1.
    ``supports_drop_path`` says whether the network has stochastic depth. ``multiple`` is what the input is padded to inside a network for
    which multiples of 32 are not enough. ``size`` is (height, width) where the network takes images of one size only (its position tables
    have that size), else None: then any multiple of 32 will do.
    Raises :class:`BackboneError` for anything but four stages at strides 4, 8, 16, 32.
    """

    name: str
    channels: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    strides: tuple[int, ...] = STRIDES
    in_chans: int = 3
    supports_drop_path: bool = True
    multiple: int = 32
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if tuple(self.strides) != STRIDES:
            raise BackboneError(
                f"{self.name} yields maps at strides {_list(self.strides)}; a backbone here has one map at each of {_list(STRIDES)}"
            )
        if len(self.channels) != 4 or any(c < 1 for c in self.channels):
            raise BackboneError(
                f"{self.name} has channels {_list(self.channels)}; a backbone here has four stages of at least one channel each"
            )
        if not len(self.mean) == len(self.std) == self.in_chans:
            raise BackboneError(
                f"{self.name} has {len(self.mean)} means and {len(self.std)} deviations for {self.in_chans} input channels; "
                "each channel needs one of both"
            )
        if self.size is not None and any(edge < 32 or edge % 32 for edge in self.size):
            raise BackboneError(f"{self.name} takes images of {self.size[0]}x{self.size[1]} only; both edges must be multiples of 32")


class Backbone(nn.Module, ABC):
    """Image → four maps. A subclass builds its layers and gives :meth:`maps`; its state-dict names are its own affair.

    Drop path and the statistics of batch norms follow ``train()``/``eval()``, except in a frozen backbone, which always runs as in eval.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        self.frozen = False
        # Of published weights it was built with, where nasseg fetched them.
        self.weights_digest: str | None = None

    @property
    def name(self) -> str:
        """The canonical name: :func:`nasseg.models.backbones.registry.create_backbone` builds the same network from it."""
        return self.spec.name

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Widths of the four maps, shallow to deep."""
        c1, c2, c3, c4 = self.spec.channels
        return c1, c2, c3, c4

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """4, 8, 16, 32: input pixels per pixel of each map."""
        return 4, 8, 16, 32

    @property
    def in_chans(self) -> int:
        """Channels of the input image."""
        return self.spec.in_chans

    @property
    def mean(self) -> tuple[float, ...]:
        """Per input channel, of images scaled to 0…1: the input is (image − mean) / std."""
        return self.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per input channel, of images scaled to 0…1."""
        return self.spec.std

    @abstractmethod
    def maps(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four maps, (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""

    @abstractmethod
    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        """Read another file's names: the tensors under this module's state-dict names, and the names in the file that belong to unused
        top layers (a classifier, a decoder head). A name that means nothing here stays as it is."""

    @property
    @abstractmethod
    def input_convs(self) -> tuple[str, ...]:
        """State-dict names of the weights that see the input image: those that change shape with ``in_chans``."""

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, in_chans, H, W), already normalised → four maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Every backbone takes multiples of 32; those that pass :func:`nasseg.models.backbones.registry.check_unpadded` take any size from
        32×32. Raises :class:`BackboneError` for another image.
        """
        channels, height, width = x_BCHW.shape[1:]
        if channels != self.spec.in_chans:
            raise BackboneError(f"{self.name} was built for {self.spec.in_chans} input channels, the image has {channels}")
        if min(height, width) < 32:
            raise BackboneError(f"{self.name} takes heights and widths from 32, not {height}x{width}: pad the image to multiples of 32")
        if self.spec.size is not None and (height, width) != self.spec.size:
            fixed = "x".join(map(str, self.spec.size))
            raise BackboneError(
                f"{self.name} takes images of {fixed} only, not {height}x{width}; "
                f"its name can carry another size: {self.name.partition('?')[0]}?img_size={height}x{width}"
            )
        maps = self.maps(x_BCHW)
        if height % 32 or width % 32:
            due = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
            got = [(map_BCHW.shape[2], map_BCHW.shape[3]) for map_BCHW in maps]
            if got != due:
                raise BackboneError(
                    f"{self.name} gives maps of {_sizes(got)} for an image of {height}x{width}, where rounding up gives {_sizes(due)}: "
                    "pad the image to multiples of 32"
                )
        return maps

    def freeze(self) -> Self:
        """From now on no parameter learns, and batch norms and drop path run as in eval, also after ``train()``."""
        self.frozen = True
        self.requires_grad_(False)
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Undo :meth:`freeze`."""
        self.frozen = False
        self.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As :meth:`torch.nn.Module.train`; the layers of a frozen backbone stay in eval."""
        super().train(mode)
        if self.frozen:
            for child in self.children():
                child.eval()
        return self


def channel_statistics(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """Three-channel mean or std for ``in_chans`` channels: the average for one channel, else the three again and again (r, g, b, r, …).

    timm's weights are adapted the same way: summed over the input for one channel, repeated otherwise.
    """
    if in_chans == len(values):
        return tuple(values)
    if in_chans == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(in_chans))


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) if numbers else "none"
