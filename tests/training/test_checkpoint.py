"""Checkpoints: whole or not at all, the one before as a spare, nothing unpickled."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from nasseg.errors import StudyError, WeightsError
from nasseg.training.checkpoint import LAST, PREVIOUS, checkpoint_files, load_checkpoint, plain_weights, save_checkpoint, write_weights


def two(folder: Path) -> Path:
    """A folder with the checkpoints of iterations 1 and 2."""
    for iteration in (1, 2):
        save_checkpoint(folder, {"iteration": iteration, "model": {"w": torch.arange(1000.0)}})
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(os.urandom(500))


def head_lost(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\0" * 200 + data[200:])


def no_dictionary(path: Path) -> None:
    torch.save([1, 2], path)


DAMAGES = [cut, empty, scramble, head_lost, no_dictionary]


def test_last_and_the_one_before(tmp_path: Path) -> None:
    two(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert load_checkpoint(tmp_path)["iteration"] == 2
    assert load_checkpoint(tmp_path / PREVIOUS)["iteration"] == 1


@pytest.mark.parametrize(("keep", "names"), [(1, ["last.pt"]), (4, ["last.pt", "previous-2.pt", "previous-3.pt", "previous.pt"])])
def test_as_many_are_kept_as_asked_for(tmp_path: Path, keep: int, names: list[str]) -> None:
    for iteration in range(1, 7):
        save_checkpoint(tmp_path, {"iteration": iteration}, keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [load_checkpoint(file)["iteration"] for file in checkpoint_files(tmp_path)] == [6, 5, 4, 3][:keep]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_one_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    two(tmp_path)
    damage(tmp_path / LAST)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path)["iteration"] == 1
    assert "last.pt cannot be read and is passed over" in caplog.text


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    two(tmp_path)
    (tmp_path / LAST).unlink()
    assert load_checkpoint(tmp_path)["iteration"] == 1


def test_none_left_is_said(tmp_path: Path) -> None:
    two(tmp_path)
    for name in (LAST, PREVIOUS):
        cut(tmp_path / name)
    with pytest.raises(WeightsError, match=r"no whole checkpoint is left; unreadable: last\.pt, previous\.pt"):
        load_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="there is no checkpoint to go on from"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 2}, tmp_path / LAST)
    with pytest.raises(WeightsError, match=r"written by a newer nasseg .format 2; this one reads 1."):
        load_checkpoint(tmp_path)


class Stranger:
    """What a hostile file would run when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_strangers_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Stranger()}, LAST)
    (tmp_path / PREVIOUS).write_bytes(pickle.dumps(Stranger()))
    with pytest.raises(WeightsError, match="no whole checkpoint is left"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(tmp_path)

    def full(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StudyError, match=r"last\.pt: the checkpoint cannot be written .No space left on device."):
        save_checkpoint(tmp_path, {"iteration": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert load_checkpoint(tmp_path)["iteration"] == 2


def test_found_by_file_folder_and_run(tmp_path: Path) -> None:
    folder = two(tmp_path / "checkpoints")
    both = [folder / LAST, folder / PREVIOUS]
    assert checkpoint_files(tmp_path) == checkpoint_files(folder) == checkpoint_files(folder / LAST) == both
    other = folder / "older.pt"
    other.write_bytes((folder / PREVIOUS).read_bytes())
    assert checkpoint_files(other) == [other, *both]
    assert checkpoint_files(tmp_path / "none") == []


def test_weights_are_plain_copies(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    weights = plain_weights(model)
    before = weights["weight"].clone()
    model.weight.data.zero_()
    assert torch.equal(weights["weight"], before)
    assert weights["weight"].is_contiguous()
    path = write_weights(tmp_path / "deep" / "model.safetensors", weights, {"iteration": "7"})
    assert torch.equal(load_file(path)["weight"], before)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"iteration": "7"}
