"""Batches. Training batch k is a function of (split, transform, batch size, seed, k): workers, caches and resumes do not change it.

Order: the samples' stream is one shuffled pass over the split after another, each drawn from (seed, pass) by the split's ``order``; batch k
holds the stream's positions k·B … k·B + B − 1, so every image is seen once a pass and a batch may reach from one pass into the next. The
augmentation of a position is drawn from (seed, position).

Ranks: B is the batch of all ranks together. Of R ranks with b = B/R samples each, rank r has positions k·B + r·b … k·B + r·b + b − 1, so
the same B gives the same images with the same augmentation on any number of ranks, and a run may go on with another number of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from nasseg.cores import usable_cores
from nasseg.data.dataset import Order, Sample, Split
from nasseg.data.images import UInt8
from nasseg.errors import ConfigError, DataError, Problem

TrainFunction = Callable[[UInt8, UInt8, int], tuple[Tensor, Tensor]]
EvalFunction = Callable[[UInt8], Tensor]
EvalBatch = tuple[Tensor, list[UInt8], list[str]]

_AUGMENT, _WORKERS = 1, 2  # streams of one seed; 0 is dataset.ORDER_STREAM


class Sampler(Protocol):
    """Decides which samples training sees, in place of the split's own shuffled passes."""

    def order(self, seed: int, number: int) -> Order:
        """``len(split)`` indices of the split, some perhaps more than once: pass ``number``, a function of (seed, number)."""


class CachedSplit(Split):
    """A split that keeps each decoded sample (uint8) in memory after its first access."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name = split.name
        self.ids = split.ids
        self._samples: dict[int, Sample] = {}

    @property
    @override
    def key(self) -> str:
        return self.split.key

    @override
    def read(self, index: int) -> Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples[index] = self.split.read(index)
        return sample

    @override
    def order(self, seed: int, number: int) -> Order:
        return self.split.order(seed, number)

    @override
    def spread(self, most: int) -> Sequence[int]:
        return self.split.spread(most)

    @override
    def encoded(self, index: int) -> bytes:
        return self.split.encoded(index)

    def fill(self) -> CachedSplit:
        """Read everything now: worker processes started by fork then share the memory."""
        for index in range(len(self)):
            self.read(index)
        return self

    @override
    def subset(self, indices: Sequence[int], name: str) -> Split:
        return self.split.subset(indices, name)


_kept: OrderedDict[str, CachedSplit] = OrderedDict()
_MOST_KEPT = 4  # train, val, holdout, test of one data set


def cached(split: Split) -> CachedSplit:
    """The split with its samples kept in memory, one object for equal content: trials one after another in a process decode once.

    The four splits used last stay in memory; :func:`forget_cached` lets go of them.
    """
    if isinstance(split, CachedSplit):
        return split
    key = split.key
    found = _kept.pop(key, None)
    if found is None or found.ids != split.ids or found.name != split.name:
        found = CachedSplit(split)
    _kept[key] = found
    while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return found


def forget_cached() -> None:
    """Give the memory of :func:`cached` back."""
    _kept.clear()


class TrainStream(Dataset[tuple[Tensor, Tensor] | DataError]):
    """The endless stream of augmented samples, by position.

    A DataError is handed over, not raised: DataLoader would wrap one raised in a worker in the worker's traceback.
    """

    def __init__(self, split: Split, transform: TrainFunction, seed: int, sampler: Sampler | None = None) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.sampler: Sampler = split if sampler is None else sampler
        self._pass = -1
        self._order: Order = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """Which sample of the split stands at a position."""
        number, offset = divmod(position, len(self.split))
        if number != self._pass:
            order = self.sampler.order(self.seed, number)
            if len(order) != len(self.split):
                raise DataError(
                    f"{type(self.sampler).__name__}: order gives {len(order)} indices a pass; it must give as many as split "
                    f"{self.split.name} has samples, {len(self.split)}"
                )
            self._order, self._pass = order, number
        return int(self._order[offset])

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor] | DataError:
        try:
            image, mask = self.split[self.index(position)]
        except DataError as error:
            return error
        seed = int(np.random.SeedSequence([self.seed, _AUGMENT, position]).generate_state(1, np.uint64)[0])
        return self.transform(image, mask, seed)


class EvalSamples(Dataset[tuple[Tensor, UInt8, str] | DataError]):
    """Every sample of a split in its order: transformed image, mask as it is, id."""

    def __init__(self, split: Split, transform: EvalFunction) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, UInt8, str] | DataError:
        try:
            image, mask = self.split[index]
        except DataError as error:
            return error
        return self.transform(image), mask, self.split.ids[index]


@dataclass(frozen=True, slots=True)
class Positions:
    """The stream's positions that one rank takes, a list for each of its batches ``start`` … ``stop − 1``."""

    batch_size: int
    start: int
    stop: int
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.start, self.stop):
            first = (number * self.ranks + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)


