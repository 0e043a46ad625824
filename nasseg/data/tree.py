"""What lies in a data folder: the contract between a layout and all that reads one.

A :class:`Layout` says whether a folder looks like it and finds the files: a :class:`Tree` of :class:`SplitFiles`. Nothing is opened but
lists. Relabelling is a table of 256 numbers, applied once, by the split that reads the mask.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from nasseg.data.classes import Classes
from nasseg.data.colours import ColourTable
from nasseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, Source
from nasseg.data.palette import Palette
from nasseg.data.spec import DataSpec
from nasseg.errors import DataError

Table = tuple[int, ...]
"""256 new labels by old label."""


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """A split's images and masks by name without suffix.

    ``twins`` are names that more than one image has, ``absent`` names a list has and no image; ``origin`` says what names the samples,
    the folder of images where there is no list. ``spare_masks``: masks without an image are no fault. ``table`` and ``colours`` as in
    :class:`nasseg.data.dataset.FileSplit`; None leaves labels to the settings.
    """

    name: str
    image_dir: Path
    mask_dir: Path
    images: Mapping[str, Source]
    masks: Mapping[str, Source]
    twins: tuple[str, ...] = ()
    foreign_masks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    origin: str = ""
    spare_masks: bool = False
    mask_rule: str = "a mask has its image's name and ends in .png"
    table: Table | None = None
    colours: ColourTable | None = None

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
        return [] if self.spare_masks else sorted(self.masks.keys() - self.images.keys())

    @property
    def empty(self) -> str:
        """The sentence for a split without images."""
        if self.origin:
            return f"{self.origin}: names no image of the split {self.name}"
        return f"{self.image_dir}: no images; put files ending in {', '.join(IMAGE_SUFFIXES)} there"

    def problems(self) -> list[str]:
        """What keeps the split from being read, one sentence each."""
        if self.absent:
            return [f"{self.origin}: names {listed(self.absent)}, but there is no such image in {self.image_dir}"]
        if not self.images:
            return [self.empty]
        if not self.masks and not self.mask_dir.exists():
            return [f"{self.mask_dir}: the folder with the masks of {self.image_dir} is missing"]
        out = []
        if self.twins:
            out.append(f"{self.image_dir}: {listed(self.twins)} stands for more than one image; names must differ in more than the suffix")
        if self.foreign_masks and not self.masks:
            out.append(f"{self.mask_dir}: {listed(self.foreign_masks)} is no PNG; masks are PNG files, a lossy format spoils class numbers")
        elif self.without_mask:
            out.append(f"{self.mask_dir}: no mask for {listed(self.without_mask)}; {self.mask_rule}")
        if self.without_image and not self.without_mask:
            out.append(f"{self.image_dir}: no image for {listed(self.without_image)}; delete the mask or add its image")
        return out


@dataclass(frozen=True, slots=True)
class Facts:
    """What is published about a data set: nothing here is measured by us.

    ``images``: number by split. ``obtained``: the site or project that gives it out. ``originals``: the label of each class in the set's
    own masks and servers. ``shape``: what a folder must hold to be taken for it.
    """

    title: str
    names: tuple[str, ...]
    palette: Palette
    images: Mapping[str, int]
    obtained: str
    licence: str
    paper: str
    originals: tuple[int, ...]

    def classes(self, names: Sequence[str] | None = None, palette: Palette | None = None) -> Classes:
        """For a tree of this data set."""
        return Classes(tuple(names or self.names), palette or self.palette, f"the {self.title} tool kit", self.title)


class Layout(ABC):
    """One way data lie on disk. ``kind`` is the word before the colon in ``--data``, ``shape`` what is looked for, in one line.

    ``facts`` are given where the layout is that of one published data set, whose classes and labels are then fixed; ``never`` are numbers
    that its masks, before they are mapped, do not hold.
    """

    kind: ClassVar[str]
    name: str
    shape: str
    facts: ClassVar[Facts | None] = None
    never: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def fits(self, root: Path) -> bool:
        """Whether a folder unmistakably looks like this."""

    @abstractmethod
    def read(self, spec: DataSpec) -> Tree:
        """The files below ``spec.place``; DataError naming what was looked for where there are none."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A data set's files: its layout, and what each split found has.

    ``classes`` None: from classes.json, ``?classes=`` or the masks. ``expected`` is where a split's images should lie, for messages.
    ``originals``: see :class:`Facts`.
    """

    root: Path
    layout: Layout
    splits: Mapping[str, SplitFiles]
    expected: Callable[[str], Path | str] = field(compare=False)
    classes: Classes | None = None
    originals: tuple[int, ...] | None = None

    def missing(self, split: str) -> str:
        """The sentence for a split that is not there."""
        place = self.expected(split)
        what = "split" if isinstance(place, str) else "file" if place.suffix else "folder"
        return f"{place}: the {what} is missing; {RULE}"


RULE = "a data set has train and val"


def need_folder(spec: DataSpec) -> Path:
    """The spec's place as an existing folder, or DataError."""
    root = Path(spec.place)
    if not root.exists():
        raise DataError(f"{root}: no such folder; give a data set's root, camvid:PATH or synthetic")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder that holds the data set")
    return root


