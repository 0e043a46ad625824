"""One trial made concrete: its data, network, transforms and loop. The pieces a recipe is composed of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nasseg.data.class_weights import ClassWeights, weigh_classes
from nasseg.data.dataset import DataSet
from nasseg.data.layouts import open_data
from nasseg.data.loader import train_batches
from nasseg.errors import ConfigError, DataError, Problem, TrainingFailed, WeightsError
from nasseg.metric import METRICS
from nasseg.models.auxiliary import load_network
from nasseg.models.backbones.contract import Backbone
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.models.segmenter import SegModel, build, covers
from nasseg.published.network import Published
from nasseg.training.augment import train_sampler, train_transform
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.config import TrainingConfig
from nasseg.training.device import seed_everything
from nasseg.training.distill import DistillationLoss, Taught
from nasseg.training.distributed import ALONE, OwnFailure, PeerLost, World, peer_lost, world
from nasseg.training.environment import stamp
from nasseg.training.evaluate import evaluate_splits
from nasseg.training.loop import Loop, Outcome
from nasseg.training.losses import SegmentationLoss
from nasseg.training.metrics import Metrics
from nasseg.training.microbatch import out_of_memory
from nasseg.training.objectives import check_metrics
from nasseg.training.protocol import Protocol
from nasseg.training.teacher import Teacher, open_teacher
from nasseg.training.trial import Report, Result, Trial

CROP_STEP = 32


@dataclass(frozen=True)
class Job:
    """Made by :meth:`open`; ``iterations`` is the length of the whole schedule, fidelity included."""

    trial: Trial
    config: TrainingConfig
    data: DataSet
    model: SegModel
    device: torch.device
    iterations: int
    teacher: Teacher | None = None
    world: World = ALONE

    @classmethod
    def open(cls, trial: Trial, config: TrainingConfig) -> Self:
        """Seed, read the data, build the network. Raises the :class:`NassegError` of whatever was given wrongly.

        In a run of several processes each opens the job for itself, with the same weights; what one finds wrong is raised in all.
        """
        there = world()
        made: Self | None = None
        with there.together():
            made = cls._open(trial, config, there)
        assert made is not None  # together has raised otherwise
        there.seed(trial.seed)
        return made

    @classmethod
    def _open(cls, trial: Trial, config: TrainingConfig, there: World) -> Self:
        there.share(config.batch_size)
        config = config.on_backbone(from_scratch=trial.from_scratch)
        # A protocol that makes no sense is said before the data are read.
        Protocol(**config.protocol(trial.size))
        device = there.place(config.device)
        data = open_data(trial.data)
        data.split("train"), data.split("val")
        check_metrics(config.metrics, METRICS, data, test=config.test, where=f"trainer {trial.trainer}", key="metrics")
        seed_everything(trial.seed)
        model = build(
            trial.genotype,
            data.num_classes,
            pretrained=trial.pretrained,
            weights=trial.weights,
            drop_path=config.drop_path,
            dropout=config.dropout,
            pad_multiple=config.pad_multiple,
        )
        if trial.network is not None and trial.parent is None:
            begin_with(model, trial.network, data.classes)
        if config.aux_loss:
            _check_auxiliary(trial.size, config)
            model.add_auxiliary()
        assert isinstance(model.backbone, Backbone)
        teacher = open_teacher(config.distill, data.classes, model.backbone.spec).to(device) if config.distill else None
        job = cls(trial, config, data, model, device, max(1, round(config.iterations * trial.fidelity)), teacher, there)
        if config.freeze_backbone:
            job.backbone.freeze()
        return job

    @property
    def backbone(self) -> Backbone:
        """The network's encoder, which says how images are normalised."""
        assert isinstance(self.model.backbone, Backbone)
        return self.model.backbone

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the outcome: a checkpoint is gone on from only where all of it agrees. No paths, no operational settings."""
        return {
            "genotype": self.trial.genotype.id,
            "data": self.data.fingerprint,
            "classes": self.data.num_classes,
            "size": list(self.trial.size),
            "seed": self.trial.seed,
            "trainer": self.trial.trainer,
            "iterations": self.iterations,
            "pretrained": self.trial.pretrained,
            **({} if self.backbone.weights_digest is None else {"pretrained_weights": self.backbone.weights_digest}),
            "settings": {k: v for k, v in self.config.model_dump().items() if k not in self.config.OPERATIONAL and k != "iterations"},
            **({} if self.teacher is None else {"teacher": dict(self.teacher.identity)}),
        }

    @cached_property
    def class_weights(self) -> ClassWeights:
        """The weights of classes in the loss, from train's masks."""
        return weigh_classes(self.config.class_weights, self.data)

    def loss(self) -> SegmentationLoss | DistillationLoss:
        """The loss the configuration names, with class weights counted on train, and with a teacher's share where there is one."""
        config = self.config
        task = SegmentationLoss(
            config.loss,
            class_weights=self.class_weights.weights,
            label_smoothing=config.label_smoothing,
            aux_weight=config.aux_loss,
            average=config.loss_average,
        )
        if self.teacher is None:
            return task
        return DistillationLoss(task, weight=config.distill_weight, temperature=config.distill_temperature, ignored=config.distill_ignored)

    def answer(self, module: nn.Module, x_BCHW: Tensor) -> Any:
        """What the loss is computed from: logits, with an auxiliary head a pair, with a teacher :class:`Taught`."""
        student = forward(module, x_BCHW)
        return student if self.teacher is None else Taught(student, self.teacher(x_BCHW))

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches from number ``start`` on."""
        config = self.config
        crop, zoom = crop_of(self.trial.size, config.crop)
        transform = train_transform(config, crop, zoom, self.data, self.backbone.mean, self.backbone.std)
        return train_batches(
            self.data.split("train"),
            transform,
            batch_size=self.world.share(config.batch_size),
            iterations=self.iterations * config.accumulation,
            start=start,
            seed=self.trial.seed,
            workers=config.workers,
            cache=config.cache,
            pin_memory=self.device.type == "cuda",
            sampler=train_sampler(config, self.data),
            rank=self.world.rank,
            ranks=self.world.ranks,
        )

    def validate(self, module: nn.Module) -> Metrics:
        """Measure ``module`` on val and the other held-out splits; of several processes each sees its share of the images."""
        agreed = False

        def reduce(counts: Tensor) -> Tensor:
            nonlocal agreed
            agreed = True
            self.world.agree()
            agreed = False
            return self.world.sum(counts)

        try:
            return self._validate(module, reduce)
        except DataError as error:
            if not agreed:
                self.world.agree(error)
            raise

    def _validate(self, module: nn.Module, reduce: Callable[[Tensor], Tensor]) -> Metrics:
        config = self.config
        return evaluate_splits(
            functools.partial(forward, module),
            self.data,
            test=config.test,
            metrics=config.metrics,
            **config.protocol(self.trial.size),
            mean=self.backbone.mean,
            std=self.backbone.std,
            batch_size=config.eval_batch_size,
            workers=config.workers,
            cache=config.cache,
            device=self.device,
            channels_last=config.channels_last,
            weights="ema" if config.ema else "raw",
            rank=self.world.rank,
            ranks=self.world.ranks,
            reduce=reduce,
        )

    def train(self, loss: Callable[[Tensor, Tensor], Tensor], report: Report) -> Result:
        """Run the loop, from ``trial.parent`` if there is one. What goes wrong while it runs becomes a failed Result with its reason."""
        loop = Loop(
            self.model,
            config=self.config,
            iterations=self.iterations,
            batches=self.batches,
            loss=loss,
            validate=self.validate,
            forward=self.answer,
            device=self.device,
            folder=None if self.trial.workdir is None else Path(self.trial.workdir),
            identity=self.identity,
            world=self.world,
        )
        with self.world.together():
            if self.trial.parent is not None:
                start_from(loop, self.trial.parent)
        try:
            return self._complete(loop.run(report))
        except TrainingFailed as error:
            reason = str(error)
        except (MemoryError, RuntimeError, ValueError) as error:
            several = self.world.ranks > 1
            if several and peer_lost(error):
                raise PeerLost(f"another process was lost at iteration {loop.iteration + 1}") from error
            known = run_failure(error)
            if known is None:
                raise
            H, W = self.trial.size
            reason = f"{known} at iteration {loop.iteration + 1} (batch_size {self.config.batch_size} of {H}x{W})"
            if several:
                raise OwnFailure(f"{reason} in process {self.world.rank + 1} of {self.world.ranks}") from error
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return Result(
            status=Result.FAILED,
            reason=reason,
            iterations=loop.iteration,
            seconds=loop.spent,
            settings=self.config.model_dump(),
            environment=stamp(self.device),
        )

    def _complete(self, outcome: Outcome) -> Result:
        metrics = outcome.metrics
        return Result(
            status=Result.COMPLETE,
            metrics={} if metrics is None else dict(metrics.values),
            protocol={} if metrics is None else {**metrics.protocol, "iteration": outcome.measured_at},
            per_class={} if metrics is None else dict(metrics.per_class),
            unpredicted=None if metrics is None or metrics.unpredicted is None else list(metrics.unpredicted),
            class_weights=self.class_weights.to_dict(self.data.classes),
            iterations=outcome.iterations,
            seconds=outcome.seconds,
            settings=self.config.model_dump(),
            reason=f"stopped at iteration {outcome.iterations} of {self.iterations}" if outcome.stopped else None,
            checkpoint=None if outcome.weights_file is None else str(outcome.weights_file),
            environment=stamp(self.device),
        )


def forward(module: nn.Module, x_BCHW: Tensor) -> Tensor:
    """Logits that cover exactly the field of view of ``x_BCHW``: the network's own where they do, else at full size."""
    exact = covers(module, x_BCHW.shape[-2], x_BCHW.shape[-1])
    logits: Tensor = module(x_BCHW) if exact else module.predict(x_BCHW)  # type: ignore[operator]
    return logits


