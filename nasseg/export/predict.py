"""From pictures to masks: the whole picture at once as it was measured, or windows sliding over a large one."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from nasseg.data.dataset import DataSet
from nasseg.errors import BundleError, ConfigError, DataError, Problem
from nasseg.export.pictures import find_images, read_picture
from nasseg.export.preprocessing import Preprocessing
from nasseg.files import write_atomic
from nasseg.report.overlay import Share, class_shares, draw_overlay, palette_image
from nasseg.training.evaluate import Looker, covering
from nasseg.training.protocol import Protocol
from nasseg.training.windows import AT_ONCE, STRIP_BYTES, Forward, label_rows, slide, whole_cells

Size = tuple[int, int]
Pixels = NDArray[np.uint8]

LARGE = 2.0
"""A picture is large when both of its sides are more than so many times those of the images the network was measured on."""
OVERLAP = 1 / 3
"""Share of a window that it has in common with the next, unless a stride is given."""


WHOLE = "whole"
SLID = "windows, as measured"


@dataclass(frozen=True, slots=True)
class Prediction:
    """``mask_HW``: the class of every pixel of the picture, uint8.

    ``how``: :data:`WHOLE`; :data:`SLID`, where the network was measured through windows; or how many windows of which size.
    """

    mask_HW: Pixels
    how: str


class Predictor:
    """Pictures (uint8, (H, W, 3) RGB) to classes.

    *As measured*: the picture is treated as the network's evaluation protocol (``preprocessing.protocol``) treats an image: brought to
    the same size, whole or through the same windows; its logits are resized back to the picture and the largest wins. ``size`` has it
    stretched to that and taken whole instead.

    *Windows*: pictures that are large (more than :data:`LARGE` times ``preprocessing.image_size`` on both sides), or all when ``window`` is
    given, are cut into overlapping windows of ``window`` pixels (default: ``image_size``, so that things appear at the scale they were
    learnt at), each resized to ``size``, by default to what the protocol makes of an image that large; logits are averaged where windows
    overlap. ``stride`` is the way from one window to the next, default two thirds of the window. ``whole=True`` takes every picture in one
    piece, also where the network was measured through windows. Memory is bounded by one row of windows and some strips, not by
    the picture's area times the classes.

    ``only`` is the one size ``forward`` takes, where it is an exported file: the protocol is then the closest that has it
    (:meth:`nasseg.training.protocol.Protocol.at`).

    ``original_labels``: the number each class gets in mask files instead of its own, such as ADE20K's 1…150.

    Raises :class:`ConfigError` for a stride larger than the window, for ``window`` with ``whole`` and for another number of labels than
    of classes.
    """

    def __init__(
        self,
        forward: Forward,
        preprocessing: Preprocessing,
        *,
        size: Size | None = None,
        window: Size | None = None,
        stride: Size | None = None,
        whole: bool = False,
        only: Size | None = None,
        original_labels: Sequence[int] | None = None,
    ) -> None:
        self.forward = forward
        self.original_labels = original_labels
        if original_labels is not None and len(original_labels) != len(preprocessing.classes):
            rule = f"must be of a data set of the network's {len(preprocessing.classes)} classes"
            raise ConfigError(Problem("", "--original-labels", rule, f"{len(original_labels)} labels"))
        self.preprocessing = preprocessing
        protocol = preprocessing.protocol if only is None else preprocessing.protocol.at(only)
        if size is not None:
            protocol = Protocol(size=size, pad_multiple=protocol.pad_multiple)
        elif whole and protocol.mode == "slide":
            protocol = replace(protocol, mode="whole", crop=None, stride=None)
        self.protocol = protocol
        self.looker = Looker(
            covering(forward, preprocessing.stride, preprocessing.pad_multiple, only=only),
            protocol,
            preprocessing.num_classes,
            preprocessing.mean,
            preprocessing.std,
            torch.device("cpu"),
            channels_last=False,
            amp="none",
            batch_size=AT_ONCE,
            whole_bytes=STRIP_BYTES,
        )
        self.window = window
        self.whole = whole
        if whole and (window or stride):
            raise ConfigError(Problem("", "--whole", "takes the picture in one piece; --window and --stride cut it up"))
        self.spacing = stride
        largest = window or preprocessing.image_size
        if stride and largest and (stride[0] > largest[0] or stride[1] > largest[1]):
            raise ConfigError(
                Problem("", "--stride", "must not be larger than the window, or pixels are left out", _text(stride), _text(largest))
            )
        if preprocessing.in_chans not in (1, 3):
            raise BundleError(
                f"the network takes {preprocessing.in_chans} channels, pictures have 3 (or 1): call the module with tensors of your own"
            )

    def __call__(self, image_HW3: Pixels) -> Prediction:
        """Segment one image of any size."""
        window = self._window_for(image_HW3.shape[:2])
        image_HWC = _channels(image_HW3, self.preprocessing.in_chans)
        return self._as_measured(image_HWC) if window is None else self._in_windows(image_HWC, window)

    def _window_for(self, shape: Sequence[int]) -> Size | None:
        """Pixels of the picture in one window, or None to take it whole."""
        if self.window is not None or self.whole:
            return self.window
        usual = self.preprocessing.image_size
        if usual is not None and shape[0] > LARGE * usual[0] and shape[1] > LARGE * usual[1]:
            return usual
        return None

    def _as_measured(self, image_HWC: Pixels) -> Prediction:
        with torch.no_grad():
            mask_HW = self.looker.label_image(np.require(image_HWC, requirements=["C", "W"])).numpy().astype(np.uint8)
        return Prediction(mask_HW, WHOLE if self.protocol.mode == "whole" else SLID)

    def _in_windows(self, image_HWC: Pixels, window: Size) -> Prediction:
        height, width = image_HWC.shape[:2]
        stride, size = self.preprocessing.stride, self.protocol.fitted(window)
        # Pixels of the picture to pixels of the network, those to cells; the picture is stretched by half a cell at most.
        scale = (size[0] / window[0], size[1] / window[1])
        grid = (whole_cells(height * scale[0], stride), whole_cells(width * scale[1], stride))
        seen_HWC = fit(image_HWC, (grid[0] * stride, grid[1] * stride))
        cells = (max(1, size[0] // stride), max(1, size[1] // stride))
        spacing = self.spacing or (max(1, math.ceil(window[0] * (1 - OVERLAP))), max(1, math.ceil(window[1] * (1 - OVERLAP))))
        step = tuple(max(1, math.floor(s * f / stride)) for s, f in zip(spacing, scale, strict=True))
        count = 0

        def cut(top: int, left: int) -> Tensor:
            nonlocal count
            count += 1
            y, x = top * stride, left * stride
            part_CHW = self.preprocessing.normalise(seen_HWC[y : y + size[0], x : x + size[1]])
            # What lies beyond the picture is the mean colour, as in training.
            return F.pad(part_CHW, (0, size[1] - part_CHW.shape[2], 0, size[0] - part_CHW.shape[1]))

        rows = slide(self.forward, cut, grid, cells, (step[0], step[1]))
        mask_HW = label_rows(rows, grid, (height, width))
        return Prediction(mask_HW, f"{count} window{'s' if count != 1 else ''} of {_text(window)}")


def module_forward(model: torch.nn.Module, device: str = "cpu") -> Forward:
    """A module in eval mode as a function from CPU tensors to CPU tensors, run on ``device`` without gradients."""
    model = model.eval().to(device)

    def forward(x_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            logits_BKhw: Tensor = model(x_BCHW.to(device))
        return logits_BKhw.float().cpu()

    return forward


def fit(image_HWC: Pixels, size: Size) -> Pixels:
    """The image resized to ``size`` (antialiased bilinear, aspect not kept): what evaluation does."""
    if image_HWC.shape[:2] == size:
        return image_HWC
    x_CHW = torch.from_numpy(np.require(image_HWC, requirements=["C", "W"])).permute(2, 0, 1)
    resized: Tensor = V.resize(x_CHW, list(size), InterpolationMode.BILINEAR, antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture's outcome: the files written, how it was seen, its classes (largest first), seconds without reading and drawing."""

    image: Path
    overlay: Path
    mask: Path
    size: Size
    how: str
    shares: tuple[Share, ...]
    seconds: float


