"""Weights from a local file: read without unpickling anything but tensors, matched by name and shape, or refused as another model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from timm.models import adapt_input_conv
from torch import Tensor

from nasseg.errors import WeightsError
from nasseg.files import read_json_or_none
from nasseg.models.backbones.contract import Backbone
from nasseg.models.checkpoint_file import read_checkpoint


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A file's tensors (:func:`nasseg.models.checkpoint_file.read_checkpoint`); of a whole segmentation network only its ``backbone.``.

    Raises :class:`WeightsError`.
    """
    found = read_checkpoint(path).tensors
    inside = {key.removeprefix("backbone."): value for key, value in found.items() if key.startswith("backbone.")}
    return inside or found


def load_weights(backbone: Backbone, path: str | Path, rivals: Callable[[], Iterable[Backbone]] | None = None) -> None:
    """Put a file's tensors into ``backbone``: each of its tensors must be there, in its shape; only a classifier or head may be left over.

    The first convolution is adapted to ``in_chans`` as timm does it: summed for one channel, repeated and rescaled otherwise. A counter of
    batches seen (``num_batches_tracked``) may be missing. ``rivals`` gives other backbones, to say whose file it is.
    Raises :class:`WeightsError` and leaves the backbone as it was.
    """
    tensors = read_weights(path)
    offered, _ = backbone.rename(tensors)
    wanted = backbone.state_dict()
    for key in backbone.input_convs:
        weight = offered.get(key)
        if weight is not None and weight.shape != wanted[key].shape and weight.ndim == 4 and weight.shape[1] % 3 == 0:
            offered[key] = _adapted(backbone, path, weight)
    missing = [key for key in wanted if key not in offered and not key.endswith(".num_batches_tracked")]
    unknown = [key for key in offered if key not in wanted]
    reshaped = [key for key in wanted if key in offered and offered[key].shape != wanted[key].shape]
    if missing or unknown or reshaped:
        raise WeightsError(
            _refusal(backbone.name, path, len(wanted), missing, unknown, reshaped, offered, wanted) + _owner(tensors, Path(path), rivals)
        )
    backbone.load_state_dict(offered, strict=False)


def _adapted(backbone: Backbone, path: str | Path, weight: Tensor) -> Tensor:
    try:
        adapted: Tensor = adapt_input_conv(backbone.in_chans, weight.clone())
    except NotImplementedError as error:  # the first convolution sees rearranged pixels
        raise WeightsError(
            f"{path}: {backbone.name} cannot take its three-channel weights with {backbone.in_chans} input channels"
        ) from error
    return adapted


def _refusal(
    name: str,
    path: str | Path,
    count: int,
    missing: list[str],
    unknown: list[str],
    reshaped: list[str],
    offered: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {count} tensors are missing, such as {_few(missing)}")
    if reshaped:
        key = reshaped[0]
        parts.append(
            f"{len(reshaped)} have another shape, such as {key}: {_shape(offered[key])} in the file, {_shape(wanted[key])} in the model"
        )
    if unknown:
        parts.append(f"{len(unknown)} tensors of the file mean nothing to it, such as {_few(unknown)}")
    return f"{path}: weights of another model than {name}: {'; '.join(parts)}"


def _owner(tensors: Mapping[str, Tensor], path: Path, rivals: Callable[[], Iterable[Backbone]] | None) -> str:
    """Whose file it is: as a manifest.json beside it says, else the backbone that finds all its tensors in the file."""
    manifest = read_json_or_none(path.parent / "manifest.json") or {}
    models = manifest.get("models")
    for entry in models if isinstance(models, list) else ():
        if isinstance(entry, dict) and entry.get("file") == path.name and isinstance(entry.get("timm_id"), str):
            return f"; {path.parent / 'manifest.json'} says it is of {entry['timm_id']}"
    for rival in rivals() if rivals is not None else ():
        offered, _ = rival.rename(tensors)
        if all(key in offered and offered[key].shape == value.shape for key, value in rival.named_parameters()):
            return f"; it fits {rival.name}"
    return ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:3])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
