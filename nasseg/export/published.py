"""A published network as a bundle: what it says of pixels and classes, filled up with what a user gives beside it."""

from __future__ import annotations

import os
from pathlib import Path

from nasseg.data.classes import numbered
from nasseg.data.dataset import DataSet
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError, DataError, Problem
from nasseg.export.bundle import ESSENTIAL, FILES, IMAGES, Exported, Say, export_model, typical_size
from nasseg.export.card import Facts
from nasseg.export.place import check_target
from nasseg.export.predict import module_forward
from nasseg.export.preprocessing import Preprocessing
from nasseg.models.backbones.registry import describe_backbone
from nasseg.published.description import numbered as says_nothing
from nasseg.published.description import same_names
from nasseg.published.network import Published
from nasseg.training.protocol import Protocol
from nasseg.training.windows import Forward

Size = tuple[int, int]


def preprocessing_of(found: Published, *, data: DataSet | None = None, size: Size | None = None) -> Preprocessing:
    """What must be known to use a published network.

    ``size`` is asked for where the network says none. Names of classes are spelt as in ``data``, where that is given, else as its own, else
    they are numbers; colours are its own, else those of ``data``.
    Raises :class:`ConfigError` where there is no size, :class:`DataError` for data of other classes.
    """
    size = size or found.size
    if size is None:
        rule = "this network does not say the size that images enter at; give one"
        raise ConfigError(Problem(str(found.path), "--size", rule, None, "512x512"))
    names, palette = found.classes, found.palette
    if data is not None:
        check_classes(found, data)
        names = data.classes
        palette = palette if found.has_colours else data.palette
    spec = describe_backbone(str(found.genotype.backbone), found.in_chans)
    return Preprocessing(
        classes=names or numbered(found.num_classes, "").names,
        palette=palette,
        size=size,
        mean=spec.mean,
        std=spec.std,
        stride=found.genotype.fusion_stride,
        in_chans=found.in_chans,
        image_size=None if data is None else typical_size(data.split("val")),
        pad_multiple=found.pad_multiple,
        evaluation=protocol_of(found),
    )


def protocol_of(found: Published) -> Protocol | None:
    """How the network was measured; None where it does not say."""
    return None if found.protocol is None else Protocol(**found.protocol, pad_multiple=found.pad_multiple)


def check_classes(found: Published, data: DataSet) -> None:
    """Raise :class:`DataError` unless the network's classes are the data's: as many, and called the same where both have names."""
    if data.num_classes != found.num_classes:
        raise DataError(f"{data.spec}: has {data.num_classes} classes, {found.path} tells {found.num_classes} apart")
    own = found.classes
    if own is not None and not says_nothing(data.classes) and not same_names(own, data.classes):
        at = next(i for i, pair in enumerate(zip(own, data.classes, strict=True)) if not same_names(pair[:1], pair[1:]))
        raise DataError(f"{data.spec}: its class {at} is {data.classes[at]}, that of {found.path} is {own[at]}; they must agree in order")


def published_predictor(
    path: str | os.PathLike[str], *, data: DataSet | None = None, size: Size | None = None, device: str = "cpu"
) -> tuple[Forward, Preprocessing, tuple[str, ...]]:
    """A published network as a function from normalised images to logits (CPU tensors), what to feed it, and remarks on how it was read.

    ``data`` and ``size`` as in :func:`preprocessing_of`; raises what it raises, and :class:`WeightsError`.
    """
    found = Published.open(path)
    preprocessing = preprocessing_of(found, data=data, size=size)
    return module_forward(found.model(), device), preprocessing, found.remarks


def export_published(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | None = None,
    size: Size | None = None,
    images: int = IMAGES,
    force: bool = False,
    say: Say = lambda line: None,
) -> Exported:
    """Write the bundle of a published network: its weights and what it says of itself.

    ``data`` are images to compare mIoU on, and name the classes where the network does not; ``size`` is that of the exported files' input,
    where it is not to be the network's own. Raises what :func:`nasseg.export.bundle.export_model` raises, :class:`WeightsError` for a
    file that is no published network, and what :func:`preprocessing_of` raises.
    """
    check_target(Path(out), needed=ESSENTIAL, known=FILES, force=force)
    found = Published.open(path)
    opened = None if data is None else open_data(data)
    preprocessing = preprocessing_of(found, data=opened, size=size)
    for remark in found.remarks:
        say(f"{found.path}: {remark}")
    split = None if opened is None or images < 1 else opened.split("val")
    facts = Facts(origin=f"{found.kind}, read from `{found.path.name}`")
    return export_model(found.model(), out, preprocessing=preprocessing, facts=facts, split=split, images=images, force=force, say=say)
