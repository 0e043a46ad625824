"""Ultralytics' data set file for semantic segmentation: ``path``, ``train``, ``val``, ``masks_dir``, ``names``, ``label_mapping``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from nasseg.data.classes import MOST_CLASSES, Classes
from nasseg.data.images import IGNORE, IMAGE_SUFFIXES, Source
from nasseg.data.palette import default_palette
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Layout, SplitFiles, Table, Tree, invert, stem, suffix_of, walk
from nasseg.errors import ConfigError, DataError
from nasseg.files import read_yaml

_SUFFIXES = (".png", ".PNG", ".bmp", ".tif")


class Ultralytics(Layout):
    """A YAML file. ``path`` is taken from the file's folder (or the working folder); a split is a folder, a ``.txt`` of image paths, or
    several. The mask of ``…/images/…/NAME.jpg`` is ``…/MASKS_DIR/…/NAME.png``. Labels that ``label_mapping`` leaves out keep their number.
    """

    kind: ClassVar[str] = "ultralytics"
    name = "Ultralytics"
    shape = "a .yaml file with path, train, val, names, masks_dir (masks) and label_mapping"

    def fits(self, root: Path) -> bool:
        """A file, known by its suffix."""
        return False

    @override
    def read(self, spec: DataSpec) -> Tree:
        file = Path(spec.place)
        if not file.is_file():
            raise DataError(f"{file}: no such file; give an Ultralytics data set's .yaml")
        try:
            content = read_yaml(file)
        except ConfigError as error:
            raise DataError(str(error)) from error
        if not isinstance(content, dict) or not {"train", "val", "names"} <= content.keys():
            raise DataError(f"{file}: an Ultralytics data set names train, val and names")
        names = _names(content["names"], file)
        root = _root(content.get("path"), file)
        masks_dir = content.get("masks_dir", "masks")
        if not isinstance(masks_dir, str):
            raise DataError(f"{file}: masks_dir is a folder's name, {masks_dir!r} given")
        table = _table(content["label_mapping"], len(names), file) if content.get("label_mapping") else None
        splits = {
            name: _split(name, content[name], root, masks_dir, table, file)
            for name in ("train", "val", "test")
            if content.get(name) is not None
        }
        classes = Classes(names, default_palette(len(names)), f"names in {file.name}", file.stem)
        return Tree(root, self, splits, lambda split: f"{file}: {split}", classes, invert(table, len(names)))


def _names(given: Any, file: Path) -> tuple[str, ...]:
    if isinstance(given, dict) and sorted(given) == list(range(len(given))):
        given = [given[index] for index in range(len(given))]
    if not isinstance(given, list) or not 2 <= len(given) <= MOST_CLASSES or len({str(name) for name in given}) < len(given):
        raise DataError(f"{file}: names are 2 to {MOST_CLASSES} different class names, a list or 0: NAME, 1: NAME, …")
    return tuple(str(name) for name in given)


def _root(given: Any, file: Path) -> Path:
    path = Path(str(given or ".")).expanduser()
    choices = [path] if path.is_absolute() else [file.parent / path, Path.cwd() / path]
    found = next((choice for choice in choices if choice.is_dir()), None)
    if found is None:
        raise DataError(f"{file}: path {given!r} is no folder; looked for {' and '.join(str(choice) for choice in choices)}")
    return found


def _table(given: Any, count: int, file: Path) -> Table:
    """``label_mapping``: label in the mask to class, or ``ignore_label``; -1, which no PNG can hold, may stand there."""
    out = list(range(256))
    if not isinstance(given, dict):
        raise DataError(f"{file}: label_mapping is LABEL: CLASS pairs, {given!r} given")
    for old, new in given.items():
        wanted = IGNORE if new in ("ignore_label", IGNORE, -1) else new
        legal = isinstance(old, int) and -1 <= old <= IGNORE
        if not legal or not isinstance(wanted, int) or not (0 <= wanted < count or wanted == IGNORE):
            raise DataError(f"{file}: label_mapping {old!r}: {new!r} is no label 0…255 with a class 0…{count - 1} or ignore_label")
        if old >= 0:
            out[old] = wanted
    return tuple(out)


def _split(name: str, given: Any, root: Path, masks_dir: str, table: Table | None, file: Path) -> SplitFiles:
    entries = given if isinstance(given, list) else [given]
    paths: list[Path] = []
    folders = []
    for entry in entries:
        place = root / str(entry)
        if place.is_dir():
            folders.append(place)
            paths += [place / path for path in walk(place) if suffix_of(path) in IMAGE_SUFFIXES]
        elif place.suffix == ".txt" and place.is_file():
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
            paths += [place.parent / line if line.startswith("./") else root / line for line in lines]
        else:
            raise DataError(f"{file}: {name} {entry!r} is neither a folder nor a .txt list; looked for {place}")
    base = folders[0] if len(entries) == len(folders) == 1 else root
    images: dict[str, Source] = {}
    masks: dict[str, Source] = {}
    absent, twins = [], []
    for path in paths:
        id_ = stem(path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path).lstrip("/"))
        if id_ in images:
            twins.append(id_)
        if not path.is_file():
            absent.append(id_)
            continue
        images[id_] = path
        mask = _mask(path, masks_dir, file)
        if mask is not None:
            masks[id_] = mask
    rule = f"the mask of images/…/NAME.jpg is {masks_dir}/…/NAME.png (polygon labels are not read)"
    return SplitFiles(
        name,
        base,
        root / masks_dir,
        images,
        masks,
        tuple(sorted(set(twins))),
        absent=tuple(absent),
        origin=f"{file} ({name})",
        spare_masks=True,
        mask_rule=rule,
        table=table,
    )


def _mask(image: Path, masks_dir: str, file: Path) -> Path | None:
    parts = image.parts
    if "images" not in parts:
        raise DataError(f"{file}: {image} has no folder images in its path, which masks_dir would take the place of")
    at = len(parts) - 1 - parts[::-1].index("images")
    target = Path(*parts[:at], masks_dir, *parts[at + 1 :])
    return next((path for suffix in _SUFFIXES if (path := target.with_suffix(suffix)).is_file()), None)
