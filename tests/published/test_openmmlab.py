"""What checkpoints of mmcv and mmengine say of themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nasseg.models.backbones.contract import IMAGENET_MEAN, IMAGENET_STD
from nasseg.published.description import Description
from nasseg.published.openmmlab import describe_openmmlab

# mmsegmentation 0.x, as NVlabs' SegFormer writes it: the pipeline stands in the data set, inside RepeatDataset for training.
OLD = """
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
crop_size = (512, 512)
model = dict(
    type='EncoderDecoder',
    decode_head=dict(type='SegFormerHead', num_classes=3, align_corners=False, decoder_params=dict(embed_dim=256)),
    test_cfg=dict(mode='whole'))
data = dict(
    train=dict(type='RepeatDataset', times=50, dataset=dict(type='ADE20KDataset', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='Resize', img_scale=(2048, 512), ratio_range=(0.5, 2.0)), dict(type='RandomCrop', crop_size=(512, 640))])),
    test=dict(type='ADE20KDataset', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False, transforms=[
            dict(type='AlignedResize', keep_ratio=True, size_divisor=32),
            dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)])]))
"""
# mmsegmentation 1.x on Cityscapes with windows.
NEW = """
crop_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True, mean=[127.5, 127.5, 127.5], std=[51.0, 51.0, 51.0],
        size=(1024, 1024), test_cfg=dict(size_divisor=32)),
    decode_head=dict(type='LightHamHead', ham_kwargs=dict(MD_R=16)),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)))
train_pipeline = [dict(type='LoadAnnotations'), dict(type='RandomCrop', crop_size=(1024, 1024))]
test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(2048, 1024), keep_ratio=True)]))
"""


def test_mmsegmentation_0() -> None:
    beside = {"meta": {"config": OLD, "CLASSES": ("wall", "sky", "tree"), "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}, "optimizer": {}}
    found = describe_openmmlab(beside)
    assert found.mean == pytest.approx(IMAGENET_MEAN, abs=1e-9)
    assert found.std == pytest.approx(IMAGENET_STD, abs=1e-9)
    assert (found.classes, found.palette) == (("wall", "sky", "tree"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    assert (found.size, found.reduce_zero_label, found.pad_multiple) == ((512, 640), True, 1)
    assert found.protocol == {"size": (512, 2048), "keep_ratio": True, "size_divisor": 32}
    assert (found.head, found.bgr, found.align_corners, found.ham_rank) == ("SegFormerHead", False, False, None)


def test_mmsegmentation_1() -> None:
    beside = {"meta": {"cfg": NEW, "dataset_meta": {"classes": ["road", "car"], "palette": np.array([[128, 64, 128], [0, 0, 142]])}}}
    found = describe_openmmlab(beside)
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert (found.classes, found.palette) == (("road", "car"), ((128, 64, 128), (0, 0, 142)))
    assert (found.size, found.reduce_zero_label, found.pad_multiple) == ((1024, 1024), None, 32)
    assert found.protocol == {
        "size": (1024, 2048),
        "keep_ratio": True,
        "size_divisor": 1,
        "mode": "slide",
        "crop": (1024, 1024),
        "stride": (768, 768),
    }
    assert (found.head, found.ham_rank) == ("LightHamHead", 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "test_pipeline = [dict(type='Resize', scale=(640, 480), keep_ratio=False)]",
            {"size": (480, 640), "keep_ratio": False, "size_divisor": 1},
        ),
        (
            "test_pipeline = [dict(type='Resize', img_scale=512, keep_ratio=True), dict(type='ResizeToMultiple')]",
            {"size": (512, 512), "keep_ratio": True, "size_divisor": 32},
        ),
        # Windows whose step is not said, images in their own size, several scales: no protocol of ours.
        ("test_cfg = dict(mode='slide', crop_size=(9, 9))\ntest_pipeline = [dict(type='Resize', scale=(9, 9))]", None),
        ("test_pipeline = [dict(type='LoadImageFromFile')]", None),
        ("test_pipeline = [dict(type='Resize', img_scale=[(2048, 512), (1024, 256)])]", None),
        ("test_pipeline = 'none'", None),
        # Old top-level test_cfg.
        (
            "test_cfg = dict(mode='slide', crop_size=(9, 8), stride=(6, 5))\ntest_pipeline = [dict(type='Resize', img_scale=(20, 10))]",
            {"size": (10, 20), "keep_ratio": False, "size_divisor": 1, "mode": "slide", "crop": (9, 8), "stride": (6, 5)},
        ),
    ],
)
def test_protocols(text: str, expected: dict[str, Any] | None) -> None:
    assert describe_openmmlab({"meta": {"cfg": text}}).protocol == expected


def test_images_as_bgr_are_noticed_and_the_statistics_turned() -> None:
    found = describe_openmmlab({"meta": {"config": "img_norm_cfg = dict(mean=[51, 102, 153], std=[51, 51, 255], to_rgb=False)"}})
    assert (found.bgr, found.mean, found.std) == (True, (0.6, 0.4, 0.2), (1.0, 0.2, 0.2))


def test_padding_in_the_pipeline_counts() -> None:
    text = "test_pipeline = [dict(type='Resize', scale=(9, 9)), dict(type='Pad', size_divisor=64)]"
    assert describe_openmmlab({"meta": {"cfg": text}}).pad_multiple == 64


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"meta": None},
        {"meta": {"cfg": 3, "CLASSES": "wall", "PALETTE": "none", "dataset_meta": []}},
        {"meta": {"CLASSES": [1, 2], "PALETTE": [[1, 2]], "config": "model = 3"}},
        {
            "meta": {
                "PALETTE": [[1, 2, 300]],
                "cfg": "model = dict(data_preprocessor=dict(mean='x', std=[], size='a'), decode_head=dict(type=3))",
            }
        },
        {"meta": {"PALETTE": 7}},
    ],
)
def test_what_says_nothing_or_nonsense_is_none(beside: dict[str, Any]) -> None:
    found = describe_openmmlab(beside)
    silent = Description(origin=found.origin, pad_multiple=found.pad_multiple)
    assert found == silent
