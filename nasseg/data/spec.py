"""The string behind ``--data``: ``synthetic:streets?size=96x128``, ``ade20k:PATH``, ``PATH?holdout=drive3_*``; parsed, spelled one way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nasseg.errors import DataError, nearest

KEYS: Mapping[str, tuple[str, ...]] = {
    "folder": ("classes", "holdout", "relabel"),
    "ade20k": ("holdout",),
    "cityscapes": ("holdout",),
    "coco-stuff": ("holdout",),
    "voc": ("aug", "holdout"),
    "camvid": ("classes", "holdout", "relabel", "test", "train", "val"),
    "mmseg": ("ann_dir", "classes", "holdout", "img_dir", "img_suffix", "relabel", "seg_map_suffix", "test", "train", "val"),
    "ultralytics": ("holdout",),
    "csv": ("classes", "holdout", "image", "mask", "relabel", "split"),
    "shards": ("buffer", "holdout"),
    "hf": ("classes", "holdout", "image", "mask", "relabel"),
    "synthetic": ("seed", "size", "train", "val"),
}
"""The settings each kind of data knows."""
KINDS = tuple(KEYS)
FILE_KINDS = {".yaml": "ultralytics", ".yml": "ultralytics", ".csv": "csv", ".parquet": "csv"}
"""Files that stand for a data set, by suffix, and their kind."""
PACKED_FILES = ("manifest.json", "index.parquet")
"""What a folder of packed data holds beside its shards."""

_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DataSpec:
    """``kind`` is one of :data:`KINDS`; ``place`` a folder or file, or the scenes' name; ``query`` the settings, still text."""

    kind: str
    place: str
    query: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = self.place if self.kind == "folder" else f"{self.kind}:{self.place}"
        return head + ("?" if self.query else "") + "&".join(f"{key}={self.query[key]}" for key in sorted(self.query))


def parse_spec(text: str) -> DataSpec:
    """Take a data string apart; DataError for an unknown kind or key, each with the nearest legal one."""
    given = text.strip()
    if not given:
        raise DataError("data: nothing was named; give a folder, KIND:PATH (nasseg data info lists the kinds) or synthetic")
    kind, rest = _kind(given)
    place, query_text = (rest, "") if kind != "synthetic" and _there(rest) else _cut(rest)
    if kind == "folder" and not Path(place).expanduser().is_dir():
        kind = FILE_KINDS.get(Path(place).suffix.lower(), kind)
    elif kind == "folder" and all(Path(place, name).expanduser().is_file() for name in PACKED_FILES):
        kind = "shards"
    query = _query(query_text, KEYS[kind], given)
    if kind != "synthetic":
        if not place:
            raise DataError(f"{given}: no {'file' if kind in FILE_KINDS.values() else 'folder'} was named; write {kind}:PATH")
        if kind != "shards" or "://" not in place:
            place = str(Path(place).expanduser().resolve())
    return DataSpec(kind, place, query)


def _kind(given: str) -> tuple[str, str]:
    """The kind and what stands behind it. An existing folder is a folder, whatever its name has in it."""
    if re.fullmatch(r"synthetic(\?.*)?", given, re.DOTALL):
        return "synthetic", given.removeprefix("synthetic")
    bare = given.partition("?")[0]
    if bare in KINDS and bare != "folder" and not _there(bare):
        raise DataError(f"{given}: no {'file' if bare in FILE_KINDS.values() else 'folder'} was named; write {bare}:PATH")
    found = _KIND.fullmatch(given)
    if not found or _there(given) or _there(_cut(given)[0]):
        return "folder", given
    if found[1] in KINDS:
        return found[1], found[2]
    close = nearest(found[1], KINDS)
    hint = f"; nearest: {close}" if close else ""
    known = ", ".join(f"{kind}:PATH" for kind in KINDS if kind not in ("folder", "synthetic"))
    raise DataError(f"{given}: unknown kind of data {found[1]!r}; known are a folder's path, {known} and synthetic[:NAME]{hint}")


def _there(text: str) -> bool:
    path = Path(text).expanduser()
    return path.is_dir() or path.is_file()


def _cut(text: str) -> tuple[str, str]:
    """Place and query. The place ends at the first ``?`` that makes it an existing path, else at the first: globs hold ``?`` too."""
    marks = [index for index, letter in enumerate(text) if letter == "?"]
    for mark in marks:
        if _there(text[:mark]):
            return text[:mark], text[mark + 1 :]
    place, _, query = text.partition("?")
    return place, query


def _query(text: str, keys: tuple[str, ...], given: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if key not in keys:
            close = nearest(key, keys)
            hint = f"; nearest: {close}" if close else ""
            raise DataError(f"{given}: unknown setting {key!r}; this kind of data knows {', '.join(keys)}{hint}")
        if not equals or not value:
            raise DataError(f"{given}: {key} has no value; write {key}=…")
        if key in out:
            raise DataError(f"{given}: {key} is given twice")
        out[key] = value
    return out


def whole_number(given: str, key: str, spec: str, low: int, high: int) -> int:
    """A query's number between ``low`` and ``high``."""
    if not re.fullmatch(r"[0-9]{1,18}", given) or not low <= int(given) <= high:
        raise DataError(f"{spec}: {key} is a whole number from {low} to {high}, {given!r} given")
    return int(given)


def parse_size(given: str, spec: str, low: int, high: int) -> tuple[int, int]:
    """``HxW`` or one number for a square, each side between ``low`` and ``high`` pixels."""
    found = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", given)
    if not found or not all(low <= int(side) <= high for side in (found[1], found[2] or found[1])):
        raise DataError(f"{spec}: size is HEIGHTxWIDTH, each from {low} to {high} pixels, {given!r} given; write for example size=96x128")
    return int(found[1]), int(found[2] or found[1])


def parse_relabel(given: str, spec: str) -> tuple[int, ...]:
    """256 new labels by old label.

    ``reduce_zero`` is mmsegmentation's rule (0 becomes 255, every other label but 255 one less); else ``OLD:NEW`` pairs by comma
    (``255:1`` for masks of black and white), labels that are not named keep their number.
    """
    if given == "reduce_zero":
        return (255, *range(254), 255)
    table = list(range(256))
    seen: set[int] = set()
    for part in given.split(","):
        found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", part)
        if not found or int(found[1]) > 255 or int(found[2]) > 255:
            raise DataError(f"{spec}: relabel is reduce_zero, or OLD:NEW labels of 0…255 by comma such as 255:1, {part!r} given")
        if int(found[1]) in seen:
            raise DataError(f"{spec}: relabel names label {found[1]} twice")
        seen.add(int(found[1]))
        table[int(found[1])] = int(found[2])
    return tuple(table)
