"""Sliding windows and streamed argmax, against doing everything at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.training import windows
from nasseg.training.windows import label_rows, positions, slide, taper, whole_cells


@pytest.mark.parametrize(
    ("length", "window", "step", "expected"),
    [
        (10, 10, 5, [0]),
        (7, 10, 5, [0]),
        (20, 10, 5, [0, 5, 10]),
        (22, 10, 6, [0, 6, 12]),
        (23, 10, 6, [0, 6, 12, 13]),
        (11, 10, 10, [0, 1]),
    ],
)
def test_positions(length: int, window: int, step: int, expected: list[int]):
    assert positions(length, window, step) == expected


def test_taper_falls_over_the_shared_cells():
    assert taper(6, 2).tolist() == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert taper(3, 0).tolist() == [1.0, 1.0, 1.0]


def test_whole_cells():
    assert [whole_cells(v, 4) for v in (0.5, 5, 6, 400.1)] == [1, 1, 2, 100]


@settings(max_examples=40, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    window=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    step=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_windows_of_a_local_network_give_what_one_piece_gives(grid: tuple[int, int], window: tuple[int, int], step: tuple[int, int]):
    # Logits that depend on their own cell alone: any average of overlapping windows must leave them as they are.
    step = (min(step[0], window[0]), min(step[1], window[1]))
    truth = torch.randn(2, *grid, generator=torch.Generator().manual_seed(0))
    padded = F.pad(truth, (0, window[1], 0, window[0]))
    rows = list(slide(lambda x: x, lambda top, left: padded[:, top : top + window[0], left : left + window[1]], grid, window, step))
    torch.testing.assert_close(torch.cat(rows, dim=1), truth)


def test_overlapping_windows_are_averaged_by_weight():
    # Two windows of 4 cells that share 2: the first says 0, the second 1. Weights in the shared cells: 1, 1/2 and 1/2, 1.
    answers = iter([torch.zeros(1, 1, 4), torch.ones(1, 1, 4)])
    batches = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        batches.append(len(x))
        return x

    (row,) = slide(forward, lambda top, left: next(answers), (1, 6), (1, 4), (1, 2))
    torch.testing.assert_close(row[0, 0], torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1]))
    assert batches == [2]


def test_windows_go_through_the_network_in_small_batches_and_rows_leave_early():
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x

    chunks = [rows.shape[1] for rows in slide(forward, lambda top, left: torch.zeros(2, 4, 4), (10, 22), (4, 4), (2, 2))]
    assert chunks == [2, 2, 2, 4]
    assert seen == [4, 4, 2] * 4


@settings(max_examples=40, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunk=st.integers(1, 5),
    strip=st.sampled_from([1, 2000, 2**26]),
)
def test_streamed_argmax_is_argmax_of_the_resized_logits(grid: tuple[int, int], size: tuple[int, int], chunk: int, strip: int):
    logits = torch.randn(3, *grid, generator=torch.Generator().manual_seed(1))
    resized = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "STRIP_BYTES", strip)
        mask = torch.from_numpy(label_rows(logits.split(chunk, dim=1), grid, size))
    # Equal but where two classes tie to within rounding.
    gap = resized.amax(dim=0) - resized.gather(0, mask[None].long())[0]
    assert mask.shape == size
    assert gap.max() < 1e-5
