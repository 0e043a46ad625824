"""What docs/bundle.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nasseg
from nasseg.export.bundle import FILES, IMAGES
from nasseg.export.card import onnxruntime_example
from nasseg.export.onnx_file import OPSET
from nasseg.export.parity import LOGIT_TOLERANCE, MIOU_TOLERANCE

pytestmark = pytest.mark.xdist_group("bundle")

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "bundle.md").read_text()


def test_every_file_and_key_is_explained(made: Path):
    for name in FILES:
        assert f"| `{name}` |" in TEXT
    for key in nasseg.load_bundle(made).preprocessing:
        assert f"`{key}`" in TEXT


def test_the_example_is_the_one_that_is_tested_on_the_card():
    assert re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0].strip() == onnxruntime_example()


def test_the_figures_are_those_of_the_code():
    assert f"opset {OPSET}" in TEXT
    assert f"at most {LOGIT_TOLERANCE:g} of the largest logit" in TEXT
    assert f"over {IMAGES} validation images" in TEXT
    assert f"at most {MIOU_TOLERANCE:g} points" in TEXT
