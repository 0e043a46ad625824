"""What a recipe can be told: typed, bounded, described fields, and errors that name every wrong one at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator
from pydantic.fields import FieldInfo

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.metric import METRICS, MetricName, read_metric
from nasseg.training.mixture import LEGAL as LEGAL_LOSS
from nasseg.training.mixture import nearest_mixture, spell_mixture

SYNONYMS = {
    "epochs": "iterations",
    "steps": "iterations",
    "max_iters": "iterations",
    "learning_rate": "lr",
    "grad_clip": "clip",
    "num_workers": "workers",
    "augmentation": "color",
    "precision": "amp",
    "min_lr": "lr_floor",
    "eta_min": "lr_floor",
    "warmup_iters": "warmup_iterations",
    "warmup_steps": "warmup_iterations",
    "teacher": "distill",
    "auxiliary": "aux_loss",
    "logger": "tracking",
}
"""What others call a field, for the hint in an error."""


class TrainingConfig(BaseModel):
    """Every knob of a training run.

    A recipe's own ``Config`` is this class with other defaults (:meth:`with_defaults`) or a subclass with further fields. Numbers stay what
    they are: a text is not read as a number, 1.5 is not cut to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        (
            "device",
            "threads",
            "workers",
            "cache",
            "checkpoint_every",
            "keep_last",
            "oom",
            "compile",
            "compile_backend",
            "tracking",
            "distill",
            "metrics",
        )
    )
    """Fields that say how a run is carried out and not what it computes: they may change when a run is resumed. ``distill`` is the place of
    the teacher; who it is belongs to the run (``teacher`` in run.yaml)."""

    iterations: int = Field(default=1000, ge=1, description="optimiser steps of one complete schedule (times the trial's fidelity)")
    batch_size: int = Field(default=8, ge=1, description="images in one forward pass, over all processes of a run together")
    accumulation: int = Field(
        default=1, ge=1, description="forward passes summed up in one iteration; an iteration sees batch_size × accumulation images"
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate of the decoder (AdamW)")
    backbone_lr_scale: float = Field(
        default=0.1, ge=0, description="the backbone's learning rate is lr times this; left out, a backbone from scratch takes 1"
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="decoupled weight decay, per unit of learning rate, of the weights that decay_rule names"
    )
    decay_rule: Literal["matrices", "mmsegmentation"] = Field(
        default="matrices",
        description="matrices: norms, biases and other 1-d weights do not decay; mmsegmentation: all decays but the norms of the backbone, "
        "as its configurations for transformers have it",
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the iterations over which the learning rate rises linearly to lr")
    warmup_iterations: int = Field(
        default=0,
        ge=0,
        description="warm-up as a number of iterations, in place of the share; 0 takes the share. Fidelity shortens it with the run",
    )
    schedule: Literal["poly", "cosine"] = Field(
        default="poly", description="how the learning rate falls after the warm-up: a polynomial of power, or half a cosine"
    )
    power: float = Field(default=0.9, ge=0, description="exponent of the polynomial fall to 0 that follows; 0 keeps the rate constant")
    lr_floor: float = Field(default=0.0, ge=0, le=1, description="share of the peak learning rate at which the fall ends, of every group")
    clip: float = Field(default=1.0, ge=0, description="largest L2 norm of the whole gradient; 0 for no limit")
    loss: str = Field(
        default="cross_entropy",
        title=LEGAL_LOSS,
        description="cross_entropy; ohem: its hardest pixels only; boundary: weighted towards the borders of classes; dice: soft Dice; "
        "lovasz: Lovász-softmax; cross_entropy_dice and cross_entropy_lovasz: sums; or any weighted sum such as cross_entropy+0.5*dice",
    )
    loss_average: Literal["counted", "all"] = Field(
        default="counted",
        description="what cross_entropy, ohem and boundary are divided by: the pixels that count, weighted as they are, or all pixels of "
        "the batch, those labelled 255 too (mmsegmentation's avg_non_ignore=False, its default)",
    )
    aux_loss: float = Field(
        default=0.0,
        ge=0,
        description="weight of the cross-entropy of an auxiliary head on the backbone's third map, trained beside the decoder and thrown "
        "away after; 0 for none, mmsegmentation takes 0.4",
    )
    distill: str = Field(
        default="", title="the path of a bundle or of a training run", description="teacher whose answers are learnt beside the masks"
    )
    distill_weight: float = Field(
        default=0.5, ge=0, le=1, description="share of the teacher in the loss; the loss on the masks has the rest. Needs distill"
    )
    distill_temperature: float = Field(
        default=4.0, gt=0, description="logits of both are divided by this before they are compared (Hinton et al., 1503.02531)"
    )
    distill_ignored: bool = Field(default=False, description="learn from the teacher where the mask says 255, too; padding included")
    class_weights: Literal["none", "sqrt_median_frequency", "auto"] = Field(
        default="none",
        description="weights of classes in the loss; sqrt_median_frequency: sqrt(clip(median frequency / frequency, 0.3, 5)) over train; "
        "auto: that where a class has less than half of an equal share of train's pixels, else none",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of each pixel's target spread over all classes")
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="probability with which a residual branch of backbone or decoder is skipped (stochastic depth)"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability with which a channel of the fused map is dropped")
    pad_multiple: Literal[1, 32, 64, 128, 256] = Field(
        default=32,
        description="images whose sides are no multiples of this are padded with the mean colour inside the network; 1: it runs on them as "
        "they are, from 32x32 (mmsegmentation's SegFormer). In training and validation",
    )
    freeze_backbone: bool = Field(
        default=False, description="train the decoder only; the backbone keeps its weights and its normalisation statistics"
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay per iteration of the moving average of the weights that is measured and kept; 0 for none",
    )
    amp: Literal["none", "bf16", "fp16"] = Field(
        default="none", description="precision of the forward pass; fp16 (with loss scaling) needs a CUDA device"
    )
    channels_last: bool = Field(
        default=True, description="keep images and maps in channels-last memory order, which is faster on most devices"
    )
    sync_bn: bool = Field(
        default=True,
        description="in a run of several processes, BatchNorm's statistics are those of the whole batch and not of one's share",
    )
    oom: Literal["halve", "fail"] = Field(
        default="fail",
        description="too little memory in a forward pass: halve the images computed at once (same batch, same steps), or end the run",
    )
    compile: bool = Field(default=False, description="compile the network with torch.compile for the training steps")
    compile_backend: Literal["inductor", "aot_eager", "eager"] = Field(
        default="inductor", description="torch.compile's backend; inductor is the one that is faster"
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads of one run; 0: as many as the cores it may use (affinity, a container's quota), OMP_NUM_THREADS at most",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        title="auto, cpu, cuda or cuda:N",
        description="where to compute; auto is a CUDA device where there is one, else the CPU",
    )
    workers: int = Field(default=0, ge=0, description="processes that load and augment images; 0 does it in the training process")
    cache: bool = Field(default=False, description="keep the decoded images in memory")
    crop: float = Field(
        default=1.0, gt=0, le=1, description="sides of the training crop as a share of the trial's size, in whole multiples of 32 pixels"
    )
    scale_low: float = Field(default=0.5, gt=0, description="smallest random scale of a training image")
    scale_high: float = Field(default=2.0, gt=0, description="largest random scale of a training image")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    color: float = Field(
        default=0.4, ge=0, lt=1, description="brightness, contrast and saturation each change by a random factor within 1 ± this"
    )
    distort: bool = Field(
        default=False, description="mmsegmentation's photometric distortion (brightness, contrast, saturation, hue) in place of color"
    )
    cat_max_ratio: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a crop of which one class covers this share or more is drawn again, up to 10 times; 1 takes the first; "
        "mmsegmentation's recipes have 0.75",
    )
    rare_crops: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability that a crop is laid around a pixel of a class drawn by rarity, of those the image holds",
    )
    balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the samples of a pass that are drawn by rarity of their classes in place of one after another (Hoyer et al., "
        "2111.14887)",
    )
    val_every: int = Field(
        default=0, ge=0, description="iterations between two validations; 0 validates at the end only; the end is always validated"
    )
    eval_batch_size: int = Field(default=8, ge=1, description="images in one forward pass of a validation")
    masks: Literal["original", "resized"] = Field(
        default="original",
        description="what a validation is measured on: masks in their own size (mmsegmentation's way), or resized to the evaluation size",
    )
    eval_mode: Literal["whole", "slide"] = Field(
        default="whole", description="a validation sees the whole image, or windows of the run's size that slide over it (mmsegmentation)"
    )
    eval_size: str = Field(
        default="",
        pattern=r"^([1-9]\d*x[1-9]\d*)?$",
        title="HEIGHTxWIDTH in pixels, or empty",
        description="what a validation's images are resized to; empty takes the run's size",
    )
    eval_stride: str = Field(
        default="",
        pattern=r"^([1-9]\d*x[1-9]\d*)?$",
        title="HEIGHTxWIDTH in pixels, or empty",
        description="way from one sliding window to the next; empty takes two thirds of the run's size",
    )
    eval_keep_ratio: bool = Field(
        default=False, description="a validation's images keep their aspect and become the largest that fits eval_size either way round"
    )
    eval_size_divisor: int = Field(
        default=1,
        ge=1,
        description="both sides of a validation's images are resized up to a multiple of this (SegFormer, SegNeXt and MetaSeg: 32)",
    )
    metrics: list[str] = Field(
        default=[],
        title="a list of " + ", ".join(metric.pattern for metric in METRICS if metric.on_request),
        description="what a validation reports beside mIoU, mAcc and aAcc; a study adds its own objectives",
    )
    test: bool = Field(default=False, description="measure the split named test as well; otherwise it is never read")
    keep: Literal["best", "last"] = Field(
        default="best", description="which validation's weights and numbers the run ends with; best is by mIoU on val"
    )
    tracking: list[Literal["csv", "tensorboard", "wandb", "mlflow"]] = Field(
        default=["csv"],
        description="where nasseg train writes its progress: log.csv (always) and, of the packages installed, TensorBoard, W&B, MLflow",
    )
    checkpoint_every: int = Field(default=500, ge=0, description="iterations between two checkpoints; 0 writes one at the end only")
    keep_last: int = Field(default=2, ge=1, description="checkpoints that are kept, the newest ones; the best weights are kept besides")

    @field_validator("loss", mode="before")
    @classmethod
    def _spell_loss(cls, given: Any) -> Any:
        return spell_mixture(given)

    @field_validator("tracking", "metrics", mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    def protocol(self, size: tuple[int, int]) -> dict[str, Any]:
        """How a run of this ``size`` validates, as options of :func:`nasseg.training.evaluate.evaluate`."""
        options: dict[str, Any] = {
            "size": _sides(self.eval_size) or size,
            "masks": self.masks,
            "mode": self.eval_mode,
            "keep_ratio": self.eval_keep_ratio,
            "size_divisor": self.eval_size_divisor,
            "pad_multiple": self.pad_multiple,
        }
        if self.eval_mode == "slide":
            thirds = (max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3))
            options |= {"crop": size, "stride": _sides(self.eval_stride) or thirds}
        return options

    def metric_names(self, where: str = "trainer") -> tuple[MetricName, ...]:
        """``metrics`` taken apart; raises :class:`ConfigError` for what is none, and for a split: all splits are measured alike."""
        found = tuple(read_metric(name, where=where, key="metrics") for name in self.metrics)
        problems = [
            Problem(where, "metrics", "are measured on every split that is measured; leave the split out", str(name), str(name.on_val))
            for name in found
            if name.split is not None
        ]
        if problems:
            raise ConfigError(problems)
        return found

    @property
    def warmup_share(self) -> float:
        """The share of the iterations that warms up, whichever way it was given."""
        return self.warmup_iterations / self.iterations if self.warmup_iterations else self.warmup

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, where: str = "trainer") -> Self:
        """The configuration that has these settings; raises :class:`ConfigError` with every unknown and every illegal one."""
        try:
            made = cls.model_validate(dict(settings))
        except ValidationError as error:
            raise ConfigError([cls._problem(dict(detail), where) for detail in error.errors()]) from None
        if made.scale_low > made.scale_high:
            raise ConfigError(Problem(where, "scale_low", "must not be above scale_high", made.scale_low, made.scale_high))
        if made.metrics:
            names = dict.fromkeys(str(name) for name in made.metric_names(where))
            made = made.model_copy(update={"metrics": list(names)})
        if made.warmup_iterations >= made.iterations:
            rule = f"must be below iterations, which are {made.iterations}"
            raise ConfigError(Problem(where, "warmup_iterations", rule, made.warmup_iterations, made.iterations // 20))
        return made

    def on_backbone(self, *, from_scratch: bool) -> Self:
        """The configuration on a trained backbone or one from scratch: the latter learns at the full rate unless a scale was asked for."""
        if not from_scratch or "backbone_lr_scale" in self.model_fields_set:
            return self
        return self.model_copy(update={"backbone_lr_scale": 1.0})

    @classmethod
    def with_defaults(cls, name: str, **defaults: Any) -> type[TrainingConfig]:
        """This class with other defaults: same fields, same bounds, same descriptions."""
        fields: dict[str, Any] = {}
        for key, value in defaults.items():
            info = cls.model_fields[key]
            parts = (info.annotation, *info.metadata, Field(title=info.title, description=info.description))
            fields[key] = (Annotated[parts], value)
        made: type[TrainingConfig] = create_model(name, __base__=cls, __doc__=cls.__doc__, **fields)
        made()
        return made

    @classmethod
    def rows(cls) -> list[FieldRow]:
        """The fields as a table."""
        return [FieldRow(name, legal(info), info.default, info.description or "") for name, info in cls.model_fields.items()]

    @classmethod
    def _problem(cls, detail: dict[str, Any], where: str) -> Problem:
        """One of pydantic's complaints in our words."""
        key = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            return Problem(
                where, key, "no such setting", None, SYNONYMS.get(key) or nearest(key, cls.model_fields), tuple(cls.model_fields)
            )
        info = cls.model_fields[key]
        given = detail["input"]
        return Problem(
            where, key, f"must be {legal(info)}", given, nearest_mixture(given) if key == "loss" else _nearest_legal(info, given)
        )


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A field for people: its name, what it may be, its default, what it means."""

    name: str
    legal: str
    default: Any
    meaning: str


def legal(info: FieldInfo) -> str:
    """What a field may be, in words: ``a whole number from 1``, ``one of none, bf16, fp16``."""
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(info.annotation))
    if info.annotation == list[str]:
        return info.title or "a list of texts"
    if get_origin(info.annotation) is list:
        return "a list of " + ", ".join(str(option) for option in get_args(get_args(info.annotation)[0]))
    if info.annotation is bool:
        return "true or false"
    if info.annotation is str:
        return info.title or "a text"
    words = "a whole number" if info.annotation is int else "a number"
    lower, upper, lower_in, upper_in = _bounds(info)
    if lower is not None:
        words += f" from {lower:g}" if lower_in else f" above {lower:g}"
    if upper is not None:
        words += f" to {upper:g}" if upper_in else f" and below {upper:g}"
    return words


def _sides(text: str) -> tuple[int, int] | None:
    """``HxW`` as numbers, or None for an empty text."""
    if not text:
        return None
    height, _, width = text.partition("x")
    return int(height), int(width)


def _bounds(info: FieldInfo) -> tuple[float | None, float | None, bool, bool]:
    """(lower, upper, lower included, upper included)."""
    lower: float | None = None
    upper: float | None = None
    lower_in = upper_in = True
    for bound in info.metadata:
        if isinstance(bound, annotated_types.Ge):
            lower = float(bound.ge)  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Gt):
            lower, lower_in = float(bound.gt), False  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Le):
            upper = float(bound.le)  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Lt):
            upper, upper_in = float(bound.lt), False  # type: ignore[arg-type]
    return lower, upper, lower_in, upper_in


def _nearest_legal(info: FieldInfo, given: Any) -> Any:
    """The legal value closest to ``given``, or None where there is no such thing (an open bound, a word for a number)."""
    if get_origin(info.annotation) is Literal:
        return nearest(given, get_args(info.annotation))
    if get_origin(info.annotation) is list and info.annotation != list[str]:
        return nearest(given, get_args(get_args(info.annotation)[0]))
    if info.annotation not in (int, float):
        return None
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError:
            return info.default
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given != given or given in (float("inf"), float("-inf")):
        return info.default
    lower, upper, lower_in, upper_in = _bounds(info)
    if (lower is not None and (given < lower or (given == lower and not lower_in))) or (
        upper is not None and (given > upper or (given == upper and not upper_in))
    ):
        below = lower is not None and given <= lower
        closed = lower_in if below else upper_in
        bound = lower if below else upper
        given = bound if closed and bound is not None else info.default
    return round(given) if info.annotation is int else given