def crop_of(size: tuple[int, int], share: float) -> tuple[tuple[int, int], float]:
    """The training crop of an evaluation size, and the factor on the random scale with which scale 1 still means the evaluation's scale."""
    if share == 1:
        return size, 1.0
    H, W = (min(side, max(CROP_STEP, round(side * share / CROP_STEP) * CROP_STEP)) for side in size)
    return (H, W), max(size[0] / H, size[1] / W)


def _check_auxiliary(size: tuple[int, int], config: TrainingConfig) -> None:
    """The logits of the auxiliary head lie over the whole crop only where the backbone need not pad it."""
    crop, _ = crop_of(size, config.crop)
    if config.pad_multiple > 1 and (crop[0] % PAD_MULTIPLE or crop[1] % PAD_MULTIPLE):
        legal = "x".join(str(max(PAD_MULTIPLE, round(side / PAD_MULTIPLE) * PAD_MULTIPLE)) for side in size)
        rule = f"aux_loss needs sides that are multiples of {PAD_MULTIPLE}, or pad_multiple=1"
        raise ConfigError(Problem("", "size", rule, f"{crop[0]}x{crop[1]}", legal))


def begin_with(model: SegModel, network: str, classes: Sequence[str]) -> None:
    """Fill ``model`` with a published network's weights; its classifier stays new where the classes are others.

    Raises :class:`WeightsError` where the network cannot be read or is not of the model's genotype.
    """
    found = Published.open(network)
    if found.genotype != model.genotype:
        raise WeightsError(f"{network}: its genotype is {found.genotype.id}, the network to be trained is {model.genotype.id}")
    found.begin(model, classes)