def within(root: Path, *names: str) -> Path:
    """``root``, or the first of the folders ``names`` inside it that is there: archives unpack into a folder of their own."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def walk(folder: Path) -> list[str]:
    """Names of all files below a folder but hidden ones, relative to it, sorted. Text, because there may be hundreds of thousands."""
    found = []
    top = str(folder)
    for place, _, names in os.walk(top, onerror=_refuse) if folder.is_dir() else ():
        ahead = "" if place == top else place[len(top) :].replace(os.sep, "/").lstrip("/") + "/"
        found += [ahead + name for name in names if not name.startswith(".")]
    return sorted(found)


def _refuse(error: OSError) -> None:
    """A folder that cannot be read must not look empty."""
    raise error


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    given = list(names)
    rest = len(given) - most
    return ", ".join(given[:most]) + (f" and {rest} more" if rest > 0 else "")


def fold(
    name: str,
    image_dir: Path,
    mask_dir: Path,
    image_end: str = "",
    mask_end: str = "",
    table: Table | None = None,
    colours: ColourTable | None = None,
) -> SplitFiles:
    """The pairs of two folders: names are equal up to what they end in.

    ``image_end`` and ``mask_end`` are ends with (``_L.png``) or without suffix; empty: any image, any PNG. Files that end otherwise do
    not count, so several kinds of masks may lie side by side.
    """
    images: dict[str, Source] = {}
    twins = []
    for name_there in walk(image_dir):
        if suffix_of(name_there) in IMAGE_SUFFIXES and name_there.endswith(image_end):
            id_ = stem(name_there, image_end)
            if id_ in images:
                twins.append(id_)
            images[id_] = image_dir / name_there
    masks, foreign = masks_in(mask_dir, mask_end)
    files = SplitFiles(name, image_dir, mask_dir, images, masks, tuple(sorted(set(twins))), foreign, table=table, colours=colours)
    return replace(files, mask_rule=_ends(mask_end, image_end)) if mask_end else files


def fold_either(name: str, image_dir: Path, mask_dir: Path, image_end: str, done: str, raw: str, table: Table) -> SplitFiles:
    """Masks that end in ``done`` where every image has one, else those that end in ``raw`` with ``table``, unless fewer have one."""
    files = fold(name, image_dir, mask_dir, image_end, done)
    if files.masks and not files.without_mask:
        return files
    found = masks_in(mask_dir, raw)[0]
    masks = {id_: path for id_, path in found.items() if id_ in files.images or not done.endswith(raw)}
    other = replace(files, masks=masks, table=table, mask_rule=_ends(raw, image_end))
    return other if len(other.without_mask) <= len(files.without_mask) else files


def masks_in(folder: Path, end: str) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Masks by id, and files that are no masks."""
    masks: dict[str, Source] = {}
    foreign = []
    for name in walk(folder):
        if suffix_of(name) not in MASK_SUFFIXES:
            foreign.append(name.rpartition("/")[2])
        elif name.endswith(end):
            masks[stem(name, end)] = folder / name
    return masks, tuple(foreign)


def _ends(mask_end: str, image_end: str) -> str:
    return f"a mask has its image's name, ending in {mask_end} instead of {image_end or 'its suffix'}"


def suffix_of(name: str) -> str:
    """``.png`` of ``a/b.PNG``."""
    return os.path.splitext(name)[1].lower()


def stem(name: str, end: str = "") -> str:
    """A file's id: its name without ``end`` if it has one, else without its suffix."""
    return name[: len(name) - len(end)] if end and name.endswith(end) else os.path.splitext(name)[0]


def read_list(file: Path) -> list[str]:
    """The first word of each line, folders and all, without empty lines. DataError where it cannot be read or names one thing twice."""
    try:
        lines = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{file}: the list of a split's names cannot be read ({reason})") from error
    twice = sorted(line for line, count in Counter(lines).items() if count > 1)
    if twice:
        raise DataError(f"{file}: names {listed(twice)} twice; delete the repeated lines")
    return lines


def invert(table: Table | None, num_classes: int) -> tuple[int, ...] | None:
    """The old label of each class, None where labels were not mapped: a label that was changed before one that kept its number."""
    if table is None:
        return None
    found = {new: old for old, new in reversed(tuple(enumerate(table))) if old == new}
    found |= {new: old for old, new in reversed(tuple(enumerate(table))) if old != new}
    return tuple(found.get(index, index) for index in range(num_classes))
