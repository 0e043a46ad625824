"""One image or one mask, read whole and closed again.

Pillow reads; this file knows the traps. A mask is a PNG of one channel whose raw numbers are class indices: a palette is never applied, and
PNGs of 2 or 4 bits, which Pillow spreads over 0…255, are scaled back.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from nasseg.data.colours import ColourTable
from nasseg.errors import DataError

IGNORE = 255
"""The label that neither loss nor metric counts."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)

UInt8 = NDArray[np.uint8]

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 274  # EXIF tag
_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow's factor from raw number to grey level


class Stat(Protocol):
    """What tells one state of a file from another."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """Time of the last change."""


class Source(Protocol):
    """Where an image file's bytes come from: a path, or a cell of a table. Its text names it in messages."""

    def stat(self) -> Stat:
        """Its state now. Raises OSError."""

    def read_bytes(self) -> bytes:
        """The whole content of an image file. Raises OSError or DataError."""


def opened(source: Source) -> ImageFile.ImageFile:
    """Pillow's image of a source, not decoded yet."""
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source.read_bytes()))


def read_image(path: Source) -> UInt8:
    """RGB, uint8, (H, W, 3). Grey and palette images become RGB, alpha is dropped; 16 bits and more are refused."""
    try:
        with opened(path) as image:
            if image.mode in (*_WIDE, "F"):
                raise DataError(f"{path}: image has {image.mode} pixels of more than 8 bits a channel; save it with 8 bits a channel")
            if image.mode == "P" and "transparency" in image.info:
                return np.array(image.convert("RGBA"))[..., :3].copy()
            return np.array(image.convert("RGB"))
    except _UNREADABLE as error:
        raise DataError(f"{path}: {unreadable(error)}; replace the file or take it out of the data set") from error


def read_raw_mask(path: Source, colours: ColourTable | None = None) -> NDArray[np.integer[Any]]:
    """A mask's numbers as they stand in the file, integers (H, W); colours become numbers by the table.

    Raises DataError for colours where there is no table, for colours the table does not have and for unreadable files.
    """
    try:
        with opened(path) as image:
            if colours is not None and image.mode in ("RGB", "RGBA"):
                return colours.decode(np.array(image)[..., :3], str(path))
            if image.mode not in ("L", "P", "1", *_WIDE):
                raise DataError(f"{path}: mask has {len(image.getbands())} channels ({image.mode}); {_many_channels(image)}")
            raw_mode = image.tile[0][3] if image.tile else None
            factor = _SPREAD.get(raw_mode if isinstance(raw_mode, str) else "", 1)
            numbers = np.array(image.convert("L")) // 255 if image.mode == "1" else np.array(image)
            return numbers if factor == 1 else numbers // factor
    except _UNREADABLE as error:
        raise DataError(f"{path}: {unreadable(error)}; replace the file or take it out of the data set") from error


def read_mask(path: Source, num_classes: int | None = None, relabel: UInt8 | None = None, colours: ColourTable | None = None) -> UInt8:
    """A mask's class numbers, uint8 (H, W), after ``relabel`` (256 new numbers by old number) and checked against ``num_classes``."""
    raw = read_raw_mask(path, colours)
    if raw.size and (raw.max() > IGNORE or raw.min() < 0):
        worst = int(raw.max()) if raw.max() > IGNORE else int(raw.min())
        raise DataError(f"{path}: label {worst} in the mask; labels are 0…254, and {IGNORE} for ignored pixels")
    mask = raw.astype(np.uint8, copy=False)
    if relabel is not None:
        mask = relabel[mask]
    if num_classes is not None:
        outside = mask[(mask >= num_classes) & (mask != IGNORE)]
        if outside.size:
            worst = int(outside.max())
            first = "" if relabel is None else f" ({int(raw[mask == worst].max())} before labels were mapped)"
            raise DataError(
                f"{path}: label {worst}{first} in the mask, but the data set has {num_classes} classes (0…{num_classes - 1}, and "
                f"{IGNORE} for ignored pixels); set ?classes=… or correct the mask (nasseg data check says more)"
            )
    return mask


def turned(path: Source) -> bool:
    """Whether the file's EXIF data asks a viewer to turn or mirror the image; the pixels are read as they are stored."""
    try:
        with opened(path) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except _UNREADABLE:
        return False


def image_size(path: Source) -> tuple[int, int]:
    """(height, width) from the file's head, nothing decoded."""
    try:
        with opened(path) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise DataError(f"{path}: {unreadable(error)}; replace the file or take it out of the data set") from error


def _many_channels(image: Image.Image) -> str:
    channels = np.array(image)[..., :3]
    same = channels.ndim == 3 and channels.shape[-1] == 3 and bool((channels == channels[..., :1]).all())
    cure = "its colours are all grey, keep the first channel" if same else "convert its colours to class numbers"
    return f"a mask is one channel of class numbers with {IGNORE} for ignored pixels: {cure}"


def unreadable(error: BaseException) -> str:
    """Why a file could not be read, without its name."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, UnidentifiedImageError):
        return "not an image Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return "image has more pixels than Pillow reads (about 179 million); cut it into tiles"
    if "truncated" in str(error).lower():
        return "file is truncated"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
