"""Names and shapes to a genotype, and tensors under the names of the network that it builds. Two answers, or none, are an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasseg.errors import ConfigError, NassegError, WeightsError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models.backbones.checkpoint_names import rename
from nasseg.models.backbones.contract import Backbone
from nasseg.models.segmenter import SegModel, build
from nasseg.published.description import Description
from nasseg.published.encoder import Encoder, read_encoder
from nasseg.published.forms import FORMS, FUSION, Form

COUNTER = "num_batches_tracked"
"""Batches a BatchNorm has seen: in eval mode nothing reads it, and old files lack it."""


@dataclass(frozen=True)
class Recognised:
    """``tensors`` fill the network of ``genotype`` to the last one, ``input_convs`` among them see the image. ``dropped`` are keys of the
    file that the network never uses."""

    form: Form
    genotype: Genotype
    num_classes: int
    in_chans: int
    tensors: Mapping[str, Tensor]
    input_convs: tuple[str, ...]
    dropped: tuple[str, ...]


class _Unfit(Exception):
    """Why a file is not of a form, and how far from it (missing, unknown and reshaped tensors)."""

    def __init__(self, reason: str, distance: float) -> None:
        super().__init__(reason)
        self.distance = distance


def recognise(tensors: Mapping[str, Tensor], description: Description, where: str, forms: Sequence[Form] = FORMS) -> Recognised:
    """The one form whose names and shapes these are.

    Raises :class:`WeightsError` that names the nearest form and what differs from it where none fits, and both where two do.
    """
    found: list[Recognised] = []
    unfit: list[tuple[Form, _Unfit]] = []
    for form in forms:
        if not form.signs <= tensors.keys() or any(key in tensors for key in form.absent):
            continue
        try:
            found.append(_fit(form, tensors, description))
        except _Unfit as reason:
            unfit.append((form, reason))
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(one.form.name for one in found)
        raise WeightsError(f"{where}: its names and shapes fit {both}, which are different networks")
    if unfit:
        nearest, why = min(unfit, key=lambda pair: pair[1].distance)
        raise WeightsError(f"{where}: {nearest.name}, but {why}")
    raise WeightsError(f"{where}: {_unknown(tensors, forms)}")


def _unknown(tensors: Mapping[str, Tensor], forms: Sequence[Form]) -> str:
    """Of a file that bears the signs of no form: what it is instead, or what it lacks of the nearest."""
    for prefix in ("", *dict.fromkeys(form.encoder for form in forms)):
        alone = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        encoder = read_encoder(alone)
        if isinstance(encoder, Encoder) and len(alone) == len(tensors):
            name = encoder.name.partition("?")[0]
            return f"an encoder alone ({name}), not a whole network; as the weights of a backbone: --backbone {name} --weights FILE"
    near = max(forms, key=lambda form: len(form.signs & tensors.keys()) / len(form.signs))
    return (
        f"no published network that nasseg knows, with {len(tensors)} tensors such as {', '.join(list(tensors)[-3:])}; "
        f"nearest: {near.name}, which has {', '.join(sorted(near.signs - tensors.keys()))}; docs/published.md lists all"
    )


def _fit(form: Form, tensors: Mapping[str, Tensor], description: Description) -> Recognised:
    inner = {key.removeprefix(form.encoder): value for key, value in tensors.items() if key.startswith(form.encoder)}
    encoder = read_encoder(inner)
    if isinstance(encoder, str):
        raise _Unfit(f"its encoder is {encoder}", float("inf"))
    genotype = _genotype(form, tensors, encoder, description)
    classes = tensors[form.classifier].shape[0]
    try:
        with torch.device("meta"):
            network = build(genotype, classes, in_chans=encoder.in_chans)
    except NassegError as error:
        raise _Unfit(f"it cannot be built: {error}", float("inf")) from error
    wanted = network.state_dict()
    outer = {key: value for key, value in tensors.items() if not key.startswith(form.encoder)}
    dropped = tuple(key for key in outer if any(re.fullmatch(pattern, key) for pattern in form.dead))
    parted = _parted(form, {key: value for key, value in outer.items() if key not in dropped})
    renamed, _ = rename(parted, form.rules, {}, ())
    offered = {**{f"backbone.{key}": value for key, value in encoder.tensors.items()}, **renamed}
    filled = {key: _shaped(_turned(form, key, value, network), wanted.get(key)) for key, value in offered.items()}
    filled |= {key: torch.tensor(0) for key in wanted if key.endswith(f".{COUNTER}") and key not in filled}
    _check(wanted, filled)
    assert isinstance(network.backbone, Backbone)
    inputs = tuple(f"backbone.{key}" for key in network.backbone.input_convs)
    return Recognised(form, genotype, classes, encoder.in_chans, filled, inputs, dropped)


def _genotype(form: Form, tensors: Mapping[str, Tensor], encoder: Encoder, description: Description) -> Genotype:
    genes: dict[str, Any] = {gene: tensors[key].shape[axis] for gene, (key, axis) in form.sizes.items()}
    try:
        if form.said:
            published = preset(form.preset, encoder.name).flat()
            said = {gene: getattr(description, attribute) for gene, attribute in form.said.items()}
            genes |= {gene: published[gene] if value is None else value for gene, value in said.items()}
        return preset(form.preset).override({**form.fixed, **genes}).on(encoder.name)
    except ConfigError as error:
        raise _Unfit(f"its sizes are none of the search space: {'; '.join(map(str, error.problems))}", float("inf")) from error


def _parted(form: Form, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With two matrices of one tensor under a name each."""
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if form.halves is not None and re.fullmatch(form.halves[0], key) and value.shape[0] % 2 == 0:
            for name, half in zip(form.halves[1:], value.chunk(2), strict=True):
                out[re.sub(form.halves[0], name, key)] = half
        else:
            out[key] = value
    return out


