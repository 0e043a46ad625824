"""A trained network that teaches another: read from a bundle or a run's folder, asked on the student's own batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nasseg.errors import BundleError, ConfigError, Problem
from nasseg.files import read_json_or_none, read_yaml
from nasseg.genes.genotype import Genotype
from nasseg.models.backbones.contract import BackboneSpec
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.models.segmenter import SegModel, build, covers
from nasseg.training.checkpoint import WEIGHTS

GENOTYPE = "genotype.yaml"
FACTS = ("preprocessing.json", "run.yaml")
"""What says how images reach the network and what its classes are: a bundle's file and a run's."""
LISTED = 3
"""Names of classes an error lists at most."""


@dataclass(frozen=True, kw_only=True)
class TeacherFiles:
    """Where a teacher lies and what it is, without its weights. ``digest`` tells two trainings of one design apart."""

    folder: Path
    genotype: Genotype
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    pad_multiple: int = PAD_MULTIPLE

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a bundle's or a run's folder; raises :class:`BundleError` for anything else and for a run without weights yet."""
        folder = Path(path).expanduser().resolve()
        if not folder.is_dir():
            raise BundleError(
                f"teacher {folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a bundle or a training run"
            )
        facts = read_json_or_none(folder / FACTS[0]) or (read_yaml(folder / FACTS[1]) if (folder / FACTS[1]).is_file() else None)
        if not isinstance(facts, Mapping) or not (folder / GENOTYPE).is_file():
            raise BundleError(f"teacher {folder}: neither a bundle ({FACTS[0]}) nor a training run ({FACTS[1]})")
        lost = [key for key in ("classes", "mean", "std") if key not in facts]
        if lost:
            raise BundleError(f"teacher {folder}: {', '.join(lost)} missing")
        if not (folder / WEIGHTS).is_file():
            raise BundleError(f"teacher {folder}: no {WEIGHTS} yet: a run has it from its first validation on")
        with (folder / WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return cls(
            folder=folder,
            genotype=Genotype.load(folder / GENOTYPE),
            classes=tuple(str(name) for name in facts["classes"]),
            mean=tuple(float(value) for value in facts["mean"]),
            std=tuple(float(value) for value in facts["std"]),
            digest=digest,
            # A run has it among its settings; files of an earlier nasseg have it nowhere.
            pad_multiple=int(facts.get("pad_multiple", facts.get("settings", {}).get("pad_multiple", PAD_MULTIPLE))),
        )

    def identity(self) -> dict[str, Any]:
        """Who teaches, wherever it lies: genotype and weights. Stands in ``run.yaml`` and decides whether a run can be gone on with."""
        return {"genotype": self.genotype.id, "backbone": self.genotype.backbone, "weights": self.digest}

    def check(self, classes: Sequence[str], in_chans: int) -> None:
        """Raise :class:`ConfigError` unless it answers with these classes in this order about images of that many channels."""
        if self.classes != tuple(classes):
            raise ConfigError(
                Problem("trainer", "distill", f"the teacher's classes are not the data's: {difference(self.classes, classes)}")
            )
        if len(self.mean) != in_chans:
            raise ConfigError(Problem("trainer", "distill", f"the teacher sees {len(self.mean)} channels, the student {in_chans}"))

    def load(self) -> SegModel:
        """The network in eval mode; raises :class:`BundleError` where the weights do not fit."""
        # Its first weights are thrown away: the run's random numbers stay where they are.
        with torch.random.fork_rng(devices=[]):
            model = build(self.genotype, len(self.classes), in_chans=len(self.mean), pad_multiple=self.pad_multiple)
        try:
            model.load_state_dict(safetensors.torch.load_file(self.folder / WEIGHTS))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise BundleError(f"teacher {self.folder}: {WEIGHTS} does not fit {GENOTYPE} ({str(error).splitlines()[0]})") from error
        return model.eval().requires_grad_(False)


def difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """How two lists of classes differ, in words."""
    missing = [name for name in ours if name not in theirs]
    further = [name for name in theirs if name not in ours]
    parts = [f"{len(theirs)} classes there, {len(ours)} here"] if len(theirs) != len(ours) else []
    for names, said in ((missing, "it does not know"), (further, "the data do not have")):
        if names:
            parts.append(f"{said} {', '.join(names[:LISTED])}{' and others' if len(names) > LISTED else ''}")
    if not missing and not further:
        at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), 0)
        parts.append(f"the same names in another order, from number {at} on ({theirs[at]} there, {ours[at]} here)")
    return "; ".join(parts)


class Teacher(nn.Module):
    """Answers about batches that were normalised for another network: x' = (x · std + mean - its mean) / its std, per channel.

    Without gradient and always in eval mode.
    """

    shift_C11: Tensor
    scale_C11: Tensor

    def __init__(
        self, model: nn.Module, *, mean: Sequence[float], std: Sequence[float], own_mean: Sequence[float], own_std: Sequence[float]
    ) -> None:
        """``mean`` and ``std`` are those the batches have, ``own_mean`` and ``own_std`` those the teacher was trained with."""
        super().__init__()
        self.model = model
        self.identity: dict[str, Any] = {}
        given_mean, given_std, own, spread = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std, own_mean, own_std))
        self.register_buffer("scale_C11", (given_std / spread).float())
        self.register_buffer("shift_C11", ((given_mean - own) / spread).float())
        self.train(False)
        self.same = tuple(mean) == tuple(own_mean) and tuple(std) == tuple(own_std)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) as the student sees it → logits (B, K, h, w) over the same field of view."""
        exact = covers(self.model, x_BCHW.shape[2], x_BCHW.shape[3])
        with torch.no_grad():
            x_BCHW = x_BCHW if self.same else x_BCHW * self.scale_C11 + self.shift_C11
            logits_BKhw: Tensor = self.model(x_BCHW) if exact else self.model.predict(x_BCHW)  # type: ignore[operator]
        return logits_BKhw


def open_teacher(path: str, classes: Sequence[str], student: BackboneSpec) -> Teacher:
    """The network of a bundle or run, for batches normalised for ``student``.

    Raises :class:`BundleError` for what is neither, :class:`ConfigError` for other classes or channels.
    """
    files = TeacherFiles.open(path)
    files.check(classes, student.in_chans)
    teacher = Teacher(files.load(), mean=student.mean, std=student.std, own_mean=files.mean, own_std=files.std)
    teacher.identity = files.identity()
    return teacher
