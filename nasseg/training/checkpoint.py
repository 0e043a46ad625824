"""Whole-state checkpoints of a run, and the weights file it leaves."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from nasseg.errors import StudyError, WeightsError
from nasseg.files import write_atomic
from nasseg.models.auxiliary import without_auxiliary

FORMAT = 1
LAST = "last.pt"
PREVIOUS = "previous.pt"
WEIGHTS = "model.safetensors"

log = logging.getLogger(__name__)


def kept_names(keep: int) -> list[str]:
    """The files of the newest ``keep`` checkpoints, the newest first: last.pt, previous.pt, previous-2.pt, …"""
    return [LAST, PREVIOUS, *(f"previous-{number}.pt" for number in range(2, keep))][:keep]


def save_checkpoint(folder: Path, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write ``last.pt`` whole or not at all; of the ones before, the newest ``keep`` - 1 stay as ``previous.pt``, ``previous-2.pt``, ….

    One file holds everything, so no two parts of a state can come from different iterations. Killed at any moment, the folder holds at
    least one whole checkpoint once one was written. Raises :class:`StudyError` where the folder cannot be written.
    """
    last = folder / LAST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{LAST}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            names = kept_names(keep)
            for newer, older in reversed(list(itertools.pairwise(names))):
                if (folder / newer).exists():
                    os.replace(folder / newer, folder / older)
            os.replace(temporary, last)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise StudyError(f"{last}: the checkpoint cannot be written ({error.strerror})") from error
    return last


def checkpoint_files(place: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint files at ``place``, the newest first: a file and its predecessor, a ``checkpoints`` folder, or a run's folder."""
    path = Path(place)
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        files = [folder / LAST, folder / PREVIOUS, *_older(folder)]
    else:
        # A missing last.pt may have its predecessor: the process was killed between two renames.
        files = [path, path.with_name(LAST), path.with_name(PREVIOUS), *_older(path.parent)] if path.suffix == ".pt" else [path]
    return [file for file in dict.fromkeys(files) if file.is_file()]


def _older(folder: Path) -> list[Path]:
    """``previous-2.pt`` and so on, the newest first."""
    numbered = [(path.stem.removeprefix("previous-"), path) for path in folder.glob("previous-*.pt")]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdigit())]


def load_checkpoint(place: str | os.PathLike[str]) -> dict[str, Any]:
    """The newest whole checkpoint at ``place`` (see :func:`checkpoint_files`), on the CPU.

    A torn or damaged one is passed over with a warning in the log. Only tensors and plain values are read (``weights_only``), so a
    stranger's file runs no code.
    Raises :class:`WeightsError` where none is left, or where it was written by a newer nasseg.
    """
    files = checkpoint_files(place)
    if not files:
        raise WeightsError(f"{place}: there is no checkpoint to go on from")
    for file in files:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            version = int(state["format"])
        # torch raises many kinds for a damaged file: RuntimeError, UnpicklingError, EOFError, KeyError, OSError
        except Exception as error:
            log.warning("%s cannot be read and is passed over (%s)", file, str(error).partition(". ")[0] or type(error).__name__)
            continue
        if version > FORMAT:
            raise WeightsError(f"{file}: written by a newer nasseg (format {version}; this one reads {FORMAT})")
        return dict(state)
    raise WeightsError(f"{place}: no whole checkpoint is left; unreadable: {', '.join(file.name for file in files)}")


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU, in plain memory order, without those of an auxiliary head."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in without_auxiliary(model.state_dict()).items()}


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """``weights`` as safetensors, atomically."""
    write_atomic(path, safetensors.torch.save(dict(weights), dict(metadata)))
    return path