def _turned(form: Form, key: str, value: Tensor, network: SegModel) -> Tensor:
    """The tensor with its input channels from the shallowest map to the deepest."""
    found = next(((what, match) for pattern, what in form.turned.items() if (match := re.fullmatch(pattern, key))), None)
    if found is None:
        return value
    genotype, channels = network.genotype, network.decoder.channels
    if found[0] == FUSION:
        widths = [genotype.project or channels[stage - 1] for stage in genotype.kept]
    else:
        genes = genotype.stage(int(found[1]["stage"]))
        widths = [channels[stage - 1] for stage in (genes.inputs if genes is not None else None) or ()]
    axis = min(1, value.ndim - 1)
    if sum(widths) != value.shape[axis]:
        return value
    return torch.cat(torch.split(value, widths[::-1], dim=axis)[::-1], dim=axis)


def _shaped(value: Tensor, wanted: Tensor | None) -> Tensor:
    """In the wanted shape, where only axes of length 1 differ: a linear layer for a 1×1 convolution, a scale kept as C×1×1."""
    if wanted is not None and value.shape != wanted.shape and value.squeeze().shape == wanted.squeeze().shape:
        return value.reshape(wanted.shape)
    return value


def _check(wanted: Mapping[str, Tensor], filled: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in filled]
    unknown = [key for key in filled if key not in wanted]
    reshaped = [key for key in wanted if key in filled and filled[key].shape != wanted[key].shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of the network's {len(wanted)} tensors are missing, such as {', '.join(missing[:3])}")
    if reshaped:
        key = reshaped[0]
        parts.append(
            f"{len(reshaped)} have another shape, such as {key}: {_size(filled[key])} in the file, {_size(wanted[key])} in the network"
        )
    if unknown:
        parts.append(f"{len(unknown)} of the file's mean nothing to it, such as {', '.join(unknown[:3])}")
    if parts:
        raise _Unfit("; ".join(parts), len(missing) + len(unknown) + len(reshaped))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
