"""A configuration's augmentation reaches the batches, and what is left off changes none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kits_trainer import tiny_trial

from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError
from nasseg.training.augment import train_sampler, train_transform
from nasseg.training.config import TrainingConfig
from nasseg.training.job import Job

DATA = "synthetic:streets?seed=0&size=64x96&train=12&val=2"


def transform_of(**settings: Any) -> Any:
    return train_transform(TrainingConfig.parse(settings), (32, 32), 1.0, open_data(DATA), (0.5,) * 3, (0.25,) * 3)


def test_settings_become_the_transform() -> None:
    plain = transform_of()
    assert (plain.distort, plain.crops, plain.scale, plain.color) == (False, None, (0.5, 2.0), 0.4)
    full = transform_of(distort=True, cat_max_ratio=0.75, rare_crops=0.25, scale_low=1.0)
    assert (full.distort, full.crops.cat_max_ratio, full.crops.rare, full.scale) == (True, 0.75, 0.25, (1.0, 2.0))
    data = open_data(DATA)
    pixels = sum(np.bincount(mask.ravel(), minlength=256)[: data.num_classes] for _, mask in data.split("train"))
    assert full.crops.rarity == pytest.approx([pixels.sum() / count if count else 0.0 for count in pixels])


def test_settings_become_the_sampler() -> None:
    data = open_data(DATA)
    assert train_sampler(TrainingConfig.parse({}), data) is None
    sampler = train_sampler(TrainingConfig.parse({"balance": 0.25}), data)
    assert sampler is not None
    assert (sampler.share, len(sampler.order(0, 0))) == (0.25, 12)


def batches(**settings: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    config = TrainingConfig.parse({"iterations": 3, "batch_size": 4, "device": "cpu", **settings})
    return list(Job.open(tiny_trial(data=DATA), config).batches(0))


def test_they_reach_a_job() -> None:
    plain = batches()
    for (x, y), (same_x, same_y) in zip(plain, batches(), strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)
    distorted = batches(distort=True)
    assert all(torch.equal(y, other) for (_, y), (_, other) in zip(plain, distorted, strict=True))
    assert not any(torch.equal(x, other) for (x, _), (other, _) in zip(plain, distorted, strict=True))
    for settings in ({"cat_max_ratio": 0.3}, {"rare_crops": 1.0}, {"balance": 1.0}):
        changed = batches(**settings)
        assert any(not torch.equal(y, other) for (_, y), (_, other) in zip(plain, changed, strict=True))
        for (x, y), (same_x, same_y) in zip(changed, batches(**settings), strict=True):
            assert torch.equal(x, same_x)
            assert torch.equal(y, same_y)


@pytest.mark.parametrize("key", ["cat_max_ratio", "rare_crops", "balance"])
def test_shares_are_bounded(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: must be a number (from|above) 0 to 1"):
        TrainingConfig.parse({key: 1.5})
