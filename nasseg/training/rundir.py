"""The folder of one training run.

runs/Y/
├── run.yaml             what was asked for, every setting resolved
├── genotype.yaml        the network
├── log.csv              one row an iteration
├── model.safetensors    the weights that are kept
├── metrics.json         their numbers, with protocol
├── curves.png           log.csv as a picture
└── checkpoints/         last.pt, previous.pt: the whole state
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from safetensors import SafetensorError

from nasseg.data.class_weights import NONE, weigh_classes
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, NassegError, RunFailed, StudyError
from nasseg.files import dump_yaml, read_json_or_none, read_yaml
from nasseg.genes.genotype import Genotype
from nasseg.metric import METRICS
from nasseg.models.backbones.pretrained import identities
from nasseg.models.backbones.registry import describe_backbone
from nasseg.models.segmenter import SegModel, build
from nasseg.published.network import file_digest, weights_file
from nasseg.training.checkpoint import WEIGHTS, checkpoint_files
from nasseg.training.config import TrainingConfig
from nasseg.training.curves import SPEED, LogFile, draw_curves
from nasseg.training.device import resolve_device
from nasseg.training.distributed import world
from nasseg.training.environment import stamp
from nasseg.training.loop import MEASURED
from nasseg.training.objectives import check_metrics
from nasseg.training.protocol import Protocol
from nasseg.training.teacher import TeacherFiles
from nasseg.training.tracking import Trackers, check_tracking
from nasseg.training.trainer import Recipe, load_trainer
from nasseg.training.trial import Report, Result, Trial

FORMAT = 1
RUN = "run.yaml"
GENOTYPE = "genotype.yaml"
LOG = "log.csv"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """A run's folder: made by :meth:`create`, read by :meth:`open`. ``facts`` is the content of ``run.yaml``."""

    path: Path
    genotype: Genotype
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a run's folder; raises :class:`BundleError` where it is none, is damaged, or was written by a newer nasseg."""
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{folder}: {'not a folder; a run is one' if folder.exists() else 'no such folder'}")
        missing = [name for name in (RUN, GENOTYPE) if not (folder / name).is_file()]
        if missing:
            raise BundleError(f"{folder}: not a training run: {' and '.join(missing)} missing")
        try:
            facts = read_yaml(folder / RUN)
            genotype = Genotype.load(folder / GENOTYPE)
        except ConfigError as error:
            raise BundleError(str(error)) from error
        wanted = ("trainer", "settings", "data", "classes", "palette", "size", "in_chans", "mean", "std", "seed")
        if not isinstance(facts, Mapping) or not isinstance(facts.get("format"), int):
            raise BundleError(f"{folder / RUN}: not the description of a training run")
        if facts["format"] > FORMAT:
            raise BundleError(f"{folder / RUN}: written by a newer nasseg (format {facts['format']}; this one reads {FORMAT})")
        lost = [key for key in wanted if key not in facts]
        if lost:
            raise BundleError(f"{folder / RUN}: {', '.join(lost)} missing")
        return cls(path=folder, genotype=genotype, facts=facts)

    @classmethod
    def create(cls, path: str | os.PathLike[str], trial: Trial, *, resume: bool = False) -> Self:
        """The folder of ``trial``, new or, with ``resume``, the one it was begun in.

        Everything given is checked before anything is written. Raises :class:`StudyError` for a folder that holds something else, another
        run (saying what differs), or this very run where ``resume`` was not asked for; and for one that cannot be written.
        """
        folder = Path(path)
        made = cls(path=folder, genotype=trial.genotype, facts=describe(trial))
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not (folder / RUN).is_file():
                raise StudyError(f"{folder}: holds something that is not a training run; give another --out")
            made._same_as(cls.open(folder), resume)
            return made
        made._write()
        return made

    @property
    def weights(self) -> Path:
        """The weights that are kept: the best validation's or the last's, averaged where EMA was on."""
        return self.path / WEIGHTS

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of training and evaluation."""
        height, width = self.facts["size"]
        return int(height), int(width)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(str(name) for name in self.facts["classes"])

    @property
    def protocol(self) -> Protocol:
        """How the run validates, from its settings; those that an earlier nasseg did not write have defaults that do what it did."""
        config = TrainingConfig.model_construct(**self.facts["settings"])
        try:
            return Protocol(**config.protocol(self.size))
        except (ConfigError, TypeError, ValueError) as error:
            raise BundleError(f"{self.path / RUN}: its settings are no way to validate: {error}") from error

    @property
    def metrics(self) -> Mapping[str, Any]:
        """``metrics.json``: ``metrics``, ``per_class``, ``protocol``, ``iteration``; :class:`BundleError` before the first."""
        found = read_json_or_none(self.path / MEASURED)
        if found is None:
            raise BundleError(f"{self.path}: no {MEASURED} yet: this run has not come to its first validation")
        return found

    def trial(self) -> Trial:
        """The trial this folder was made for, to be gone on with."""
        return Trial(
            genotype=self.genotype,
            data=str(self.facts["data"]),
            size=self.size,
            trainer=str(self.facts["trainer"]),
            settings=dict(self.facts["settings"]),
            seed=int(self.facts["seed"]),
            weights=self.facts.get("weights"),
            pretrained=bool(self.facts.get("pretrained", False)),
            network=(self.facts.get("network") or {}).get("path"),
        )

    def load_model(self) -> SegModel:
        """The trained network in eval mode on the CPU; :class:`BundleError` where its weights are missing, torn, or of another."""
        if not self.weights.is_file():
            raise BundleError(f"{self.path}: no {WEIGHTS} yet: this run has not come to its first validation")
        model = build(self.genotype, len(self.classes), in_chans=int(self.facts["in_chans"]), pad_multiple=self.protocol.pad_multiple)
        try:
            tensors = safetensors.torch.load_file(self.weights)
            model.load_state_dict(tensors)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise BundleError(f"{self.weights}: not the weights of {GENOTYPE} beside it ({str(error).splitlines()[0]})") from error
        return model.eval()

    def run(self, report: Report) -> Result:
        """Train in this folder, from its checkpoint where there is one; every iteration goes into ``log.csv`` and then to ``report``.

        Bad input that shows only now (a weights file of another model, a truncated image) leaves no folder behind, unless there is already
        a checkpoint in it to go on from. Of several processes the first one writes.
        """
        here = world()
        trial = self.trial()
        parent = self.path / CHECKPOINTS if checkpoint_files(self.path / CHECKPOINTS) else None
        trial = trial.attempt(str(self.path) if here.first else None, None if parent is None else str(parent))
        trainer = load_trainer(trial.trainer)(trial.settings)
        log = LogFile(self.path / LOG, [SPEED, *(f"{name}{tail}" for tail in self._tails() for name in self._measured())])
        started = before = time.monotonic()
        images = trainer.config.batch_size * trainer.config.accumulation if isinstance(trainer, Recipe) else 0

        trackers = Trackers(self.facts["settings"].get("tracking", ()) if here.first else (), self.path, self.facts)

        def logged(iteration: int, metrics: Mapping[str, float]) -> bool:
            nonlocal before
            now = time.monotonic()
            if here.first:
                row = {SPEED: round(images / max(now - before, 1e-6), 2), **metrics} if images else metrics
                log.write(iteration, now - started, row)
                trackers.write(iteration, row)
            before = now
            return report(iteration, metrics)

        try:
            with trackers:
                result: Result = trainer.run(trial, logged)
                trackers.failed = result.status == Result.FAILED
        except NassegError as error:
            if here.first and not isinstance(error, RunFailed) and not checkpoint_files(self.path / CHECKPOINTS):
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        if here.first and (self.path / LOG).is_file():
            draw_curves(self.path / LOG, self.path / CURVES, f"{self.genotype.backbone} · {self.genotype.short()}")
        return result

    def _measured(self) -> list[str]:
        """Names of the metrics of one split."""
        always = (metric.name for metric in METRICS if not metric.on_request)
        return list(dict.fromkeys((*always, *self.facts["settings"].get("metrics", ()))))

    def _tails(self) -> list[str]:
        """What stands behind the names of metrics: nothing for val, _SPLIT for further splits."""
        others = [
            name for name in self.facts["splits"] if name not in ("train", "val") and (name != "test" or self.facts["settings"]["test"])
        ]
        return ["", *(f"_{name}" for name in others)]

    def _same_as(self, there: RunDir, resume: bool) -> None:
        config = load_trainer(str(self.facts["trainer"])).Config
        mine, theirs = _compared(self, config), _compared(there, config)
        keys = [*mine, *(key for key in theirs if key not in mine)]
        differing = [f"{key} {theirs.get(key)} there, {mine.get(key)} here" for key in keys if mine.get(key) != theirs.get(key)]
        if differing:
            raise StudyError(f"{self.path} holds another run: {'; '.join(differing)}; give another --out")
        if not resume:
            raise StudyError(f"{self.path} holds this run already; add --resume to go on with it, or give another --out")

    def _write(self) -> None:
        """Both files at once: a folder made beside the target and moved into place."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}."))
            try:
                self.genotype.save(temporary / GENOTYPE)
                (temporary / RUN).write_text(dump_yaml(dict(self.facts)), encoding="utf-8")
                temporary.chmod(0o755)
                os.replace(temporary, self.path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except OSError as error:
            raise StudyError(f"{self.path}: cannot be written ({error.strerror})") from error


def describe(trial: Trial) -> dict[str, Any]:
    """``run.yaml`` of a trial. Opens the data and looks the backbone up, and so raises for whatever is wrong with either."""
    config = load_trainer(trial.trainer).Config.parse(trial.settings, where=f"trainer {trial.trainer}")
    config = config.on_backbone(from_scratch=trial.from_scratch)
    check_tracking(config.tracking)
    data = open_data(trial.data)
    data.split("train"), data.split("val")
    if trial.genotype.backbone is None:
        # build's own sentence for it
        build(trial.genotype, data.num_classes)
    spec = describe_backbone(str(trial.genotype.backbone))
    check_metrics(config.metrics, METRICS, data, test=config.test, where=f"trainer {trial.trainer}", key="metrics")
    published = identities((spec.name,)) if trial.pretrained and trial.weights is None else {}
    settings, teacher = config.model_dump(), None
    if config.distill:
        files = TeacherFiles.open(config.distill)
        files.check(data.classes, spec.in_chans)
        settings["distill"], teacher = str(files.folder), files.identity()
    return {
        "format": FORMAT,
        "trainer": trial.trainer,
        "settings": settings,
        **({} if teacher is None else {"teacher": teacher}),
        **({} if config.class_weights == NONE else {"class_weights": weigh_classes(config.class_weights, data).to_dict(data.classes)}),
        "data": data.spec,
        "data_fingerprint": data.fingerprint,
        "splits": {name: len(split) for name, split in data.splits.items()},
        "classes": list(data.classes),
        "palette": [list(colour) for colour in data.palette],
        "size": list(trial.size),
        "in_chans": spec.in_chans,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "seed": trial.seed,
        "weights": None if trial.weights is None else str(Path(trial.weights).expanduser().resolve()),
        "pretrained": trial.pretrained,
        **({} if trial.network is None else {"network": _origin(trial.network)}),
        **({"pretrained_weights": published} if published else {}),
        "environment": stamp(resolve_device(config.device)),
    }


def _origin(network: str) -> dict[str, Any]:
    """Where a published network lies, and what tells it from another."""
    place = Path(network).expanduser().resolve()
    return {"path": str(place), "sha256": file_digest(weights_file(place))}


def _compared(run: RunDir, config: type[TrainingConfig]) -> dict[str, Any]:
    """What must agree for two descriptions to be of one run: neither places nor operational settings.

    A setting that an earlier nasseg did not know has its default, which computes what was computed then.
    """
    facts = run.facts
    defaults = {name: info.default for name, info in config.model_fields.items()}
    settings = {f"trainer.{name}": value for name, value in {**defaults, **facts["settings"]}.items() if name not in config.OPERATIONAL}
    names = ("trainer", "data_fingerprint", "size", "seed", "pretrained", "teacher")
    origins = {
        "network": (facts.get("network") or {}).get("sha256"),
        "pretrained_weights": (facts.get("pretrained_weights") or {}).get("digest"),
    }
    return {**run.genotype.flat(), **{name: facts.get(name) for name in names}, **origins, **settings}
