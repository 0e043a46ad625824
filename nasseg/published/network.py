"""A published network: a folder of ``save_pretrained`` or one file, as a genotype, weights of ours, and what it says of itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from nasseg.data.palette import Colour
from nasseg.errors import WeightsError
from nasseg.genes.genotype import Genotype
from nasseg.models.backbones.registry import describe_backbone
from nasseg.models.checkpoint_file import ENDINGS, read_checkpoint
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.models.segmenter import SegModel, build
from nasseg.published.description import Description, Size, classes_of, same_names
from nasseg.published.hugging_face import CONFIG, describe_folder
from nasseg.published.openmmlab import describe_openmmlab
from nasseg.published.recognise import recognise

FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the weights of a folder are called, in the order they are looked for."""
CLOSE = 1e-6
"""Means and deviations nearer than this to the encoder's own are those."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Made by :meth:`open`. ``kind`` says whose form it is; ``tensors`` fill the network of ``genotype``; ``description`` is what the file
    or the folder says beside them; ``remarks`` are sentences on what a user should know of this reading."""

    path: Path
    kind: str
    genotype: Genotype
    num_classes: int
    in_chans: int
    tensors: Mapping[str, Tensor]
    description: Description
    pad_multiple: int
    remarks: tuple[str, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a published network. Raises :class:`WeightsError` for what cannot be read or recognised."""
        given = Path(path)
        file = weights_file(given)
        content = read_checkpoint(file)
        description = describe_folder(file.parent) if (file.parent / CONFIG).is_file() and file.name in FOLDER_WEIGHTS else None
        description = description or describe_openmmlab(content.beside)
        found = recognise(content.tensors, description, str(path))
        if description.align_corners:
            raise WeightsError(f"{path}: its head resizes with align_corners=True; nasseg's resize with corners not aligned")
        pad_multiple = description.pad_multiple or found.form.pad_multiple
        if pad_multiple != 1 and pad_multiple % PAD_MULTIPLE:
            raise WeightsError(
                f"{path}: it pads images to multiples of {pad_multiple}; nasseg's networks to none or multiples of {PAD_MULTIPLE}"
            )
        tensors = dict(found.tensors)
        spec = describe_backbone(str(found.genotype.backbone), found.in_chans)
        genotype = _with_statistics(found.genotype, description, spec.mean, spec.std)
        remarks = [found.form.remark] if found.form.remark else []
        if description.bgr:
            for key in found.input_convs:
                tensors[key] = tensors[key].flip(1)
            remarks.append("it was trained on BGR images; its first convolution is turned round, so that it takes RGB")
        if description.mean is None:
            remarks.append("it does not say how images were normalised; ImageNet's mean and deviation are taken")
        if description.reduce_zero_label:
            remarks.append(
                "it was trained with reduce_zero_label: its masks count classes from 1 and 0 is ignored; ade20k:PATH reads them so, and "
                "?relabel=reduce_zero"
            )
        if found.dropped:
            remarks.append(f"{len(found.dropped)} tensors that the network never uses are left out, such as {found.dropped[0]}")
        return cls(
            path=given,
            kind=found.form.name,
            genotype=genotype,
            num_classes=found.num_classes,
            in_chans=found.in_chans,
            tensors=tensors,
            description=description,
            pad_multiple=pad_multiple,
            remarks=tuple(remarks),
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None where the network has none."""
        return classes_of(self.description, self.num_classes)[0]

    @property
    def palette(self) -> tuple[Colour, ...]:
        """A colour for each class: its own, its data set's, or ours."""
        return classes_of(self.description, self.num_classes)[1]

    @property
    def has_colours(self) -> bool:
        """Whether the network says its colours."""
        return self.description.palette is not None and len(self.description.palette) == self.num_classes

    @property
    def size(self) -> Size | None:
        """(height, width) it was trained at, or its published preprocessing resizes to; None where it does not say."""
        return self.description.size

    @property
    def protocol(self) -> Mapping[str, Any] | None:
        """How it was measured, as fields of :class:`nasseg.training.protocol.Protocol`; None where it does not say."""
        return self.description.protocol

    def model(self) -> SegModel:
        """The network in eval mode on the CPU, logits as the original's."""
        model = build(self.genotype, self.num_classes, in_chans=self.in_chans, pad_multiple=self.pad_multiple)
        model.load_state_dict(dict(self.tensors))
        return model.eval()

    def begin(self, model: SegModel, classes: Sequence[str]) -> None:
        """Fill ``model``, a network of the same genotype for ``classes``, with these weights; see :meth:`keeps_classifier`."""
        kept = self.keeps_classifier(classes)
        given = {key: value for key, value in self.tensors.items() if kept or not key.startswith("decoder.fusion.classifier.")}
        model.load_state_dict({**model.state_dict(), **given})

    def keeps_classifier(self, classes: Sequence[str]) -> bool:
        """Whether a fine-tuning on ``classes`` keeps the classifier: where they are its own, or where nobody knows those and there are as
        many. Else a new one is trained."""
        return len(classes) == self.num_classes and (self.classes is None or same_names(self.classes, classes))

    def beginning(self, classes: Sequence[str]) -> str:
        """What of the weights a fine-tuning on ``classes`` begins with, in one line."""
        if self.keeps_classifier(classes):
            return f"begins with all weights of {self.path}, the classifier of {self.num_classes} classes included"
        why = f"{self.num_classes} classes there, {len(classes)} here"
        if len(classes) == self.num_classes:
            why = f"both have {len(classes)} classes, but of other names"
        return f"begins with the weights of {self.path}, but for the classifier, which is new: {why}"


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether something looks like a published network: a weights file, or a folder with ``config.json`` and weights beside it."""
    given = Path(path)
    if given.is_dir():
        return (given / CONFIG).is_file() and any((given / name).is_file() for name in FOLDER_WEIGHTS)
    return given.suffix in ENDINGS and given.is_file()


def weights_file(path: Path) -> Path:
    """The file with the weights: ``path`` itself, or the one in a folder. Raises :class:`WeightsError` for a folder without."""
    if not path.is_dir():
        return path
    folder = path
    found = next((folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()), None)
    if found is None or not (folder / CONFIG).is_file():
        raise WeightsError(f"{folder}: a published network's folder holds {CONFIG} and {' or '.join(FOLDER_WEIGHTS)}")
    return found


def file_digest(path: Path) -> str:
    """12 hex digits of the SHA-256 of a file's content. Raises :class:`WeightsError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def _with_statistics(genotype: Genotype, description: Description, mean: Sequence[float], std: Sequence[float]) -> Genotype:
    """The genotype with the network's own mean and deviation as arguments of its backbone, where they differ from the encoder's."""
    added = []
    for name, given, own in (("mean", description.mean, mean), ("std", description.std, std)):
        if given is not None and (len(given) != len(own) or any(abs(a - b) > CLOSE for a, b in zip(given, own, strict=False))):
            added.append(f"{name}={','.join(repr(value) for value in given)}")
    if not added:
        return genotype
    backbone = str(genotype.backbone)
    return genotype.on(f"{backbone}{'&' if '?' in backbone else '?'}{'&'.join(added)}")
