"""bench/models.py: what it compares, what it calls a miss, and that two processes of one tree agree."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "delta": 2e-5,
    "largest": 3.0,
    "gradients": 0.0,
    "model_before": 0.3,
    "model_after": 0.1,
    "decoder_before": 0.2,
    "decoder_after": 0.1,
    "memory_before": 2**22,
    "memory_after": 2**21,
}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("bench_models", ROOT / "bench" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_models"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_models"]


@pytest.fixture
def case(bench: ModuleType, tmp_path: Path) -> Any:
    weights = str(tmp_path / "weights.pt")
    return bench.Case("csap", "test_resnet", 64, 96, 3, "train", "cpu", "float32", 1, weights)


def test_a_row_in_figures(bench: ModuleType, case: Any) -> None:
    assert bench.row(case, FIGURES) == [
        *("csap", "test_resnet", "64x96", "3", "train 2", "2.0e-05 / 3.0", "0.0e+00", "100", "3.00", "100.0", "2.00", "2", "2.00")
    ]
    assert bench.row(replace(case, mode="eval"), FIGURES)[4:7] == ["eval 1", "2.0e-05 / 3.0", ""]
    assert bench.parse_size("1024x2048:19") == (1024, 2048, 19)
    assert bench.parse_size("64x96") == (64, 96, 19)
    assert [replace(case, height=1024, mode=mode).batch for mode in ("eval", "train")] == [1, 2]
    assert replace(case, height=1024, width=2048).batch == 1


def test_what_is_a_miss(bench: ModuleType, case: Any) -> None:
    half = replace(case, preset="scaseg", height=512, width=512, mode="eval")
    assert bench.missed(half, FIGURES) == []
    slower = bench.missed(replace(half, height=1024, width=2048), FIGURES)
    assert slower == ["scaseg on test_resnet, 1024x2048, eval: the decoder is 2.00 times as fast, not 3"]
    # The targets are for a CPU in evaluation.
    assert bench.missed(replace(half, height=1024, width=2048, mode="train"), FIGURES) == []
    off = bench.missed(case, {**FIGURES, "delta": 4e-4})
    assert off == ["csap on test_resnet, 64x96, train: logits differ by 4.0e-04, more than 0.0001"]
    assert bench.missed(replace(case, dtype="bfloat16"), {**FIGURES, "delta": 4e-4}) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_two_processes_of_one_tree_agree(bench: ModuleType, case: Any) -> None:
    bench.store_weights(case, None)
    figures = bench.compared(ROOT, case, 1, 0.0)
    assert figures["delta"] == 0
    assert figures["gradients"] == 0
    assert figures["largest"] > 0
    assert all(figures[name] > 0 for name in FIGURES if name.startswith(("model", "decoder")))
    assert "norm" in "".join(torch.load(case.weights, weights_only=True))
