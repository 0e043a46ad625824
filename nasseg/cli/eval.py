"""``nasseg eval``: measure a run or a bundle on a data set."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.run_view import collapse_lines, protocol_line, result_table
from nasseg.cli.verb import Verb
from nasseg.data.dataset import DataSet
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, Problem, nearest
from nasseg.export.bundle import PREPROCESSING, bundle_folder, load_bundle
from nasseg.export.onnx_file import load_onnx
from nasseg.export.preprocessing import Preprocessing
from nasseg.export.published import check_classes, preprocessing_of
from nasseg.log import STDERR
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.models.segmenter import SegModel
from nasseg.published.network import Published, is_published
from nasseg.report.evaluation import PAGE, report_folder, write_report
from nasseg.report.worst import Worst
from nasseg.training.collapse import Collapse, worst_entry
from nasseg.training.device import check_precision, resolve_device
from nasseg.training.evaluate import Each, Predict, covering, evaluate
from nasseg.training.job import forward
from nasseg.training.protocol import Protocol
from nasseg.training.rundir import RUN, RunDir

PRECISIONS = ("none", "bf16", "fp16")
BATCH_SIZE = 8
"""Images in one forward pass where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured, before its weights are read: its classes, how images reach it, and ``load`` for the function to logits.

    ``of`` says what it is (``run``, ``bundle``, ``ONNX file``), ``protocol`` how it was measured, None where it does not say.
    ``load(device, pad_multiple)`` reads the weights, ``check`` raises for data of other classes. ``metrics`` are what a run reports beside
    mIoU, mAcc and aAcc, ``remarks`` sentences on how a published network was read.
    """

    of: str
    classes: tuple[str, ...] | None
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    protocol: Protocol | None
    load: Callable[[torch.device, int], Predict]
    check: Callable[[DataSet], None]
    pad_multiple: int = PAD_MULTIPLE
    data: str | None = None
    batch_size: int = BATCH_SIZE
    metrics: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    class_weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Protocol:
        """The protocol that options change: its own, or whole images stretched to its size."""
        return self.protocol or Protocol(size=self.size, pad_multiple=self.pad_multiple)


@click.command("eval", cls=Verb)
@click.argument("path")
@click.option("--data", help="A folder, KIND:PATH (nasseg data info) or synthetic; a run's own where it is left out.")
@click.option("--split", default="val", show_default=True, help="The split to measure.")
@click.option("--size", type=SIZE, help="Height and width images are resized to.")
@click.option(
    "--keep-ratio/--stretch",
    "keep_ratio",
    default=None,
    help="Keep the aspect: the largest that fits --size, long side to long side (512x2048); or stretch to exactly --size.",
)
@click.option("--size-divisor", type=int, help="Resize both sides up to a multiple of this; 1 for no such thing.")
@click.option("--pad-multiple", type=int, help="The network pads sides to a multiple of this (32), or runs on images as they are (1).")
@click.option("--mode", help="whole: the image in one piece; slide: through windows.")
@click.option("--crop", type=SIZE, help="With --mode slide: a window's size.")
@click.option("--stride", type=SIZE, help="With --mode slide: the way from window to window; two thirds of a --crop if left out.")
@click.option("--scales", help="Scales by comma, such as 0.5,0.75,1.0; probabilities are averaged.")
@click.option("--flip/--no-flip", "flip", default=None, help="See every scale mirrored too.")
@click.option("--masks", help="original: masks in their own size; resized: to --size.")
@click.option("--batch-size", type=int, help=f"Images, or windows of one image, in one forward pass; a run's own, else {BATCH_SIZE}.")
@click.option("--workers", type=int, default=0, show_default=True, help="Processes that read images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--amp", default="none", show_default=True, help="Precision of the forward pass: none, bf16 or fp16.")
@click.option("--onnx", is_flag=True, help="Run the bundle's model.onnx in ONNX Runtime instead of the module.")
@click.option("--boundary", is_flag=True, help="Measure the boundary IoU as well.")
@click.option("--report", help="Folder for the confusion matrix, a table of classes, the worst images, and a page that shows them.")
@click.option("--worst", type=int, default=12, show_default=True, help="With --report: so many images.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: metrics, per_class, protocol.")
def command(
    path: str,
    data: str | None,
    split: str,
    size: tuple[int, int] | None,
    keep_ratio: bool | None,
    size_divisor: int | None,
    pad_multiple: int | None,
    mode: str | None,
    crop: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    scales: str | None,
    flip: bool | None,
    masks: str | None,
    batch_size: int | None,
    workers: int,
    device: str,
    amp: str,
    onnx: bool,
    boundary: bool,
    report: str | None,
    worst: int,
    as_json: bool,
) -> None:
    """Measure PATH, a run's folder, a bundle or a published network: mIoU, mAcc, aAcc and IoU by class, in percent.

    Images reach the network as when PATH was measured last: runs, bundles and most published networks (docs/published.md) say how. Options
    change it.
    mmsegmentation's protocols:

    \b
    ADE20K       --keep-ratio --size 512x2048 --size-divisor 32
    Cityscapes   --size 1024x2048 --mode slide --crop 1024x1024 --stride 768x768
    "ms + flip"  --scales 0.5,0.75,1.0,1.25,1.5,1.75 --flip
    """
    asked = {
        "size": size,
        "keep_ratio": keep_ratio,
        "size_divisor": size_divisor,
        "pad_multiple": pad_multiple,
        "mode": mode,
        "crop": crop,
        "stride": stride,
        "scales": None if scales is None else _scales(scales),
        "flip": flip,
        "masks": masks,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    least = {"--batch-size": (batch_size, 1), "--workers": (workers, 0), "--worst": (worst, 1)}
    measured = read(path, onnx=onnx, size=size)
    protocol = _checked(measured, given, least, amp, onnx)
    where = torch.device("cpu") if onnx else resolve_device(device)
    check_precision(amp, where)
    if (data or measured.data) is None:
        raise ConfigError(Problem("", "--data", f"a {measured.of} does not say which data to measure it on", None, "synthetic"))
    opened = open_data(str(data or measured.data))
    measured.check(opened)
    images = opened.split(split)
    folder = None if report is None else report_folder(report)
    cases = None if folder is None else Worst(opened.num_classes, worst)
    console = wide_console()
    with _heard(cases, len(images)) as each:
        found = evaluate(
            measured.load(where, protocol.pad_multiple),
            images,
            num_classes=opened.num_classes,
            classes=opened.classes,
            mean=measured.mean,
            std=measured.std,
            batch_size=batch_size or measured.batch_size,
            workers=workers,
            device=where,
            weights=measured.weights,
            amp=amp,
            metrics=measured.metrics,
            boundary=boundary or folder is not None,
            each=each,
            **protocol.options(),
        )
    record = {**found.protocol, "data": opened.spec}
    changed = _changed(measured, protocol)
    line = f"{opened.spec}: {protocol_line(record)}"
    collapse = Collapse.of(found.per_class, found.unpredicted)
    if folder is not None and cases is not None:
        found = replace(found, protocol=record)
        title = f"{Path(path).name or path} on {opened.name} {split}"
        write_report(folder, found, images, opened.classes, opened.palette, cases, title=title, line=line)
    if as_json:
        boundaries = {"boundary_per_class": dict(found.boundary_per_class)} if found.boundary_per_class else {}
        numbers = {"metrics": dict(found.values), "per_class": dict(found.per_class), **boundaries}
        own: dict[str, Any] = {"remarks": list(measured.remarks)} if measured.remarks else {}
        own |= {"protocol_of": measured.of if measured.protocol is not None else None, "changed": changed}
        learnt = {"worst_class": worst_entry(found.per_class), "collapsed": collapse.to_dict()}
        click.echo(json.dumps({**numbers, **learnt, "protocol": record, **own}))
        return
    console.print(result_table(found.values, found.per_class, opened.classes))
    for warning in collapse_lines(collapse, measured.settings, measured.class_weights):
        console.print(warning, soft_wrap=True)
    console.print(line)
    console.print(whose(measured, changed), markup=False)
    for remark in measured.remarks:
        console.print(f"{path}: {remark}", markup=False, soft_wrap=True)
    if folder is not None:
        console.print(f"report: {folder / PAGE}")


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(Problem("", "--scales", "numbers above 0, by comma", text, "0.75,1.0,1.25")) from None


def _checked(measured: Measured, given: Mapping[str, Any], numbers: Mapping[str, tuple[int | None, int]], amp: str, onnx: bool) -> Protocol:
    """The protocol that was asked for; every wrong option at once, before weights and data are read."""
    problems = []
    for name, (number, least) in numbers.items():
        if number is not None and number < least:
            problems.append(Problem("", name, f"must be a whole number from {least}", number, least))
    if amp not in PRECISIONS:
        problems.append(Problem("", "--amp", f"must be one of {', '.join(PRECISIONS)}", amp, nearest(amp, PRECISIONS)))
    elif onnx and amp != "none":
        problems.append(Problem("", "--amp", "is the module's; an ONNX file computes in the precision it was written in", amp, "none"))
    base = measured.base
    if onnx and given.get("pad_multiple", base.pad_multiple) != base.pad_multiple:
        rule = "is the module's; an ONNX file pads as it was exported"
        problems.append(Problem("", "--pad-multiple", rule, given["pad_multiple"], base.pad_multiple))
    protocol = base
    try:
        protocol = changed_protocol(base, given)
    except ConfigError as error:
        problems += [replace(problem, where="", key=f"--{problem.key.replace('_', '-')}") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return protocol


def changed_protocol(base: Protocol, given: Mapping[str, Any]) -> Protocol:
    """``base`` with other values of some fields, and without those of windows where there are to be none.

    A crop without a stride has two thirds of it. Raises :class:`ConfigError` for what does not make sense.
    """
    changes = dict(given)
    if changes.get("mode") == "whole":
        changes = {"crop": None, "stride": None, **changes}
    if changes.get("crop") is not None and "stride" not in changes:
        changes["stride"] = (max(1, changes["crop"][0] * 2 // 3), max(1, changes["crop"][1] * 2 // 3))
    return replace(base, **changes)


def _changed(measured: Measured, protocol: Protocol) -> dict[str, Any]:
    """What of its own protocol does not hold here: the names of fields and what they are in its own."""
    own, now = measured.base.to_dict(), protocol.to_dict()
    return {} if measured.protocol is None else {name: own[name] for name in own if own[name] != now[name] and name != "scale"}


def whose(measured: Measured, changed: Mapping[str, Any]) -> str:
    """Whose protocol that was, in a sentence."""
    if measured.protocol is None:
        return f"The {measured.of} does not say how it was measured; by default whole images are stretched to its size."
    if not changed:
        return f"That is the {measured.of}'s own protocol."
    own = ", ".join(f"{name} {_spelled(value)}" for name, value in changed.items())
    return f"The {measured.of}'s own protocol has {own}; the rest is as there."


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value)) if len(value) == 2 and all(type(side) is int for side in value) else ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@contextlib.contextmanager
def _heard(cases: Worst | None, images: int) -> Iterator[Each | None]:
    """What hears of each image: the report's collector, and a bar where a person looks on."""
    if not STDERR.is_terminal:
        yield cases
        return
    with Progress(console=STDERR, transient=True) as bar:
        task = bar.add_task("measuring", total=images)

        def each(id_: str, prediction_HW: NDArray[np.uint8], truth_HW: NDArray[np.uint8]) -> None:
            bar.advance(task)
            if cases is not None:
                cases(id_, prediction_HW, truth_HW)

        yield each