def start_from(loop: Loop, parent: str) -> None:
    """Go on from a checkpoint: of the same run with its whole state, of the same network (another fidelity, say) with its weights alone.

    Raises :class:`WeightsError` for an unreadable checkpoint and for one of another network, saying what differs.
    """
    state = load_checkpoint(parent)
    there: Mapping[str, Any] = {**state["identity"], "settings": settled(state["identity"].get("settings", {}), loop.config)}
    differing = [key for key in loop.identity if there.get(key) != loop.identity[key]]
    if not differing:
        loop.restore(state)
    elif not {"genotype", "classes"} & set(differing):
        kept = state["kept"]
        load_network(loop.model, state["model"] if kept is None or kept["weights"] is None else kept["weights"])
    else:
        said = "; ".join(f"{key} {there.get(key)} there, {loop.identity[key]} here" for key in ("genotype", "classes") if key in differing)
        raise WeightsError(f"{parent}: a checkpoint of another network: {said}")


def settled(settings: Mapping[str, Any], config: TrainingConfig) -> dict[str, Any]:
    """Settings of an earlier nasseg with the defaults of those it did not know, which compute what it computed."""
    missing = {name: info.default for name, info in type(config).model_fields.items() if name not in settings and name != "iterations"}
    return {**{name: value for name, value in missing.items() if name not in config.OPERATIONAL}, **settings}


def run_failure(error: Exception) -> str | None:
    """A reason, where an error says that a run could not be carried out here (memory, a lost worker), not that code is wrong; else None."""
    text = str(error)
    if out_of_memory(error):
        return "out of memory"
    if "DataLoader worker" in text:
        return "a process that loads images was lost"
    if "Expected more than 1 value per channel" in text:
        return "batch normalisation needs more than one value per channel; take a larger batch or size"
    return None
