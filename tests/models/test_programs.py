"""The decoder leaves Python whole: torch.compile, torch.export and ONNX agree with the module, for every value of every gene."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from kits_model import SMALL, covering_cases, image, kinds_read, tiny_model, width_or

from nasseg.genes.gene import GENES
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models.segmenter import SegModel

CASES = covering_cases()
SIZES = {name: ((64, 64), (37, 51))[place % 2] for place, name in enumerate(CASES)}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Compiled code of one case must not count as a recompilation of the next."""
    yield
    torch.compiler.reset()


def test_the_cases_hold_every_value_of_every_gene() -> None:
    read = set().union(*(kinds_read(genotype) for genotype in CASES.values()))
    assert read >= {(name, width_or(name, value)) for name, gene in GENES.items() for value in gene.values}


def exported(model: SegModel, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The program of a model for images of one size in batches of any."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    return torch.export.export(model, (image(2, size),), dynamic_shapes=({0: batch},))


@pytest.mark.parametrize("name", CASES)
def test_export_and_onnx_agree_with_the_module(name: str, tmp_path: Path) -> None:
    model, size = tiny_model(CASES[name]), SIZES[name]
    program = exported(model, size)
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "model.onnx")  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x_BCHW = image(batch, size)
        with torch.no_grad():
            logits = model(x_BCHW)
            torch.testing.assert_close(program.module()(x_BCHW), logits, rtol=1e-5, atol=1e-5)
        (of_onnx,) = session.run(None, {session.get_inputs()[0].name: x_BCHW.numpy()})
        torch.testing.assert_close(torch.from_numpy(of_onnx), logits, rtol=1e-4, atol=2e-5 * float(logits.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_compiles_as_one_graph(name: str) -> None:
    model, x_BCHW = tiny_model(CASES[name]), image(2, SIZES[name])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x_BCHW), model(x_BCHW), rtol=1e-5, atol=1e-5)


def test_compiled_training_step_agrees_with_the_module() -> None:
    # Ahead-of-time autograd traces the backward pass too; one design with every kind of attention is enough for that.
    raw = {**SMALL, "stage4.attention": "own", "stage3.attention": "stage4", "stage2.rank": "full", "stage1.rank": 0, "lpm": "coord"}
    model, x_BCHW = tiny_model(Genotype.from_dict(raw)).train(), image(2, (64, 64))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    weights = dict(model.named_parameters())
    expected = torch.autograd.grad(model(x_BCHW).square().mean(), list(weights.values()))
    got = torch.autograd.grad(compiled(x_BCHW).square().mean(), list(weights.values()))
    for name, one, other in zip(weights, got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.skipif("NASSEG_INDUCTOR" not in os.environ, reason="inductor runs a C++ compiler for half a minute: set NASSEG_INDUCTOR=1")
def test_inductor_agrees_with_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model: SegModel = tiny_model(Genotype.from_dict({**preset("csap").to_dict(), "fusion_width": 16}))
    x_BCHW = image(2, (64, 64))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x_BCHW), model(x_BCHW), rtol=1e-4, atol=1e-4)