def predict_images(
    predictor: Predictor,
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    alpha: float = 0.5,
    done: Callable[[Drawn, int, int], None] = lambda drawn, number, total: None,
) -> list[Drawn]:
    """Write ``NAME_overlay.png`` (colours and legend) and ``NAME_mask.png`` (class ids, with a palette) under ``out`` for each image.

    ``images`` are files and folders. ``done(drawn, number, total)`` is called after each. Raises :class:`DataError` at once for files and
    folders that are not there, and at the end for images that could not be read, naming all of them; the others are written.
    Raises :class:`ConfigError` for ``alpha`` outside [0, 1] and for an ``out`` that cannot be written or is one of the input folders.
    """
    target = _target(out, alpha)
    if any(Path(entry).is_dir() and Path(entry).resolve() == target.resolve() for entry in images):
        raise ConfigError(Problem("", "--out", "must not be the folder the images are in", str(target), str(target / "predicted")))
    named = find_images([Path(entry) for entry in images], without=target)
    _make(target)
    outcomes: list[Drawn] = []
    unread: list[str] = []
    for number, (path, name) in enumerate(named, 1):
        try:
            image_HW3 = read_picture(path)
        except DataError as error:
            unread.append(str(error))
            continue
        drawn = _draw(predictor, image_HW3, path, target / name, alpha)
        outcomes.append(drawn)
        done(drawn, number, len(named))
    if unread:
        raise DataError("\n".join([f"{len(unread)} of {len(named)} images could not be read, the others are drawn:", *unread]))
    return outcomes


