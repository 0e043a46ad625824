"""Batch k is a function of the seed and k: workers, caches and resumes change nothing."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kits_data import save, write_tree
from PIL import Image

from nasseg.cores import usable_cores
from nasseg.data import loader
from nasseg.data.dataset import Split
from nasseg.data.layouts import open_data
from nasseg.data.loader import Positions, TrainStream, cached, eval_batches, forget_cached, train_batches
from nasseg.data.transforms import EvalTransform, TrainTransform
from nasseg.errors import ConfigError, DataError

NORM = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
TRAIN = TrainTransform((16, 16), **NORM)
EVAL = EvalTransform((16, 16), **NORM)

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def split() -> Split:
    return open_data("synthetic:streets?train=7&val=5&size=32x32").splits["train"]


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    forget_cached()
    yield
    forget_cached()


def collect(split: Split, **options: int) -> Batches:
    return list(train_batches(split, TRAIN, **{"batch_size": 3, "iterations": 6, "seed": 5, **options}))


def assert_same(first: Batches, second: Batches) -> None:
    assert len(first) == len(second)
    for (x, y), (p, q) in zip(first, second, strict=True):
        assert torch.equal(x, p)
        assert torch.equal(y, q)


def test_shapes(split: Split) -> None:
    batches = collect(split)
    assert len(batches) == 6
    for x, y in batches:
        assert (x.shape, x.dtype) == ((3, 3, 16, 16), torch.float32)
        assert (y.shape, y.dtype) == ((3, 16, 16), torch.int64)


def test_resume_is_the_same(split: Split) -> None:
    whole = collect(split)
    assert_same(whole, collect(split))
    assert_same(whole[4:], collect(split, start=4))
    assert collect(split, start=6) == []


def test_workers_change_nothing(split: Split) -> None:
    whole = collect(split)
    assert_same(whole, collect(split, workers=1))
    assert_same(whole[2:], collect(split, workers=2, start=2, cache=True))


def test_cache_changes_nothing(split: Split) -> None:
    whole = collect(split)
    assert_same(whole, collect(split, cache=True))
    assert_same(whole, collect(split, cache=True))


def test_seed_changes_everything(split: Split) -> None:
    assert not torch.equal(collect(split)[0][0], collect(split, seed=6)[0][0])


def test_global_generators_are_left_alone(split: Split) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    first = collect(split, workers=1)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(4)
    assert_same(first, collect(split))


def test_every_image_once_a_pass(split: Split) -> None:
    stream = TrainStream(split, TRAIN, seed=1)
    passes = [[stream.index(7 * number + k) for k in range(7)] for number in range(4)]
    for order in passes:
        assert sorted(order) == list(range(7))
    assert len({tuple(order) for order in passes}) > 1
    assert stream.index(3) == passes[0][3]  # back again


def test_augmentation_differs_between_passes(split: Split) -> None:
    stream = TrainStream(split, TRAIN, seed=1)
    twice = [position for position in range(14) if stream.index(position) == 0]
    first, second = (stream[position][0] for position in twice)
    assert not torch.equal(first, second)


def test_batch_larger_than_the_split(split: Split) -> None:
    (x, _), *_ = collect(split, batch_size=16, iterations=1)
    assert x.shape[0] == 16


def test_evaluation_goes_through_once_in_order() -> None:
    split = open_data("synthetic:streets?train=1&val=5&size=32x48").splits["val"]
    for workers in (0, 2):
        batches = list(eval_batches(split, EVAL, 2, workers=workers))
        assert [x.shape for x, _, _ in batches] == [(2, 3, 16, 16), (2, 3, 16, 16), (1, 3, 16, 16)]
        assert [id_ for _, _, ids in batches for id_ in ids] == list(split.ids)
        masks = [mask for _, masks, _ in batches for mask in masks]
        for index, mask in enumerate(masks):
            np.testing.assert_array_equal(mask, split[index].mask)
            torch.testing.assert_close(batches[index // 2][0][index % 2], EVAL(split[index].image))


def test_evaluation_of_masks_of_many_sizes(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for folder, pixels in (("images", np.zeros((9, 5, 3), np.uint8)), ("masks", np.zeros((9, 5), np.uint8))):
        save(root / f"val/{folder}/v_2.png", pixels)
    (_, masks, _), *rest = eval_batches(open_data(str(root)).splits["val"], EVAL, 4)
    assert [mask.shape for mask in masks] == [(6, 8), (9, 5)]
    assert rest == []


@pytest.mark.parametrize("workers", [0, 1])
def test_data_errors_keep_their_sentence(tmp_path: Path, workers: int) -> None:
    root = write_tree(tmp_path)
    opened = open_data(str(root)).splits
    for split in ("train", "val"):
        for file in (root / split / "images").rglob("*.png"):
            file.write_bytes(b"broken")
    sentence = r"^\S+\.png: not an image Pillow can read; replace the file or take it out of the data set$"
    with pytest.raises(DataError, match=sentence):
        list(train_batches(opened["train"], TRAIN, batch_size=2, iterations=1, workers=workers))
    with pytest.raises(DataError, match=sentence):
        list(eval_batches(opened["val"], EVAL, 2, workers=workers))


class Counting(Split):
    """Counts how often each sample is read."""

    def __init__(self, inner: Split) -> None:
        self.inner, self.name, self.ids, self.reads = inner, inner.name, inner.ids, Counter[int]()

    @property
    def key(self) -> str:
        return f"counting {self.inner.key}"

    def read(self, index: int):
        self.reads[index] += 1
        return self.inner.read(index)

    def subset(self, indices, name: str) -> Split:
        return self.inner.subset(indices, name)


def test_cache_reads_once_for_runs_that_follow_each_other(split: Split) -> None:
    counting = Counting(split)
    collect(counting, cache=True)
    collect(counting, cache=True, seed=9)
    assert counting.reads == dict.fromkeys(range(7), 1)
    collect(counting)
    assert sum(counting.reads.values()) == 7 + 18


def test_cache_is_one_object_by_content(split: Split) -> None:
    first = cached(split)
    assert cached(open_data("synthetic:streets?train=7&size=32x32").splits["train"]) is first
    assert cached(first) is first
    assert first.fill().key == split.key
    assert cached(split.subset([1, 2], "part")) is not first
    assert first.subset([1, 2], "part").ids == split.ids[1:3]


def test_cache_lets_go_of_the_oldest(split: Split) -> None:
    first = cached(split)
    for count in range(1, 1 + loader._MOST_KEPT):
        cached(split.subset(range(count), "part"))
    assert cached(split) is not first


def test_workers_are_no_more_than_cores(split: Split) -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert_same(collect(split, iterations=1), collect(split, iterations=1, workers=usable_cores() + 7))  # no warning


def test_left_early(split: Split) -> None:
    batches = train_batches(split, TRAIN, batch_size=2, iterations=50, workers=1)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_together_see_what_one_sees(split: Split, workers: int, start: int) -> None:
    whole = collect(split, batch_size=4, start=start)
    parts = [collect(split, batch_size=2, start=start, workers=workers, rank=rank, ranks=2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [6 - start] * 2
    joined = [(torch.cat([x, p]), torch.cat([y, q])) for (x, y), (p, q) in zip(*parts, strict=True)]
    assert_same(whole, joined)


def test_resume_on_another_number_of_ranks(split: Split) -> None:
    whole = collect(split, batch_size=4)
    for rank in range(4):
        later = collect(split, batch_size=1, rank=rank, ranks=4, start=2)
        assert_same([(x[rank : rank + 1], y[rank : rank + 1]) for x, y in whole[2:]], later)


def test_half_the_batch_twice_as_often(split: Split) -> None:
    whole = collect(split, batch_size=4)
    halves = collect(split, batch_size=2, start=4, iterations=12)
    assert_same(whole[2:], [(torch.cat([x, p]), torch.cat([y, q])) for (x, y), (p, q) in zip(halves[::2], halves[1::2], strict=True)])


def test_positions_of_a_rank() -> None:
    assert list(Positions(2, 3, 5, rank=1, ranks=3)) == [[20, 21], [26, 27]]
    assert len(Positions(2, 3, 5)) == 2
    assert len(Positions(2, 5, 3)) == len(list(Positions(2, 5, 3))) == 0


def test_order_does_not_change() -> None:
    split = open_data("synthetic:streets?train=7&size=32x32").splits["train"]
    assert split.order(5, 0).tolist() == [1, 4, 2, 3, 6, 5, 0]
    assert cached(split).order(5, 1).tolist() == split.order(5, 1).tolist() != split.order(5, 0).tolist()


class Backwards:
    """The last sample first; after the first pass, pass k is sample k alone."""

    def order(self, seed: int, number: int) -> np.ndarray:
        return np.full(7, number) if number else np.arange(7)[::-1]


class Short:
    def order(self, seed: int, number: int) -> np.ndarray:
        return np.arange(3)


def test_sampler_takes_the_splits_place(split: Split) -> None:
    stream = TrainStream(split, TRAIN, 5, Backwards())
    assert [stream.index(position) for position in range(9)] == [6, 5, 4, 3, 2, 1, 0, 1, 1]
    batches = list(train_batches(split, TRAIN, batch_size=3, iterations=3, seed=5, sampler=Backwards()))
    assert torch.equal(batches[1][0][0], stream[3][0])
    assert_same(batches, list(train_batches(split, TRAIN, batch_size=3, iterations=3, seed=5, sampler=Backwards(), workers=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_sampler_of_another_length(split: Split, workers: int) -> None:
    with pytest.raises(DataError, match="Short: order gives 3 indices a pass; it must give as many as split train has samples, 7"):
        next(train_batches(split, TRAIN, batch_size=3, iterations=3, sampler=Short(), workers=workers))


def test_a_spread_of_samples(split: Split) -> None:
    assert list(split.spread(3)) == [0, 3, 6]
    assert list(cached(split).spread(10)) == list(range(7))


def test_encoded_is_the_file_or_a_png(tmp_path: Path, split: Split) -> None:
    root = write_tree(tmp_path)
    train = open_data(str(root)).splits["train"]
    assert train.encoded(1) == (root / "train/images/a_2.png").read_bytes()
    with Image.open(io.BytesIO(cached(split).encoded(2))) as picture:
        np.testing.assert_array_equal(np.array(picture), split[2].image)
    (root / "train/images/a_2.png").unlink()
    with pytest.raises(DataError, match=r"a_2\.png: the file is gone"):
        train.encoded(1)


def test_ranks_out_of_range(split: Split) -> None:
    for rank in (-1, 2):
        with pytest.raises(ConfigError, match="loader: rank: a whole number from 0 to 1, one less than ranks"):
            collect(split, rank=rank, ranks=2)
    with pytest.raises(ConfigError, match="loader: ranks: a whole number from 1 up"):
        collect(split, ranks=0)


def test_refused_at_once(split: Split) -> None:
    with pytest.raises(ConfigError) as caught:
        train_batches(split, TRAIN, batch_size=0, iterations=-1, start=-2, seed=-3, workers=-4)
    text = str(caught.value)
    for name in ("batch_size", "iterations", "start", "seed", "workers"):
        assert f"loader: {name}: a whole number from" in text
    with pytest.raises(ConfigError, match="loader: batch_size: a whole number from 1 up"):
        eval_batches(split, EVAL, 0)
    with pytest.raises(DataError, match="split none is empty"):
        eval_batches(split.subset([], "none"), EVAL, 1)
