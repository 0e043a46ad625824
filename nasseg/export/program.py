"""The ``torch.export`` program of a bundle: runs without nasseg, and is where other compilers start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasseg.errors import BundleError


def batch_of_two(size: tuple[int, int], in_chans: int) -> Tensor:
    """An example input. Two images, because an exporter takes a dimension of one for a constant."""
    return torch.zeros(2, in_chans, *size)


def dynamic_batch() -> tuple[dict[int, Any]]:
    """The first dimension of the one input may be anything from 1."""
    return ({0: torch.export.Dim("batch", min=1)},)


def write_program(model: nn.Module, path: str | os.PathLike[str], size: tuple[int, int], in_chans: int) -> None:
    """Write ``model.forward`` (eval mode, on the CPU) as a program for any batch of images of one size.

    Raises whatever the exporter raises.
    """
    with torch.no_grad():
        program = torch.export.export(model, (batch_of_two(size, in_chans),), dynamic_shapes=dynamic_batch())
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # paths of the machine that exports
    # Compilers want an example input in the file; one number seen as two images keeps it small.
    program.example_inputs = ((torch.zeros(()).expand(2, in_chans, *size),), {})
    torch.export.save(program, os.fspath(path))


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
        raise BundleError(
            f"{file}: torch.export cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error

    def run(x_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            logits_BKhw: Tensor = module(x_BCHW)
        return logits_BKhw

    return run
