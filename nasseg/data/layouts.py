"""Folders as people have them, found out and opened: ``open_data("path/to/folder?holdout=drive3_*")``.

======================  ==========================  =======================
layout                  images                      masks
======================  ==========================  =======================
split folders           ``train/images``            ``train/masks``
mmsegmentation          ``img_dir/train``           ``ann_dir/train``
images and masks        ``images/train``            ``masks/train``
======================  ==========================  =======================

and the same for ``val`` and, where there are masks, ``test``. An image and its mask have the same name up to the suffix; subfolders are
part of the name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasseg.data.classes import Classes, classes_of
from nasseg.data.dataset import DataSet, FileSplit, Pair, Split
from nasseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from nasseg.data.spec import DataSpec, parse_relabel, parse_spec
from nasseg.data.synthetic import open_synthetic
from nasseg.errors import DataError
from nasseg.files import digest

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names a split's folder may have."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a split's images and masks lie below the root, ``{split}`` standing for its folder name."""

    name: str
    images: str
    masks: str

    def folders(self, root: Path, folder_name: str) -> tuple[Path, Path]:
        """Folder of images and folder of masks."""
        return root / self.images.format(split=folder_name), root / self.masks.format(split=folder_name)


LAYOUTS = (
    Layout("split folders", "{split}/images", "{split}/masks"),
    Layout("mmsegmentation", "img_dir/{split}", "ann_dir/{split}"),
    Layout("images and masks", "images/{split}", "masks/{split}"),
)


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """What lies in a split's two folders, by name without suffix. ``twins`` are names that more than one image has."""

    name: str
    image_dir: Path
    mask_dir: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    twins: tuple[str, ...]
    foreign_masks: tuple[str, ...]

    @property
    def paired(self) -> list[str]:
        """Names that have an image and a mask, sorted."""
        return sorted(self.images.keys() & self.masks.keys())

    @property
    def without_mask(self) -> list[str]:
        """Names of images that have no mask."""
        return sorted(self.images.keys() - self.masks.keys())

    @property
    def without_image(self) -> list[str]:
        """Names of masks that have no image."""
        return sorted(self.masks.keys() - self.images.keys())

    def problems(self) -> list[str]:
        """What keeps the split from being read, one sentence each."""
        if not self.images:
            looked = ", ".join(IMAGE_SUFFIXES)
            return [f"{self.image_dir}: no images; put files ending in {looked} there"]
        if not self.mask_dir.is_dir():
            return [f"{self.mask_dir}: the folder with the masks of {self.image_dir} is missing"]
        out = []
        if self.twins:
            out.append(f"{self.image_dir}: {listed(self.twins)} stands for more than one image; names must differ in more than the suffix")
        if self.foreign_masks and not self.masks:
            out.append(f"{self.mask_dir}: {listed(self.foreign_masks)} is no PNG; masks are PNG files, a lossy format spoils class numbers")
        elif self.without_mask:
            out.append(f"{self.mask_dir}: no mask for {listed(self.without_mask)}; a mask has its image's name and ends in .png")
        if self.without_image and not self.without_mask:
            out.append(f"{self.image_dir}: no image for {listed(self.without_image)}; delete the mask or add its image")
        return out


@dataclass(frozen=True, slots=True)
class Tree:
    """A data folder: its layout, and the files of each split found."""

    root: Path
    layout: Layout
    splits: Mapping[str, SplitFiles]


def open_data(spec: str) -> DataSet:
    """The data set a string names. Raises DataError, one sentence that names the file or setting, the rule and what to do."""
    parsed = parse_spec(spec)
    if parsed.kind == "synthetic":
        return open_synthetic(parsed)
    try:
        return _open_folder(parsed)
    except OSError as error:
        raise DataError(f"{error.filename or parsed.place}: cannot be read ({error.strerror})") from error


def find_tree(root: Path) -> Tree:
    """Which layout a folder has, and its files; nothing is opened. DataError where there is none, with what was looked for."""
    if not root.exists():
        raise DataError(f"{root}: no such folder; give a data set's root, camvid:PATH or synthetic")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder that holds the data set")
    for layout in LAYOUTS:
        splits = {}
        for name, folder_names in SPLITS.items():
            there = [n for n in folder_names if layout.folders(root, n)[0].is_dir()]
            if len(there) > 1:
                raise DataError(f"{root}: {' and '.join(there)} both stand for the split {name}; keep one of them")
            if there:
                splits[name] = _files(name, *layout.folders(root, there[0]))
        if splits:
            return Tree(root, layout, splits)
    looked = "; ".join(f"{layout.images.format(split='train')} with {layout.masks.format(split='train')}" for layout in LAYOUTS)
    held = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    content = f"it holds {listed(held)}" if held else "it is empty"
    raise DataError(f"{root}: no known layout ({content}); looked for {looked}")


