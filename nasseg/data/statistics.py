"""How many pixels of which class each image of a split holds; counted once and remembered."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from nasseg.data.dataset import Split
from nasseg.errors import DataError
from nasseg.files import cache_dir, digest, write_atomic


def class_counts(split: Split, num_classes: int) -> NDArray[np.int32]:
    """(images, classes) pixels; 255 is not counted. Reads all masks the first time, the cache folder after that (by the split's key).

    Raises :class:`DataError` where no pixel of the split counts, and what the split raises.
    """
    path = cache_dir() / "class_counts" / f"{digest([split.key, num_classes], 24)}.npy"
    try:
        known = np.load(path, allow_pickle=False)
        if known.shape == (len(split), num_classes) and known.dtype == np.int32:
            return known  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError):
        pass
    counts = np.zeros((len(split), num_classes), dtype=np.int32)
    for index in range(len(split)):
        counts[index] = np.bincount(split.mask(index).reshape(-1), minlength=256)[:num_classes]
    if not counts.any():
        raise DataError(f"split {split.name}: every pixel of its {len(split)} masks is 255, so there is nothing to learn")
    buffer = io.BytesIO()
    np.save(buffer, counts)
    write_atomic(path, buffer.getvalue())
    return counts
