"""``nasseg eval``: measure a run or a bundle on a data set."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.run_view import protocol_line, result_table
from nasseg.cli.verb import Verb
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, Problem, nearest
from nasseg.export.bundle import bundle_predictor
from nasseg.log import STDERR
from nasseg.report.evaluation import PAGE, report_folder, write_report
from nasseg.report.worst import Worst
from nasseg.training.device import check_precision, resolve_device
from nasseg.training.evaluate import Each, Predict, covering, evaluate
from nasseg.training.job import forward
from nasseg.training.protocol import Protocol
from nasseg.training.rundir import RUN, RunDir

PRECISIONS = ("none", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured: a function to logits, the classes it tells apart, and how images reach it."""

    predict: Predict
    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    data: str | None


@click.command("eval", cls=Verb)
@click.argument("path")
@click.option("--data", help="A folder, KIND:PATH (nasseg data info) or synthetic; a run's own where it is left out.")
@click.option("--split", default="val", show_default=True, help="The split to measure.")
@click.option("--size", type=SIZE, help="Height and width images are resized to; those of the training where it is left out.")
@click.option("--keep-ratio", is_flag=True, help="Keep the aspect: the largest that fits --size, long side to long side (512x2048).")
@click.option("--size-divisor", type=int, default=1, show_default=True, help="Round both sides up to a multiple of this.")
@click.option("--mode", default="whole", show_default=True, help="whole: the image in one piece; slide: through windows.")
@click.option("--crop", type=SIZE, help="With --mode slide: a window's size.")
@click.option("--stride", type=SIZE, help="With --mode slide: the way from window to window; two thirds of the window if left out.")
@click.option("--scales", default="1.0", show_default=True, help="Scales by comma, such as 0.5,0.75,1.0; probabilities are averaged.")
@click.option("--flip", is_flag=True, help="See every scale mirrored too.")
@click.option("--masks", default="original", show_default=True, help="original: masks in their own size; resized: to --size.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Images, or windows of one image, in one forward pass.")
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
    keep_ratio: bool,
    size_divisor: int,
    mode: str,
    crop: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    scales: str,
    flip: bool,
    masks: str,
    batch_size: int,
    workers: int,
    device: str,
    amp: str,
    onnx: bool,
    boundary: bool,
    report: str | None,
    worst: int,
    as_json: bool,
) -> None:
    """Measure PATH, a run's folder or a bundle: mIoU, mAcc, aAcc and IoU by class, in percent.

    mmsegmentation's protocols:

    \b
    ADE20K       --keep-ratio --size 512x2048
    Cityscapes   --size 1024x2048 --mode slide --crop 1024x1024 --stride 768x768
    "ms + flip"  --scales 0.5,0.75,1.0,1.25,1.5,1.75 --flip
    """
    if mode == "slide" and crop is not None and stride is None:
        stride = (max(1, crop[0] * 2 // 3), max(1, crop[1] * 2 // 3))
    given = {
        "masks": masks,
        "mode": mode,
        "crop": crop,
        "stride": stride,
        "scales": _scales(scales),
        "flip": flip,
        "keep_ratio": keep_ratio,
        "size_divisor": size_divisor,
    }
    where = _checked(given, size or (1, 1), batch_size, workers, amp, worst, onnx, device)
    measured = read(path, onnx=onnx, device=device)
    if (data or measured.data) is None:
        raise ConfigError(Problem("", "--data", "a bundle does not say which data to measure it on", None, "synthetic"))
    opened = open_data(str(data or measured.data))
    if opened.classes != measured.classes:
        theirs, ours = ", ".join(opened.classes), ", ".join(measured.classes)
        raise ConfigError(Problem("", "--data", f"its classes ({theirs}) are not those the network was trained on ({ours})", opened.spec))
    images = opened.split(split)
    folder = None if report is None else report_folder(report)
    cases = None if folder is None else Worst(opened.num_classes, worst)
    console = wide_console()
    with _heard(cases, len(images)) as each:
        found = evaluate(
            measured.predict,
            images,
            num_classes=opened.num_classes,
            classes=opened.classes,
            size=size or measured.size,
            mean=measured.mean,
            std=measured.std,
            batch_size=batch_size,
            workers=workers,
            device=where,
            weights=measured.weights,
            amp=amp,
            boundary=boundary or folder is not None,
            each=each,
            **given,  # type: ignore[arg-type]
        )
    protocol = {**found.protocol, "data": opened.spec}
    line = f"{opened.spec}: {protocol_line(protocol)}"
    if folder is not None and cases is not None:
        found = replace(found, protocol=protocol)
        title = f"{Path(path).name or path} on {opened.name} {split}"
        write_report(folder, found, images, opened.classes, opened.palette, cases, title=title, line=line)
    if as_json:
        boundaries = {"boundary_per_class": dict(found.boundary_per_class)} if found.boundary_per_class else {}
        numbers = {"metrics": dict(found.values), "per_class": dict(found.per_class), **boundaries}
        click.echo(json.dumps({**numbers, "protocol": protocol}))
        return
    console.print(result_table(found.values, found.per_class, opened.classes))
    console.print(line)
    if folder is not None:
        console.print(f"report: {folder / PAGE}")


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(Problem("", "--scales", "numbers above 0, by comma", text, "0.75,1.0,1.25")) from None


def _checked(
    given: dict[str, Any], size: tuple[int, int], batch_size: int, workers: int, amp: str, worst: int, onnx: bool, device: str
) -> torch.device:
    """The device to compute on; every wrong option at once before anything is read."""
    problems = []
    for name, number, least in (("--batch-size", batch_size, 1), ("--workers", workers, 0), ("--worst", worst, 1)):
        if number < least:
            problems.append(Problem("", name, f"must be a whole number from {least}", number, least))
    if amp not in PRECISIONS:
        problems.append(Problem("", "--amp", f"must be one of {', '.join(PRECISIONS)}", amp, nearest(amp, PRECISIONS)))
    elif onnx and amp != "none":
        problems.append(Problem("", "--amp", "is the module's; an ONNX file computes in the precision it was written in", amp, "none"))
    try:
        Protocol(size=size, **given)
    except ConfigError as error:
        problems += [replace(problem, where="", key=f"--{problem.key.replace('_', '-')}") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    where = torch.device("cpu") if onnx else resolve_device(device)
    check_precision(amp, where)
    return where


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


def read(path: str, *, onnx: bool, device: str) -> Measured:
    """A run or a bundle as something to measure."""
    if (Path(path) / RUN).is_file():
        if onnx:
            raise BundleError(f"{path}: a training run has no ONNX file; make one with: nasseg export {path} --out BUNDLE")
        run = RunDir.open(path)
        model = run.load_model().to(resolve_device(device))
        return Measured(
            predict=functools.partial(forward, model),
            classes=run.classes,
            size=run.size,
            mean=tuple(run.facts["mean"]),
            std=tuple(run.facts["std"]),
            weights="ema" if run.facts["settings"]["ema"] else "raw",
            data=str(run.facts["data"]),
        )
    predict, preprocessing = bundle_predictor(path, onnx=onnx, device=str(resolve_device(device)))
    return Measured(
        predict=covering(predict, preprocessing.stride),
        classes=preprocessing.classes,
        size=preprocessing.size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        weights="onnx" if onnx else "bundle",
        data=None,
    )
