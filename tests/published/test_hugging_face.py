"""What a folder of save_pretrained says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasseg.errors import WeightsError
from nasseg.published.hugging_face import describe_folder

SEGFORMER = {
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
    "strides": [4, 2, 2, 2],
    "hidden_act": "gelu",
}


def described(folder: Path, config: Any, preprocessor: Any = None) -> Any:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return describe_folder(folder)


def test_segformer_as_published(tmp_path: Path) -> None:
    preprocessor = {
        "do_normalize": True,
        "do_reduce_labels": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 512, "width": 640},
    }
    found = described(tmp_path, SEGFORMER | {"id2label": {"10": "c", "0": "a", "2": "b"}}, preprocessor)
    assert found.classes == ("a", "b", "c")
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.size, found.protocol, found.reduce_zero_label) == ((512, 640), {"size": (512, 640)}, True)
    assert (found.pad_multiple, found.origin) == (1, "config.json and preprocessor_config.json")


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        ({"size": 512, "reduce_labels": False}, {"size": (512, 512), "reduce_zero_label": False, "mean": None}),
        ({"size": [384, 512]}, {"size": (384, 512), "protocol": {"size": (384, 512)}, "reduce_zero_label": None}),
        ({"size": {"shortest_edge": 512}}, {"size": None, "protocol": None}),
        ({"size": 512, "do_resize": False}, {"size": None, "protocol": None}),
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        # Pixels from 0 to 255 are normalised as they are: (p − 127.5)/51 is (p/255 − 0.5)/0.2.
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}),
    ],
)
def test_processors(preprocessor: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = described(tmp_path, SEGFORMER, preprocessor)
    for name, value in expected.items():
        assert getattr(found, name) == (pytest.approx(value) if isinstance(value, tuple) else value), name


def test_smp(tmp_path: Path) -> None:
    assert described(tmp_path, {"_model_class": "Segformer", "encoder_name": "mit_b2", "classes": 3}).origin == "config.json"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "segformer", "architectures": ["SegformerForImageClassification"]},
            "of SegformerForImageClassification; of transformers' ",
        ),
        ({"model_type": "upernet"}, "of upernet; of transformers' networks, SegformerForSemanticSegmentation is read"),
        (
            {"_model_class": "Unet", "encoder_name": "mit_b0"},
            "segmentation_models_pytorch's Unet on mit_b0; of its networks, Segformer on mit_b0 to",
        ),
        ({"_model_class": "Segformer", "encoder_name": "resnet34"}, "segmentation_models_pytorch's Segformer on resnet34; of its networks"),
        (
            SEGFORMER | {"num_attention_heads": [1, 2, 4, 8], "hidden_act": "relu"},
            r"MiT-B0 to B5 cannot be: num_attention_heads \[1, 2, 4, 8\], where MiT has \[1, 2, 5, 8\]; hidden_act relu, where MiT",
        ),
        ("{", "not readable as JSON"),
        ("[]", "must hold one JSON object, not a list"),
    ],
)
def test_what_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        described(tmp_path, config)
