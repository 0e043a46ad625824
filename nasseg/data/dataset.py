"""What training sees of data: a :class:`DataSet` of named :class:`Split`s, each a sequence of (image, mask)."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from nasseg.data.colours import ColourTable
from nasseg.data.images import IGNORE, Source, UInt8, read_image, read_mask, unreadable
from nasseg.data.palette import Palette
from nasseg.errors import DataError
from nasseg.files import digest

Order = NDArray[np.int64]

ORDER_STREAM = 0
"""Which of a seed's streams of random numbers the order of samples is drawn from."""


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

    def mask(self, index: int) -> UInt8:
        """The mask of sample ``index`` alone; where images are files, the image is not decoded for it."""
        return self[index].mask

    def order(self, seed: int, number: int) -> Order:
        """Training's order in pass ``number``: a permutation of 0…len−1, a function of (seed, number) and the split alone."""
        return np.random.default_rng([seed, ORDER_STREAM, number]).permutation(len(self))

    def spread(self, most: int) -> Sequence[int]:
        """Up to ``most`` indices, from all over the split, that are cheap to read."""
        return range(0, len(self), max(1, -(-len(self) // most)))

    def encoded(self, index: int) -> bytes:
        """The image of sample ``index`` as the content of an image file: the file itself where there is one, else a PNG."""
        buffer = io.BytesIO()
        Image.fromarray(self.read(index).image).save(buffer, "PNG")
        return buffer.getvalue()

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
    image: Source
    mask: Source
    stamp: tuple[int, ...]

    @classmethod
    def of(cls, id_: str, image: Source, mask: Source) -> Self:
        """With sizes and times as they are now. Raises OSError."""
        first, second = image.stat(), mask.stat()
        return cls(id_, image, mask, (first.st_size, second.st_size, first.st_mtime_ns, second.st_mtime_ns))


class FileSplit(Split):
    """Image and mask files. Each access opens, checks and closes both, and raises DataError naming the file and the rule it breaks.

    Masks in colours become numbers by ``colours``; ``relabel`` then says the class of each number.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[Pair],
        num_classes: int,
        relabel: tuple[int, ...] | None = None,
        colours: ColourTable | None = None,
    ) -> None:
        self.name = name
        self.pairs = tuple(pairs)
        self.ids = tuple(pair.id for pair in self.pairs)
        self.num_classes = num_classes
        self.relabel = relabel
        self.colours = colours

    @property
    @override
    def key(self) -> str:
        files = [[str(pair.image), str(pair.mask), list(pair.stamp)] for pair in self.pairs]
        colours = [] if self.colours is None else [sorted(self.colours.numbers.items())]
        return digest(["files", files, self.num_classes, self.relabel, *colours], 32)

    @override
    def mask(self, index: int) -> UInt8:
        table = None if self.relabel is None else np.asarray(self.relabel, dtype=np.uint8)
        return read_mask(self.pairs[index].mask, self.num_classes, table, self.colours)

    @override
    def read(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        mask = self.mask(index)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.image}: image is {image.shape[0]}x{image.shape[1]} (height x width), its mask {pair.mask} "
                f"{mask.shape[0]}x{mask.shape[1]}; the two must be of one size"
            )
        return Sample(image, mask)

    @override
    def encoded(self, index: int) -> bytes:
        file = self.pairs[index].image
        try:
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: {unreadable(error)}; replace the file or take it out of the data set") from error

    @override
    def subset(self, indices: Sequence[int], name: str) -> FileSplit:
        return FileSplit(name, [self.pairs[index] for index in indices], self.num_classes, self.relabel, self.colours)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Classes and splits. Made by :func:`nasseg.data.layouts.open_data`.

    ``spec`` is the canonical string that opens it again. ``fingerprint`` (12 hex digits) follows the content, not the place: class
    names, relabelling, and of every split the ids and file sizes; a copy in another folder has the same. ``classes_from`` says where
    the classes are known from. ``original_labels`` is the label the set's own masks and servers have for each class, where that is
    another than its number here (ADE20K's 1…150, Cityscapes' 7, 8, 11 …).
    """

    ignore_index: ClassVar[int] = IGNORE

    name: str
    spec: str
    classes: tuple[str, ...]
    palette: Palette
    splits: Mapping[str, Split]
    fingerprint: str
    classes_from: str
    original_labels: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are, the ignored label not counted."""
        return len(self.classes)

    def split(self, name: str) -> Split:
        """A split by name; DataError with the names there are."""
        if name not in self.splits:
            raise DataError(f"{self.spec}: no split {name!r}; there are {', '.join(self.splits)}")
        return self.splits[name]

    def beside_val(self, test: bool = False) -> tuple[str, ...]:
        """The splits measured beside ``val``, their numbers named ``miou_SPLIT``: all but ``train``, and ``test`` only if asked for."""
        return tuple(name for name in self.splits if name not in ("train", "val") and (name != "test" or test))

    def probe(self, most: int = 500) -> None:
        """Read up to ``most`` images of each split, spread evenly over it: DataError for the first that cannot be used.

        For whoever is about to start long work on the data; ``nasseg data check`` reads everything and finds all that is wrong.
        """
        for split in self.splits.values():
            for index in split.spread(most):
                split[index]
