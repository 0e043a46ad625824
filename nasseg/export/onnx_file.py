"""The ONNX file of a bundle: written by torch's exporter, read by ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.export import ExportedProgram

from nasseg.errors import BundleError
from nasseg.export.preprocessing import INPUT, OUTPUT
from nasseg.export.program import dynamic_batch, first_line

OPSET = 18
"""ONNX operator set of the file: the oldest that torch's exporter writes without converting, so the most runtimes read it."""
METADATA_KEY = "nasseg"
"""Under this key the file's metadata holds the content of ``preprocessing.json``, so that the file alone says how to feed it."""

# Notes of the exporter on each node, with paths of the machine that exports; what says where a node belongs stays.
_TRACES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "pkg.torch.onnx.class_hierarchy")


def write_onnx(program: ExportedProgram, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Write a program of :func:`nasseg.export.program.trace` as ONNX: ``image`` (batch, C, H, W) to ``logits`` (batch, K, h, w).

    The batch is dynamic, the weights lie inside the file, ``metadata`` under :data:`METADATA_KEY`. Raises whatever the exporter raises.
    """
    converted = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=dynamic_batch(),
        external_data=False,
        verbose=False,
    )
    assert converted is not None
    proto = converted.model_proto
    for node in proto.graph.node:
        for index in reversed(range(len(node.metadata_props))):
            if node.metadata_props[index].key in _TRACES:
                del node.metadata_props[index]
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(dict(metadata), ensure_ascii=False)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, os.fspath(path))


class OnnxModel:
    """An ONNX file as a function: normalised images (B, C, H, W) to logits (B, K, h, w), tensors on the CPU."""

    def __init__(self, path: str | os.PathLike[str], threads: int = 2) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BundleError(f"{self.path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: its warnings speak of optimisations that did not apply
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BundleError(f"{self.path}: ONNX Runtime cannot read it: {first_line(error)}") from error
        given, answered = [x.name for x in self.session.get_inputs()], [x.name for x in self.session.get_outputs()]
        if given != [INPUT] or answered != [OUTPUT]:
            raise BundleError(f"{self.path}: maps {given} to {answered}; a bundle's file maps ['{INPUT}'] to ['{OUTPUT}']")
        _, channels, height, width = self.session.get_inputs()[0].shape
        self.in_chans, self.size = int(channels), (int(height), int(width))

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Logits of a batch at the size the file was exported for."""
        if tuple(x_BCHW.shape[1:]) != (self.in_chans, *self.size):
            wanted, given = (self.in_chans, *self.size), tuple(x_BCHW.shape[1:])
            raise BundleError(
                f"{self.path}: takes images of {wanted} (channels, height, width), given {given}; the module of the bundle takes any size"
            )
        (logits,) = self.session.run([OUTPUT], {INPUT: np.ascontiguousarray(x_BCHW.detach().cpu().numpy(), dtype=np.float32)})
        return torch.from_numpy(logits)


def load_onnx(path: str | os.PathLike[str], threads: int = 2) -> OnnxModel:
    """The ONNX file of a bundle (its folder, or the file itself) as a function for ``evaluate`` and ``predict``.

    Raises :class:`BundleError` for a file that is missing, unreadable, or takes something else than one batch of images.
    """
    given = Path(path)
    return OnnxModel(given / "model.onnx" if given.is_dir() else given, threads)
