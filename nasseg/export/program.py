"""The ``torch.export`` program of a bundle: runs without nasseg, and is where other compilers start."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.traceback import preserve_node_meta

from nasseg.errors import BundleError
from nasseg.models.folding import Folding, fold

BATCH = "batch"
"""Name of the one dynamic dimension."""


def dynamic_batch() -> tuple[dict[int, Any]]:
    """The first dimension of the one input may be anything from 1."""
    return ({0: torch.export.Dim(BATCH, min=1)},)


@dataclass(frozen=True, slots=True)
class Traced:
    """A program, and how it differs from the network it came from in what it computes."""

    program: ExportedProgram
    folding: Folding


def trace(model: nn.Module, size: tuple[int, int], in_chans: int) -> Traced:
    """``model.forward`` (eval mode, on the CPU) as a program for any batch of images of one size, folded by :mod:`nasseg.models.folding`.

    ``model`` keeps its weights. Raises whatever the exporter raises.
    """
    # Two images, because an exporter takes a dimension of one for a constant.
    example = (torch.zeros(2, in_chans, *size),)
    with torch.no_grad(), preserve_node_meta():
        folded = fold(torch.export.export(model, example, dynamic_shapes=dynamic_batch()))
        program = torch.export.export(folded.module, example, dynamic_shapes=dynamic_batch())
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # paths of the machine that exports
    # Compilers want an example input in the file; one number seen as two images keeps it small.
    program.example_inputs = ((torch.zeros(()).expand(2, in_chans, *size),), {})
    return Traced(program, folded.what)


def write_program(program: ExportedProgram, path: str | os.PathLike[str]) -> None:
    """Write a program as a ``.pt2`` file."""
    torch.export.save(program, os.fspath(path))


def first_line(error: BaseException) -> str:
    """What a library's error says, without the pages that follow; its kind, where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load_program(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The program of a bundle (its folder, or the file itself) as a function: normalised images (B, C, H, W) to logits (B, K, h, w).

    Raises :class:`BundleError` for a file that is missing or unreadable.
    """
    given = Path(path)
    file = given / "model.pt2" if given.is_dir() else given
    if not file.is_file():
        raise BundleError(f"{file}: no such file")
    try:
        module = torch.export.load(os.fspath(file)).module()
    except Exception as error:  # zip, JSON and torch errors of many kinds, all of which mean the same here
        raise BundleError(f"{file}: torch.export cannot read it: {first_line(error)}") from error

    def run(x_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            logits_BKhw: Tensor = module(x_BCHW)
        return logits_BKhw

    return run
