"""Pictures from anywhere: which files are meant, and their pixels as the network was taught to see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nasseg.data.images import IMAGE_SUFFIXES, UInt8, read_image, unreadable
from nasseg.errors import DataError

SUFFIXES = (*IMAGE_SUFFIXES, ".bmp")
_ORIENTATION = 0x0112


def find_images(given: Sequence[str | Path], without: Path | None = None) -> list[tuple[Path, Path]]:
    """Pairs of an image file and the name (without suffix, relative) its outputs get: files as given, folders with all below them.

    Files below the folder ``without`` (earlier outputs) are passed over. Equal names are told apart by a number. Raises :class:`DataError`
    naming every file or folder that is missing or empty.
    """
    found: list[tuple[Path, Path]] = []
    problems = []
    barred = None if without is None else without.resolve()
    for entry in map(Path, given):
        if entry.is_dir():
            inside = sorted(
                path
                for path in entry.rglob("*")
                if path.suffix.lower() in SUFFIXES and path.is_file() and (barred is None or barred not in path.resolve().parents)
            )
            found += [(path, path.relative_to(entry).with_suffix("")) for path in inside]
            if not inside:
                problems.append(f"{entry}: no images in this folder; looked for {', '.join(SUFFIXES)}")
        elif entry.is_file():
            found.append((entry, Path(entry.stem)))
        else:
            problems.append(f"{entry}: no such file or folder")
    if problems:
        raise DataError("\n".join(problems))
    taken: set[Path] = set()
    named = []
    for path, name in found:
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = name.with_name(f"{name.name}-{number}")
        taken.add(unique)
        named.append((path, unique))
    return named


def read_picture(path: Path) -> UInt8:
    """RGB, uint8, (H, W, 3), as :func:`nasseg.data.images.read_image` reads training images, and more forgiving.

    A camera's orientation tag is applied. 16-bit grey is divided by 257 (its whole range, not the darkest and brightest pixel found).
    Raises :class:`DataError` naming the file.
    """
    try:
        with Image.open(path) as picture:
            mode, turned = picture.mode, picture.getexif().get(_ORIENTATION, 1) != 1
            if mode.startswith("I;16") or mode == "I":
                wide = np.asarray(ImageOps.exif_transpose(picture)).astype(np.int64)
                if wide.size and (wide.min() < 0 or wide.max() > 65535):
                    raise DataError(f"{path}: pixels from {wide.min()} to {wide.max()}; save the image with 8 or 16 bits a channel")
                return np.repeat((wide // 257).astype(np.uint8)[..., None], 3, axis=2)
            if turned and mode != "F":
                return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {unreadable(error)}") from error
    return read_image(path)