def read(path: str, *, onnx: bool, size: tuple[int, int] | None = None) -> Measured:
    """A run, a bundle or a published network as something to measure; raises :class:`BundleError` for anything else.

    ``size`` is asked for where a published network says none.
    """
    if is_published(path):
        if onnx:
            raise BundleError(f"{path}: a published network has no ONNX file; make one with: nasseg export {path} --out BUNDLE")
        return _published(Published.open(path), size)
    if (Path(path) / RUN).is_file():
        if onnx:
            raise BundleError(f"{path}: a training run has no ONNX file; make one with: nasseg export {path} --out BUNDLE")
        run = RunDir.open(path)
        return Measured(
            of="run",
            classes=run.classes,
            size=run.size,
            mean=tuple(run.facts["mean"]),
            std=tuple(run.facts["std"]),
            weights="ema" if run.facts["settings"]["ema"] else "raw",
            protocol=run.protocol,
            load=functools.partial(_module, run.load_model),
            check=functools.partial(same_classes, run.classes),
            data=str(run.facts["data"]),
            batch_size=int(run.facts["settings"].get("eval_batch_size", BATCH_SIZE)),
            metrics=tuple(run.facts["settings"].get("metrics", ())),
            settings=run.facts["settings"],
            class_weights=run.facts.get("class_weights", {}),
        )
    folder = bundle_folder(path)
    facts = Preprocessing.load(folder / PREPROCESSING)
    own = facts.evaluation

    def file(device: torch.device, pad_multiple: int) -> Predict:
        return covering(load_onnx(folder), facts.stride, pad_multiple, only=facts.size)

    return Measured(
        of="ONNX file" if onnx else "bundle",
        classes=facts.classes,
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
        weights="onnx" if onnx else "bundle",
        protocol=own.at(facts.size) if own is not None and onnx else own,
        load=file if onnx else functools.partial(_module, functools.partial(load_bundle, folder)),
        check=functools.partial(same_classes, facts.classes),
        pad_multiple=facts.pad_multiple,
    )


def _published(network: Published, size: tuple[int, int] | None) -> Measured:
    facts = preprocessing_of(network, size=size)
    return Measured(
        of="published network",
        classes=network.classes,
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
        weights="published",
        protocol=facts.evaluation,
        load=functools.partial(_module, network.model),
        check=functools.partial(check_classes, network),
        pad_multiple=facts.pad_multiple,
        remarks=network.remarks,
    )


def same_classes(own: tuple[str, ...], data: DataSet) -> None:
    """Raise :class:`ConfigError` unless the data's classes are the network's."""
    if data.classes != own:
        theirs, ours = ", ".join(data.classes), ", ".join(own)
        raise ConfigError(Problem("", "--data", f"its classes ({theirs}) are not those the network was trained on ({ours})", data.spec))


def _module(load: Callable[[], SegModel], device: torch.device, pad_multiple: int) -> Predict:
    """A network read and brought to its device, as a function to logits that cover the image."""
    model = load()
    model.pad_multiple = pad_multiple
    return functools.partial(forward, model.to(device))
