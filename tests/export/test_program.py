"""Programs of torch.export: written small, read with a sentence where they are broken."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from nasseg.errors import BundleError
from nasseg.export.program import load_program, trace, write_program


class Shift(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW[:, :, ::2, ::2] + self.by[:, None, None]


def test_a_program_takes_any_batch_and_holds_neither_paths_nor_pictures(tmp_path: Path):
    model = Shift().eval()
    write_program(trace(model, (200, 300), 3).program, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").stat().st_size < 100_000  # two images are 1.4 MB
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert all(str(Path(__file__).parent).encode() not in archive.read(name) for name in archive.namelist())
    for path in (tmp_path, tmp_path / "model.pt2"):
        forward = load_program(path)
        for batch in (1, 5):
            x = torch.randn(batch, 3, 200, 300)
            assert torch.equal(forward(x), model(x).detach())
            assert not forward(x).requires_grad


def test_missing_and_broken_files(tmp_path: Path):
    with pytest.raises(BundleError, match=r"model\.pt2: no such file"):
        load_program(tmp_path)
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(BundleError, match=r"model\.pt2: torch\.export cannot read it: "):
        load_program(tmp_path)
