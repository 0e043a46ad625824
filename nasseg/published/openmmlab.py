"""What a checkpoint of mmcv or mmengine says of itself: ``meta``, with the training's whole configuration as text.

mmsegmentation 0.x (mmcv) writes ``CLASSES``, ``PALETTE`` and ``config``; 1.x (mmengine) ``dataset_meta`` and ``cfg``. NVlabs' SegFormer,
FeedFormer, SegNeXt and MetaSeg stand on 0.x, U-MixFormer on 1.x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasseg.data.palette import Colour
from nasseg.published.description import Description, Size
from nasseg.published.python_config import parse_config

SCALE = 255.0
"""mmsegmentation's means and deviations are for pixels from 0 to 255."""


def describe_openmmlab(beside: Mapping[str, Any]) -> Description:
    """From what stands beside the weights. Whatever is missing or of an unknown form is None."""
    meta = _mapping(beside.get("meta"))
    data = _mapping(meta.get("dataset_meta"))
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    config = parse_config(text)
    model = _mapping(config.get("model"))
    head = _mapping(model.get("decode_head"))
    preprocessor = _mapping(model.get("data_preprocessor")) or _mapping(config.get("data_preprocessor"))
    steps = list(_steps(_pipeline(config, "test")))
    training = list(_steps(_pipeline(config, "train")))
    normalised = (
        preprocessor or next((step for step in steps if step.get("type") == "Normalize"), {}) or _mapping(config.get("img_norm_cfg"))
    )
    bgr = normalised.get("bgr_to_rgb", normalised.get("to_rgb")) is False
    mean, std = _numbers(normalised.get("mean")), _numbers(normalised.get("std"))
    if bgr and mean is not None and std is not None:
        mean, std = mean[::-1], std[::-1]
    return Description(
        origin="the checkpoint's meta" if meta else None,
        classes=_names(data.get("classes", meta.get("CLASSES"))),
        palette=_colours(data.get("palette", meta.get("PALETTE"))),
        mean=mean,
        std=std,
        size=_crop(config, preprocessor, training),
        protocol=_protocol(config, model, steps),
        reduce_zero_label=_reduced(data, training),
        pad_multiple=_padding(preprocessor, steps) if config else None,
        head=head.get("type") if isinstance(head.get("type"), str) else None,
        ham_rank=_whole(_mapping(head.get("ham_kwargs")).get("MD_R")),
        bgr=bgr,
        align_corners=head.get("align_corners") is True,
    )


def _pipeline(config: Mapping[str, Any], which: str) -> Any:
    """The list of transforms of ``train`` or ``test``, by name or where its data set has it."""
    loader = _mapping(config.get(f"{which}_dataloader"))
    data = _mapping(_mapping(config.get("data")).get(which))
    for holder in (loader.get("dataset"), data, data.get("dataset")):
        while isinstance(holder, Mapping) and "pipeline" not in holder and "dataset" in holder:
            holder = holder["dataset"]
        found = _mapping(holder).get("pipeline")
        if isinstance(found, Sequence):
            return found
    return config.get(f"{which}_pipeline")


def _steps(pipeline: Any) -> Iterator[Mapping[str, Any]]:
    """The transforms in order, those inside ``MultiScaleFlipAug`` after it."""
    for step in pipeline if isinstance(pipeline, Sequence) else ():
        if isinstance(step, Mapping):
            yield step
            yield from _steps(step.get("transforms"))


def _protocol(config: Mapping[str, Any], model: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """How the configuration measures, as fields of our protocol; None where it cannot be said in them."""
    size: Size | None = None
    keep_ratio, divisor = False, 1
    for step in steps:
        if step.get("type") in ("Resize", "AlignedResize", "MultiScaleFlipAug"):
            scale = step.get("scale", step.get("img_scale"))
            size = _turned(scale) or size
            keep_ratio = step.get("keep_ratio", keep_ratio) is True
        if step.get("type") in ("AlignedResize", "ResizeToMultiple"):
            divisor = _whole(step.get("size_divisor")) or 32
    if size is None:
        return None
    test = _mapping(model.get("test_cfg")) or _mapping(config.get("test_cfg"))
    found: dict[str, Any] = {"size": size, "keep_ratio": keep_ratio, "size_divisor": divisor}
    if test.get("mode") == "slide":
        crop, stride = _pair(test.get("crop_size")), _pair(test.get("stride"))
        if crop is None or stride is None:
            return None
        found |= {"mode": "slide", "crop": crop, "stride": stride}
    return found


def _padding(preprocessor: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> int:
    """What images are padded to with the mean colour when the network is measured."""
    padded = [_mapping(preprocessor.get("test_cfg")), *(step for step in steps if step.get("type") == "Pad")]
    return max([1, *(_whole(one.get("size_divisor")) or 1 for one in padded)])


def _crop(config: Mapping[str, Any], preprocessor: Mapping[str, Any], training: Sequence[Mapping[str, Any]]) -> Size | None:
    crops = [step.get("crop_size") for step in training if step.get("type") == "RandomCrop"]
    return next((size for given in (*crops, config.get("crop_size"), preprocessor.get("size")) if (size := _pair(given)) is not None), None)


def _reduced(data: Mapping[str, Any], training: Sequence[Mapping[str, Any]]) -> bool | None:
    said = [step.get("reduce_zero_label") for step in training if step.get("type") == "LoadAnnotations"]
    return next((one for one in (data.get("reduce_zero_label"), *said) if isinstance(one, bool)), None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _pair(value: Any) -> Size | None:
    """(height, width) of a crop or stride, one number standing for both."""
    both = [value, value] if isinstance(value, int) else value
    if isinstance(both, Sequence) and not isinstance(both, str) and len(both) == 2 and all(_whole(side) for side in both):
        return int(both[0]), int(both[1])
    return None


def _turned(value: Any) -> Size | None:
    """(height, width) of a scale, which mmcv writes as (width, height)."""
    pair = _pair(value)
    return None if pair is None else (pair[1], pair[0])


def _numbers(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(isinstance(v, int | float) for v in value):
        return tuple(float(v) / SCALE for v in value)
    return None


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None


def _colours(value: Any) -> tuple[Colour, ...] | None:
    """A palette, as a list or as numpy's array."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    try:
        colours = [tuple(int(part) for part in row) for row in rows]
    except (TypeError, ValueError):
        return None
    if not colours or not all(len(row) == 3 and all(0 <= part <= 255 for part in row) for row in colours):
        return None
    return tuple((row[0], row[1], row[2]) for row in colours)
