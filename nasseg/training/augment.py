"""A configuration's augmentation: the transform of a training sample, and which samples are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from nasseg.data.balance import Balanced
from nasseg.data.crops import Crops, inverse_frequency
from nasseg.data.dataset import DataSet
from nasseg.data.statistics import class_counts
from nasseg.data.transforms import Size, TrainTransform
from nasseg.training.config import TrainingConfig


def train_transform(
    config: TrainingConfig, crop: Size, zoom: float, data: DataSet, mean: Sequence[float], std: Sequence[float]
) -> TrainTransform:
    """The transform to crops of ``crop``; ``zoom`` is the factor on the random scale. ``rare_crops`` counts the classes of train first."""
    rarity: tuple[float, ...] = ()
    if config.rare_crops:
        rarity = inverse_frequency(class_counts(data.split("train"), data.num_classes).sum(axis=0, dtype="int64").tolist())
    again = config.cat_max_ratio < 1 or config.rare_crops > 0
    return TrainTransform(
        crop,
        scale=(config.scale_low * zoom, config.scale_high * zoom),
        flip=config.flip,
        color=config.color,
        distort=config.distort,
        crops=Crops(config.cat_max_ratio, config.rare_crops, rarity) if again else None,
        mean=mean,
        std=std,
    )


def train_sampler(config: TrainingConfig, data: DataSet) -> Balanced | None:
    """What draws the samples of train by the rarity of their classes; None where the split's own order is taken."""
    if not config.balance:
        return None
    train = data.split("train")
    return Balanced(train, class_counts(train, data.num_classes), config.balance)
