"""Weights of the front: copied out of the trials' folders when they are told, dropped when the front moves on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

WEIGHTS = "model.safetensors"


class FrontCheckpoints:
    """``checkpoints/NUMBER/model.safetensors`` of the trials on the front; and an end to ``work/NUMBER`` of every told trial."""

    def __init__(self, folder: Path) -> None:
        self.kept = folder / "checkpoints"
        self.work = folder / "work"

    def settle(self, number: int, checkpoint: str | None, on_front: bool) -> None:
        """A trial was told: keep its weights if it is on the front, then drop its folder. Doing it twice changes nothing."""
        if on_front and checkpoint is not None and Path(checkpoint).is_file():
            target = self.kept / str(number) / WEIGHTS
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_suffix(".part")
            shutil.copyfile(checkpoint, temporary)
            os.replace(temporary, target)
        shutil.rmtree(self.work / str(number), ignore_errors=True)

    def prune(self, front: Iterable[int]) -> None:
        """Drop the weights of trials that have left the front."""
        staying = {str(number) for number in front}
        for folder in self.kept.glob("*"):
            if folder.name not in staying:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, running: Iterable[int]) -> None:
        """Drop the folders of trials that no longer run, as a killed driver leaves them, and the empty folder above them."""
        staying = {str(number) for number in running}
        for folder in self.work.glob("*"):
            if folder.name not in staying:
                shutil.rmtree(folder, ignore_errors=True)
        if self.work.is_dir() and not any(self.work.iterdir()):
            self.work.rmdir()

    def path(self, number: int) -> Path | None:
        """The kept weights of a trial, None where there are none."""
        found = self.kept / str(number) / WEIGHTS
        return found if found.is_file() else None
