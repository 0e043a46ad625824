"""What a folder of ``save_pretrained`` says: ``config.json`` and ``preprocessor_config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasseg.errors import WeightsError
from nasseg.models.backbones.mit import FFN_RATIO, HEADS, REDUCTIONS
from nasseg.published.description import Description, Size

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SCALE = 1 / 255

FIXED: Mapping[str, Any] = {
    "num_attention_heads": HEADS,
    "sr_ratios": REDUCTIONS,
    "mlp_ratios": (FFN_RATIO,) * 4,
    "patch_sizes": (7, 3, 3, 3),
    "strides": (4, 2, 2, 2),
    "hidden_act": "gelu",
}
"""Settings of transformers' SegFormer that every MiT shares; most of them leave no trace in the shapes of its weights."""


def describe_folder(folder: Path) -> Description:
    """Of transformers' SegFormer, or of segmentation_models_pytorch's.

    Raises :class:`WeightsError` for a configuration of something else, and for one of a network that MiT cannot be.
    """
    config = _read(folder / CONFIG)
    if "_model_class" in config:
        return _smp(folder, config)
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind != "segformer" or "SegformerForSemanticSegmentation" not in architectures:
        said = ", ".join(map(str, architectures)) or str(kind)
        raise WeightsError(f"{folder / CONFIG}: of {said}; of transformers' networks, SegformerForSemanticSegmentation is read")
    differing = [
        f"{name} {config[name]}, where MiT has {list(ours) if isinstance(ours, tuple) else ours}"
        for name, ours in FIXED.items()
        if name in config and (tuple(config[name]) if isinstance(config[name], list) else config[name]) != ours
    ]
    if differing:
        raise WeightsError(f"{folder / CONFIG}: a network that MiT-B0 to B5 cannot be: {'; '.join(differing)}")
    labels = config.get("id2label")
    names = None
    if isinstance(labels, Mapping) and all(str(key).isdecimal() for key in labels):
        names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return _processed(folder, Description(origin=CONFIG, classes=names, pad_multiple=1))


def _smp(folder: Path, config: Mapping[str, Any]) -> Description:
    kind, encoder = config["_model_class"], str(config.get("encoder_name", ""))
    if kind != "Segformer" or not encoder.startswith("mit_"):
        raise WeightsError(
            f"{folder / CONFIG}: segmentation_models_pytorch's {kind} on {encoder}; of its networks, Segformer on mit_b0 to mit_b5 is read"
        )
    return Description(origin=CONFIG)


def _processed(folder: Path, description: Description) -> Description:
    """With what the image processor does, where the folder has one."""
    if not (folder / PREPROCESSOR).is_file():
        return description
    given = _read(folder / PREPROCESSOR)
    mean, std = _statistics(given)
    size = _size(given.get("size")) if given.get("do_resize", True) else None
    reduced = given.get("do_reduce_labels", given.get("reduce_labels"))
    return Description(
        origin=f"{CONFIG} and {PREPROCESSOR}",
        classes=description.classes,
        pad_multiple=description.pad_multiple,
        mean=mean,
        std=std,
        size=size,
        protocol=None if size is None else {"size": size},
        reduce_zero_label=reduced if isinstance(reduced, bool) else None,
    )


def _statistics(given: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation for images scaled to 0…1, whatever factor the processor scales with."""
    mean, std = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    factor = given.get("rescale_factor", SCALE) if given.get("do_rescale", True) else 1.0
    if not (isinstance(mean, list) and isinstance(std, list)):
        return None, None
    # (p·f − m)/s = (p/255 − m/(255 f)) / (s/(255 f))
    unit = factor / SCALE
    return tuple(float(m) / unit for m in mean), tuple(float(s) / unit for s in std)


def _size(given: Any) -> Size | None:
    """(height, width) that images are stretched to; None for a rule that keeps their aspect."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given, given
    if isinstance(given, Mapping) and {"height", "width"} <= given.keys():
        return int(given["height"]), int(given["width"])
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        return int(given[0]), int(given[1])
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: must hold one JSON object, not a {type(found).__name__}")
    return found
