"""What training sees of data: a :class:`DataSet` of named :class:`Split`s, each a sequence of (image, mask)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from nasseg.data.images import IGNORE, UInt8, read_image, read_mask
from nasseg.data.palette import Palette
from nasseg.errors import DataError
from nasseg.files import digest


class Sample(NamedTuple):
    """image: uint8 RGB (H, W, 3); mask: uint8 (H, W), class numbers and 255 for ignored pixels."""

    image: UInt8
    mask: UInt8


class Split(ABC):
    """A part of a data set: ``len(split)``, ``split.ids``, ``split[i] -> Sample``. Can be pickled; holds no open file."""

    name: str
    ids: tuple[str, ...]

    @property
    @abstractmethod
    def key(self) -> str:
        """One name for the content: equal keys give equal samples. Caches use it."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Sample ``index`` of 0…len−1."""

    @abstractmethod
    def subset(self, indices: Sequence[int], name: str) -> Split:
        """The samples at ``indices`` as a split of another name."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"split {self.name} has {len(self)} samples, index {index} given")
        return self.read(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        return (self.read(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} samples)"


@dataclass(frozen=True, slots=True)
class Pair:
    """One image file and its mask file; ``stamp`` changes when either is written again."""

    id: str
    image: Path
    mask: Path
    stamp: tuple[int, ...]

    @classmethod
    def of(cls, id_: str, image: Path, mask: Path) -> Self:
        """With sizes and times as they are now. Raises OSError."""
        first, second = image.stat(), mask.stat()
        return cls(id_, image, mask, (first.st_size, second.st_size, first.st_mtime_ns, second.st_mtime_ns))


class FileSplit(Split):
    """Image and mask files. Each access opens, checks and closes both, and raises DataError naming the file and the rule it breaks."""

    def __init__(self, name: str, pairs: Sequence[Pair], num_classes: int, relabel: tuple[int, ...] | None = None) -> None:
        self.name = name
        self.pairs = tuple(pairs)
        self.ids = tuple(pair.id for pair in self.pairs)
        self.num_classes = num_classes
        self.relabel = relabel

    @property
    def key(self) -> str:
        files = [[str(pair.image), str(pair.mask), list(pair.stamp)] for pair in self.pairs]
        return digest(["files", files, self.num_classes, self.relabel], 32)

    def read(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        table = None if self.relabel is None else np.asarray(self.relabel, dtype=np.uint8)
        mask = read_mask(pair.mask, self.num_classes, table)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.image}: image is {image.shape[0]}x{image.shape[1]} (height x width), its mask {pair.mask} "
                f"{mask.shape[0]}x{mask.shape[1]}; the two must be of one size"
            )
        return Sample(image, mask)

    def subset(self, indices: Sequence[int], name: str) -> FileSplit:
        return FileSplit(name, [self.pairs[index] for index in indices], self.num_classes, self.relabel)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Classes and splits. Made by :func:`nasseg.data.layouts.open_data`.

    ``spec`` is the canonical string that opens it again. ``fingerprint`` (12 hex digits) follows the content, not the place: class
    names, relabelling, and of every split the ids and file sizes; a copy in another folder has the same. ``classes_from`` says where
    the classes are known from.
    """

    ignore_index: ClassVar[int] = IGNORE

    name: str
    spec: str
    classes: tuple[str, ...]
    palette: Palette
    splits: Mapping[str, Split]
    fingerprint: str
    classes_from: str

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> Split:
        """A split by name; DataError with the names there are."""
        if name not in self.splits:
            raise DataError(f"{self.spec}: no split {name!r}; there are {', '.join(self.splits)}")
        return self.splits[name]

    def probe(self, most: int = 500) -> None:
        """Read up to ``most`` images of each split, spread evenly over it: DataError for the first that cannot be used.

        For whoever is about to start long work on the data; ``nasseg data check`` reads everything and finds all that is wrong.
        """
        for split in self.splits.values():
            step = max(1, -(-len(split) // most))
            for index in range(0, len(split), step):
                split[index]
