"""ONNX files that are not a bundle's."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from nasseg.errors import BundleError
from nasseg.export.onnx_file import load_onnx


def identity(path: Path, given: str = "image", answered: str = "logits") -> Path:
    """A file that gives its input back."""
    shape = ["batch", 3, 4, 6]
    graph = helper.make_graph(
        [helper.make_node("Identity", [given], [answered])],
        "identity",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(answered, TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_folder_or_a_file_becomes_a_function(tmp_path: Path):
    identity(tmp_path / "model.onnx")
    x = torch.randn(2, 3, 4, 6).permute(0, 1, 2, 3)
    for path in (tmp_path, tmp_path / "model.onnx"):
        forward = load_onnx(path)
        assert (forward.in_chans, forward.size) == (3, (4, 6))
        assert torch.equal(forward(x), x)
        # Neither memory order nor a gradient matter.
        turned = x.to(memory_format=torch.channels_last).requires_grad_()
        assert torch.equal(forward(turned), x)


def test_images_of_another_size_are_refused(tmp_path: Path):
    forward = load_onnx(identity(tmp_path / "model.onnx"))
    with pytest.raises(BundleError, match=r"takes images of \(3, 4, 6\) \(channels, height, width\), given \(3, 8, 6\); the module"):
        forward(torch.zeros(1, 3, 8, 6))


def test_files_that_are_missing_broken_or_of_another_kind(tmp_path: Path):
    with pytest.raises(BundleError, match=r"model\.onnx: no such file"):
        load_onnx(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"no protobuf")
    with pytest.raises(BundleError, match=r"x\.onnx: ONNX Runtime cannot read it: "):
        load_onnx(tmp_path / "x.onnx")
    with pytest.raises(BundleError, match=r"maps \['x'\] to \['y'\]; a bundle's file maps \['image'\] to \['logits'\]"):
        load_onnx(identity(tmp_path / "y.onnx", "x", "y"))
