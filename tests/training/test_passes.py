"""Too little memory: smaller parts with the loss of the whole batch; and a compiled network."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from kits_share import BATCH, Full, make, trained, whole_batch
from kits_trainer import Told
from torch import nn

from nasseg.training.distributed import ALONE
from nasseg.training.losses import SegmentationLoss
from nasseg.training.microbatch import mass, out_of_memory, rehearse, shares, split_batch


def run(most: int, **options: Any) -> tuple[list[float], Full, int]:
    model = Full(most, options.pop("norm", False))
    loop = make(ALONE, model=model, ema=0.0, **options)
    told = Told()
    loop.run(told)
    return told.losses, model, loop.passes.parts


@pytest.mark.parametrize(("most", "parts", "tried"), [(2, 2, {2}), (1, 4, {1}), (3, 2, {2})])
def test_smaller_parts_have_the_loss_of_the_batch(most: int, parts: int, tried: set[int]) -> None:
    whole, _, _ = run(BATCH)
    losses, model, reached = run(most, oom="halve")
    assert losses == pytest.approx(whole, rel=2e-6)
    assert (reached, set(model.sizes)) == (parts, tried)


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(2, oom="halve")
        run(2, oom="halve", norm=True)
    assert [record.message for record in caplog.records] == [
        "out of memory at iteration 1: from here on 2 images at a time, 2 passes a batch; same batch, same loss of it",
        "out of memory at iteration 1: from here on 2 images at a time, 2 passes a batch; same batch, same loss of it; "
        "BatchNorm sees the smaller parts",
    ]


def test_an_iteration_is_begun_anew_with_its_batches() -> None:
    """Short of memory in the second batch of an iteration: neither its first batch nor a half gradient is lost or counted twice."""

    class Late(Full):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            if len(self.sizes) == 3:
                self.most = 2
            return super().forward(x_BCHW)

    whole, _, _ = run(BATCH, accumulation=2)
    model = Late(BATCH)
    told = Told()
    make(ALONE, model=model, ema=0.0, accumulation=2, oom="halve").run(told)
    assert told.losses == pytest.approx(whole, rel=2e-6)
    assert model.sizes[:8] == [4, 4, 4, 2, 2, 2, 2, 2]


def test_the_end_is_torchs_own_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        run(2, oom="fail")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        run(0, oom="halve")


def test_other_errors_are_not_tried_again() -> None:
    class Wrong(Full):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make(ALONE, model=Wrong(4), ema=0.0, oom="halve").run(Told())


def test_a_resumed_run_keeps_the_smaller_parts() -> None:
    first = make(ALONE, model=Full(2), ema=0.0, oom="halve")
    first.run(Told(stop_at=3))
    second = make(ALONE, model=Full(2), ema=0.0, oom="halve")
    second.restore(first.state())
    assert second.passes.parts == 2


def test_masses_by_hand() -> None:
    y_BHW = torch.tensor([[[0, 1], [255, 255]], [[1, 1], [1, 255]]])
    assert float(mass(nn.CrossEntropyLoss(ignore_index=255), y_BHW)) == 5
    assert float(mass(SegmentationLoss(class_weights=[0.5, 2.0]), y_BHW)) == 0.5 + 4 * 2.0
    assert shares(SegmentationLoss(), list(y_BHW), ALONE) == [2 / 5, 3 / 5]
    assert shares(SegmentationLoss(), [torch.full((1, 2, 2), 255)] * 2, ALONE) == [0.0, 0.0]


def test_parts_are_nearly_equal_and_never_empty() -> None:
    x_BCHW, y_BHW = whole_batch(0)
    assert [len(x) for x, _ in split_batch(x_BCHW, y_BHW, 3)] == [2, 1, 1]
    assert [len(y) for _, y in split_batch(x_BCHW, y_BHW, 9)] == [1, 1, 1, 1]


def test_a_rehearsal_leaves_no_gradient() -> None:
    model = Full(4)
    trained_ = list(model.parameters())
    assert rehearse(model, SegmentationLoss(), trained_, whole_batch(0))
    assert all(parameter.grad is None for parameter in trained_)
    assert not rehearse(Full(3), SegmentationLoss(), trained_, whole_batch(0))
    with pytest.raises(RuntimeError, match="must match"):
        rehearse(model, lambda logits, y: logits + torch.zeros(7), trained_, whole_batch(0))


def test_words_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_computes_the_same(backend: str) -> None:
    plain = trained(ALONE, None, 3, False, {})
    compiled = trained(ALONE, None, 3, False, {"compile": True, "compile_backend": backend})
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert set(compiled["model"]) == set(plain["model"])
