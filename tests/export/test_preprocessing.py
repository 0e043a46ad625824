"""The border between pixels and network, as a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nasseg.data.transforms import EvalTransform
from nasseg.errors import BundleError
from nasseg.export.predict import fit
from nasseg.export.preprocessing import Preprocessing
from nasseg.training.protocol import Protocol

GOLDEN = {
    "format": 2,
    "input": "image",
    "output": "logits",
    "layout": "BCHW",
    "dtype": "float32",
    "color_order": "RGB",
    "in_chans": 3,
    "size": [90, 120],
    "resize": "bilinear, antialiased, to size, aspect ratio not kept",
    "scale": 1 / 255,
    "mean": [0.5, 0.25, 0.125],
    "std": [0.5, 0.5, 1.0],
    "stride": 8,
    "logits_size": [12, 15],
    "image_cells": [11.25, 15.0],
    "pad_multiple": 32,
    "num_classes": 2,
    "classes": ["road", "sky"],
    "palette": [[1, 2, 3], [4, 5, 255]],
    "ignore_index": 255,
    "image_size": [360, 480],
    "evaluation": {
        "size": [512, 2048],
        "resize": "keep_ratio",
        "size_divisor": 32,
        "pad_multiple": 32,
        "window": "whole",
        "crop": None,
        "stride": None,
        "flip": False,
        "scale": "single",
        "scales": [1.0],
        "masks": "original",
    },
}


def test_a_file_of_format_1_reads_as_what_it_meant():
    """Its networks pad to 32; how they were measured it does not say."""
    added = ("image_cells", "pad_multiple", "evaluation")
    read = Preprocessing.from_dict({**{key: value for key, value in GOLDEN.items() if key not in added}, "format": 1})
    assert read.to_dict() == {**GOLDEN, "evaluation": None}
    assert read.protocol == Protocol(size=(90, 120))


def test_an_unpadded_networks_cells_cover_the_image():
    unpadded = {**GOLDEN, "pad_multiple": 1, "evaluation": {**GOLDEN["evaluation"], "pad_multiple": 1}}
    read = Preprocessing.from_dict(unpadded)
    assert read.image_cells == (12, 15)
    assert read.to_dict() == {**unpadded, "image_cells": [12, 15]}
    assert read.protocol == Protocol(size=(512, 2048), keep_ratio=True, size_divisor=32, pad_multiple=1)


def test_the_file_reads_and_writes_as_it_stands():
    read = Preprocessing.from_dict(GOLDEN)
    assert read.to_dict() == GOLDEN
    assert (read.num_classes, read.logits_size, read.image_size) == (2, (12, 15), (360, 480))
    assert read.palette == ((1, 2, 3), (4, 5, 255))


def test_save_and_load(tmp_path: Path):
    made = Preprocessing.from_dict({**GOLDEN, "classes": ["Straße", "空"], "image_size": None})
    made.save(tmp_path / "p.json")
    assert Preprocessing.load(tmp_path / "p.json") == made


def test_resizing_and_normalising_is_what_evaluation_does():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    made = Preprocessing.from_dict(GOLDEN)
    ours = made.normalise(fit(image, made.size))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, EvalTransform(made.size, made.mean, made.std)(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 3}, "format 3 was written by a newer nasseg; this one reads format 2"),
        ({"pad_multiple": 1}, "a network that pads to 1 and was measured padding to 32"),
        ({"evaluation": {}}, "evaluation: key 'size' is missing"),
        ({"format": None}, "format None, must be a whole number from 1"),
        ({"palette": [[1, 2, 3]]}, "2 classes and 1 colours"),
        ({"classes": [], "palette": []}, "0 classes and 0 colours"),
        ({"classes": ["x"] * 256, "palette": [[0, 0, 0]] * 256}, "256 classes; a mask has room for 255"),
        ({"palette": [[1, 2, 3], [4, 5, 256]]}, "a colour is three numbers from 0 to 255, not"),
        ({"mean": [0.5]}, "mean of 1 and std of 3 numbers for 3 input channels"),
        ({"std": [1.0, 0.0, 1.0]}, "a std that is not positive"),
        ({"stride": 5}, "stride 5, which is none of 4, 8, 16, 32"),
        ({"size": [0, 4]}, "a size without pixels"),
        ({"size": 4}, "not readable as preprocessing"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place(change: dict[str, object], words: str):
    with pytest.raises(BundleError, match=f"^here: .*{words}"):
        Preprocessing.from_dict({**GOLDEN, **change}, where="here")


def test_files_that_cannot_be_read(tmp_path: Path):
    file = tmp_path / "p.json"
    with pytest.raises(BundleError, match=r"p\.json: cannot be read: No such file"):
        Preprocessing.load(file)
    file.write_text("{")
    with pytest.raises(BundleError, match=r"p\.json: not readable as JSON"):
        Preprocessing.load(file)
    file.write_text("[]")
    with pytest.raises(BundleError, match=r"p\.json: must hold one JSON object, not a list"):
        Preprocessing.load(file)
    file.write_text(json.dumps({k: v for k, v in GOLDEN.items() if k != "mean"}))
    with pytest.raises(BundleError, match=r"p\.json: key 'mean' is missing"):
        Preprocessing.load(file)