def train_batches(
    split: Split,
    transform: TrainFunction,
    *,
    batch_size: int,
    iterations: int,
    start: int = 0,
    seed: int = 0,
    workers: int = 0,
    cache: bool = False,
    pin_memory: bool = False,
    rank: int = 0,
    ranks: int = 1,
    sampler: Sampler | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``start`` … ``iterations − 1``: x float32 (B, 3, H, W), y int64 (B, H, W) with B = ``batch_size``.

    Of ``ranks`` processes that train together this is number ``rank``, and ``batch_size`` is its share: ``start`` and ``iterations`` count
    batches of all ranks together. ``sampler`` chooses the samples in place of ``split.order``. ``workers`` processes decode and transform
    (0: this one; never more than this process has cores, which changes no batch). ``cache`` keeps the decoded images in memory
    (:func:`cached`). Raises ConfigError for numbers out of range, DataError for what the split cannot read, also out of a worker.
    """
    problems = _problems(split, batch_size, workers) + [
        Problem("loader", name, "a whole number from 0 up", given, 0)
        for name, given in (("start", start), ("iterations", iterations), ("seed", seed))
        if given < 0
    ]
    if ranks < 1:
        problems.append(Problem("loader", "ranks", "a whole number from 1 up", ranks, 1))
    elif not 0 <= rank < ranks:
        problems.append(Problem("loader", "rank", f"a whole number from 0 to {ranks - 1}, one less than ranks", rank, 0))
    if problems:
        raise ConfigError(problems)
    stream = TrainStream(_source(split, workers, cache), transform, seed, sampler)
    return _train_batches(stream, Positions(batch_size, start, iterations, rank, ranks), workers, pin_memory)


def eval_batches(
    split: Split,
    transform: EvalFunction,
    batch_size: int,
    workers: int = 0,
    cache: bool = False,
    pin_memory: bool = False,
) -> Iterator[EvalBatch]:
    """The whole split once, in order: (x_BCHW, [mask uint8 (H_i, W_i) as stored], [id]); the last batch may be smaller."""
    problems = _problems(split, batch_size, workers)
    if problems:
        raise ConfigError(problems)
    samples = EvalSamples(_source(split, workers, cache), transform)
    return _eval_batches(samples, batch_size, workers, pin_memory)


def _train_batches(stream: TrainStream, positions: Positions, workers: int, pin_memory: bool) -> Iterator[tuple[Tensor, Tensor]]:
    options = _options(workers, pin_memory, stream.seed)
    for batch in DataLoader(stream, batch_sampler=positions, collate_fn=_collate_train, **options):
        if isinstance(batch, DataError):
            raise batch
        x_BCHW, y_BHW = batch
        yield x_BCHW, y_BHW


def _eval_batches(samples: EvalSamples, batch_size: int, workers: int, pin_memory: bool) -> Iterator[EvalBatch]:
    for batch in DataLoader(samples, batch_size, collate_fn=_collate_eval, **_options(workers, pin_memory, 0)):
        if isinstance(batch, DataError):
            raise batch
        x_BCHW, masks, ids = batch
        yield x_BCHW, masks, ids


def _collate_train(items: list[tuple[Tensor, Tensor] | DataError]) -> tuple[Tensor, Tensor] | DataError:
    good = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return torch.stack([x for x, _ in good]), torch.stack([y for _, y in good])


def _collate_eval(items: list[tuple[Tensor, UInt8, str] | DataError]) -> EvalBatch | DataError:
    good = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return torch.stack([x for x, _, _ in good]), [mask for _, mask, _ in good], [id_ for _, _, id_ in good]


def _options(workers: int, pin_memory: bool, seed: int) -> dict[str, Any]:
    """With a generator of our own: DataLoader would draw workers' seeds from torch's global one, and a resumed run would differ."""
    state = int(np.random.SeedSequence([seed, _WORKERS]).generate_state(1)[0])
    return {
        "num_workers": min(workers, usable_cores()),
        "pin_memory": pin_memory,
        "generator": torch.Generator().manual_seed(state),
    }


def _source(split: Split, workers: int, cache: bool) -> Split:
    if not cache:
        return split
    kept = cached(split)
    return kept.fill() if workers else kept


def _problems(split: Split, batch_size: int, workers: int) -> list[Problem]:
    if not len(split):
        raise DataError(f"split {split.name} is empty")
    problems = []
    if batch_size < 1:
        problems.append(Problem("loader", "batch_size", "a whole number from 1 up", batch_size, 1))
    if workers < 0:
        problems.append(Problem("loader", "workers", "a whole number from 0 up", workers, 0))
    return problems