def predict_split(
    predictor: Predictor,
    data: DataSet,
    out: str | os.PathLike[str],
    *,
    split: str = "val",
    count: int = 4,
    alpha: float = 0.5,
    done: Callable[[Drawn, int, int], None] = lambda drawn, number, total: None,
) -> list[Drawn]:
    """The same for ``count`` images spread evenly over a data set's split, with ``NAME_truth.png``, the mask as it should be, beside them.

    Raises :class:`ConfigError` for a ``count`` below 1, and as :func:`predict_images`; :class:`DataError` for a data set of other classes
    than the network's, for an unknown split, and as the split does.
    """
    target = _target(out, alpha)
    images = data.split(split)
    if data.num_classes != len(predictor.preprocessing.classes):
        raise DataError(f"{data.spec} has {data.num_classes} classes, the network tells {len(predictor.preprocessing.classes)} apart")
    if count < 1:
        raise ConfigError(Problem("", "--number", "must be 1 or more", count, 1))
    _make(target)
    facts = predictor.preprocessing
    count = min(count, len(images))
    chosen = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    outcomes: list[Drawn] = []
    for number, index in enumerate(chosen, 1):
        image_HW3, truth_HW = images[index]
        stem = target / images.ids[index].replace("/", "_")
        outcomes.append(_draw(predictor, image_HW3, Path(images.ids[index]), stem, alpha))
        _write_png(
            draw_overlay(image_HW3, truth_HW, facts.classes, facts.palette, alpha=alpha, title=f"{images.ids[index]}, as labelled"),
            stem.with_name(f"{stem.name}_truth.png"),
        )
        done(outcomes[-1], number, len(chosen))
    return outcomes


def _draw(predictor: Predictor, image_HW3: Pixels, image: Path, stem: Path, alpha: float) -> Drawn:
    """Predict one picture and write ``STEM_overlay.png`` and ``STEM_mask.png``."""
    facts = predictor.preprocessing
    start = time.perf_counter()
    prediction = predictor(image_HW3)
    seconds = time.perf_counter() - start
    overlay, mask = stem.with_name(f"{stem.name}_overlay.png"), stem.with_name(f"{stem.name}_mask.png")
    _write_png(_mask_image(prediction.mask_HW, facts.palette, predictor.original_labels), mask)
    _write_png(draw_overlay(image_HW3, prediction.mask_HW, facts.classes, facts.palette, alpha=alpha, title=image.name), overlay)
    shares = tuple(class_shares(prediction.mask_HW, facts.classes, facts.palette))
    height, width = prediction.mask_HW.shape
    return Drawn(image, overlay, mask, (height, width), prediction.how, shares, seconds)


def _mask_image(mask_HW: Pixels, palette: Sequence[tuple[int, int, int]], labels: Sequence[int] | None) -> Image.Image:
    """Class numbers with their colours, or the labels that stand for them with the same colours."""
    if labels is None:
        return palette_image(mask_HW, palette)
    by_label = [(0, 0, 0)] * (max(labels) + 1)
    for label, colour in zip(labels, palette, strict=True):
        by_label[label] = colour
    table = np.arange(256, dtype=np.uint8)
    table[: len(labels)] = labels
    return palette_image(table[mask_HW], by_label)


def _target(out: str | os.PathLike[str], alpha: float) -> Path:
    """The output folder, not made yet; the one place where ``alpha`` is checked."""
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(Problem("", "--alpha", "how strongly colours cover the image, from 0 to 1", alpha, min(max(alpha, 0.0), 1.0)))
    return Path(out)


def _make(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Problem("", "--out", f"cannot be written: {error.strerror}", str(target))) from error


def _channels(image_HW3: Pixels, channels: int) -> Pixels:
    """(H, W, 3) as it is, or (H, W, 1) by luminance."""
    return image_HW3 if channels == 3 else np.asarray(Image.fromarray(image_HW3).convert("L"))[..., None]


def _write_png(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