def holdout_ids(ids: Sequence[str], patterns: str, spec: str) -> list[str]:
    """The ids one of the globs (by comma) fits, on the whole id or its last part. DataError where a glob fits none or all are taken."""
    taken: set[str] = set()
    for pattern in patterns.split(","):
        fits = {id_ for id_ in ids if fnmatch.fnmatchcase(id_, pattern) or fnmatch.fnmatchcase(id_.rsplit("/", 1)[-1], pattern)}
        if not fits:
            raise DataError(f"{spec}: holdout {pattern!r} fits none of the {len(ids)} train images, which are named like {listed(ids)}")
        taken |= fits
    if len(taken) == len(ids):
        raise DataError(f"{spec}: holdout takes all {len(ids)} train images; leave some to train on")
    return [id_ for id_ in ids if id_ in taken]


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    given = list(names)
    rest = len(given) - most
    return ", ".join(given[:most]) + (f" and {rest} more" if rest > 0 else "")


def _files(name: str, image_dir: Path, mask_dir: Path) -> SplitFiles:
    images: dict[str, Path] = {}
    twins = []
    for path in _walk(image_dir):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            id_ = path.relative_to(image_dir).with_suffix("").as_posix()
            if id_ in images:
                twins.append(id_)
            images[id_] = path
    masks = {}
    foreign = []
    for path in _walk(mask_dir) if mask_dir.is_dir() else ():
        if path.suffix.lower() in MASK_SUFFIXES:
            masks[path.relative_to(mask_dir).with_suffix("").as_posix()] = path
        else:
            foreign.append(path.name)
    return SplitFiles(name, image_dir, mask_dir, images, masks, tuple(sorted(set(twins))), tuple(foreign))


def _walk(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _open_folder(spec: DataSpec) -> DataSet:
    root = Path(spec.place)
    tree = find_tree(root)
    if spec.kind == "camvid" and not (root / "classes.json").is_file():
        raise DataError(f"{root}: camvid needs classes.json with its classes' names and colours; without one give the folder alone")
    for needed in ("train", "val"):
        if needed not in tree.splits:
            raise DataError(f"{tree.layout.folders(root, needed)[0]}: the folder is missing; a data set has train and val")
    usable = {}
    for name, files in tree.splits.items():
        if name == "test" and not files.masks:
            continue  # a test split without masks can be predicted on, not learnt from or measured
        for problem in files.problems():
            raise DataError(problem)
        usable[name] = [Pair.of(id_, files.images[id_], files.masks[id_]) for id_ in files.paired]
    relabel = parse_relabel(spec.query["relabel"], str(spec)) if "relabel" in spec.query else None
    classes = classes_of(root, [pair for pairs in usable.values() for pair in pairs], spec.query.get("classes"), relabel, str(spec))
    splits: dict[str, Split] = {name: FileSplit(name, pairs, len(classes.names), relabel) for name, pairs in usable.items()}
    if "holdout" in spec.query:
        splits.update(_hold_out(splits["train"], spec))
    return DataSet(
        name=classes.title or root.name,
        spec=str(spec),
        classes=classes.names,
        palette=classes.palette,
        splits=splits,
        fingerprint=_fingerprint(classes, relabel, splits),
        classes_from=classes.origin,
    )


def _hold_out(train: Split, spec: DataSpec) -> dict[str, Split]:
    taken = set(holdout_ids(train.ids, spec.query["holdout"], str(spec)))
    kept = [index for index, id_ in enumerate(train.ids) if id_ not in taken]
    held = [index for index, id_ in enumerate(train.ids) if id_ in taken]
    return {"train": train.subset(kept, "train"), "holdout": train.subset(held, "holdout")}


def _fingerprint(classes: Classes, relabel: tuple[int, ...] | None, splits: Mapping[str, Split]) -> str:
    content = {
        name: [[pair.id, *pair.stamp[:2]] for pair in split.pairs]  # sizes in bytes, not times: a copy is the same set
        for name, split in splits.items()
        if isinstance(split, FileSplit)
    }
    return digest({"classes": classes.names, "relabel": relabel, "splits": content})
