"""Batches. Training batch k is a function of (split, transform, batch size, seed, k): workers, caches and resumes do not change it.

Order: the samples' stream is one shuffled pass over the split after another, each permutation drawn from (seed, pass); batch k holds
the stream's positions k·B … k·B + B − 1, so every image is seen once a pass and a batch may reach from one pass into the next. The
augmentation of a position is drawn from (seed, position).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nasseg.data.dataset import Sample, Split
from nasseg.data.images import UInt8
from nasseg.errors import ConfigError, DataError, Problem

TrainFunction = Callable[[UInt8, UInt8, int], tuple[Tensor, Tensor]]
EvalFunction = Callable[[UInt8], Tensor]
EvalBatch = tuple[Tensor, list[UInt8], list[str]]

_ORDER, _AUGMENT, _WORKERS = 0, 1, 2  # streams of one seed


class CachedSplit(Split):
    """A split that keeps each decoded sample (uint8) in memory after its first access."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.name = split.name
        self.ids = split.ids
        self._samples: dict[int, Sample] = {}

    @property
    def key(self) -> str:
        return self.split.key

    def read(self, index: int) -> Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples[index] = self.split.read(index)
        return sample

    def fill(self) -> CachedSplit:
        """Read everything now: worker processes started by fork then share the memory."""
        for index in range(len(self)):
            self.read(index)
        return self

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

    def __init__(self, split: Split, transform: TrainFunction, seed: int) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self._pass = -1
        self._order: np.ndarray[tuple[int], np.dtype[np.int64]] = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """Which sample of the split stands at a position."""
        number, offset = divmod(position, len(self.split))
        if number != self._pass:
            self._order = np.random.default_rng([self.seed, _ORDER, number]).permutation(len(self.split))
            self._pass = number
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
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``start`` … ``iterations − 1``: x float32 (B, 3, H, W), y int64 (B, H, W).

    ``workers`` processes decode and transform (0: this one; never more than this process has cores, which changes no batch). ``cache``
    keeps the decoded images in memory (:func:`cached`). Raises ConfigError for numbers out of range, DataError for what the split
    cannot read, also out of a worker.
    """
    problems = _problems(split, batch_size, workers) + [
        Problem("loader", name, "a whole number from 0 up", given, 0)
        for name, given in (("start", start), ("iterations", iterations), ("seed", seed))
        if given < 0
    ]
    if problems:
        raise ConfigError(problems)
    source = _source(split, workers, cache)
    return _train_batches(
        TrainStream(source, transform, seed), range(start * batch_size, iterations * batch_size), batch_size, workers, pin_memory
    )


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


def _train_batches(
    stream: TrainStream, positions: range, batch_size: int, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in DataLoader(stream, batch_size, sampler=positions, collate_fn=_collate_train, **_options(workers, pin_memory, stream.seed)):
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


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
