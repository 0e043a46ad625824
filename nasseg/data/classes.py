"""Which classes a folder's masks hold: from ``classes.json``, from ``?classes=19``, or counted from the masks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasseg.data.dataset import Pair
from nasseg.data.images import IGNORE, read_mask
from nasseg.data.palette import Colour, Palette, default_palette
from nasseg.data.spec import whole_number
from nasseg.errors import DataError
from nasseg.files import cache_dir, canonical_json, digest, read_json_or_none, write_atomic

log = logging.getLogger(__name__)

MOST_CLASSES = 255
"""Labels are 0…254; 255 is ignored."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Names and colours, where they are known from, and the data set's title if the file gives one."""

    names: tuple[str, ...]
    palette: Palette
    origin: str
    title: str | None = None


def classes_of(root: Path, pairs: Sequence[Pair], number: str | None, relabel: tuple[int, ...] | None, spec: str) -> Classes:
    """The classes of a folder. ``number`` is the text behind ``?classes=``, which must agree with a classes.json."""
    file = root / "classes.json"
    wanted = None if number is None else whole_number(number, "classes", spec, 2, MOST_CLASSES)
    if file.is_file():
        found = read_classes(file)
        if wanted is not None and wanted != len(found.names):
            raise DataError(f"{spec}: classes={wanted}, but {file} names {len(found.names)}; leave the setting out or correct the file")
        return found
    if wanted is not None:
        return numbered(wanted, f"?classes={wanted}")
    highest = highest_label(pairs, relabel)
    if highest < 1:
        only = "nothing but ignored pixels (255)" if highest < 0 else "label 0 and ignored pixels (255) only"
        hint = "if 255 means the object, set ?relabel=255:1" if highest == 0 else "write class numbers from 0"
        raise DataError(f"{root}: the {len(pairs)} masks hold {only}; {hint}, or give ?classes=…")
    return numbered(highest + 1, f"largest label in {len(pairs)} masks, all read")


def numbered(count: int, origin: str) -> Classes:
    """``class_0`` … with colours of our own."""
    return Classes(tuple(f"class_{index}" for index in range(count)), default_palette(count), origin)


def read_classes(file: Path) -> Classes:
    """``{"name": …, "classes": [{"id": 0, "name": "sky", "colour": [r, g, b]}, …]}``.

    ``id`` and ``colour`` may be left out, a bare name stands for itself, and the list alone will do. Raises DataError.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f'{file}: not readable as JSON ({error}); it lists the classes, for example {{"classes": ["road", "sky"]}}'
        ) from error
    entries = raw.get("classes") if isinstance(raw, dict) else raw
    if not isinstance(entries, list) or not 2 <= len(entries) <= MOST_CLASSES:
        raise DataError(f'{file}: "classes" is a list of 2 to {MOST_CLASSES} classes, for example ["road", "sky"]')
    names: list[str] = []
    colours: list[Colour] = []
    fallback = default_palette(len(entries))
    for index, entry in enumerate(entries):
        fields: dict[str, Any] = {"name": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
        name = fields.get("name")
        if not isinstance(name, str) or not name or name in names:
            raise DataError(f"{file}: class {index} needs a name of its own, {name!r} given")
        if fields.get("id", index) != index:
            raise DataError(f"{file}: class {name!r} has id {fields['id']!r} at place {index}; ids run 0, 1, 2, … in the order of the list")
        names.append(name)
        colours.append(_colour(fields.get("colour", fields.get("color", fallback[index])), file, name))
    title = raw.get("name") if isinstance(raw, dict) else None
    return Classes(tuple(names), tuple(colours), "classes.json", title if isinstance(title, str) and title else None)


def _colour(given: Any, file: Path, name: str) -> Colour:
    if isinstance(given, (list, tuple)) and len(given) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in given):
        return (given[0], given[1], given[2])
    raise DataError(f"{file}: the colour of {name!r} is three numbers from 0 to 255, {given!r} given")


def highest_label(pairs: Sequence[Pair], relabel: tuple[int, ...] | None) -> int:
    """The largest label of all masks but 255, −1 if there is none. Every mask is read; the answer is cached until one changes."""
    key = digest([[str(pair.mask), pair.stamp[1], pair.stamp[3]] for pair in pairs] + [relabel], 32)
    file = cache_dir() / "labels" / f"{key}.json"
    known = read_json_or_none(file)
    if known is not None and isinstance(known.get("highest"), int):
        return int(known["highest"])
    log.info("reading %d masks for their largest label", len(pairs))
    table = None if relabel is None else np.asarray(relabel, dtype=np.uint8)

    def of(pair: Pair) -> int:
        mask = read_mask(pair.mask, relabel=table)
        counted = mask[mask != IGNORE]
        return int(counted.max()) if counted.size else -1

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
        highest = max(pool.map(of, pairs))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_atomic(file, canonical_json({"highest": highest, "masks": len(pairs)}))
    return highest
