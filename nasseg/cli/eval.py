"""``nasseg eval``: measure a run or a bundle on a data set."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import click

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.run_view import protocol_line, result_table
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, Problem, nearest
from nasseg.export.bundle import bundle_predictor
from nasseg.training.device import resolve_device
from nasseg.training.evaluate import Predict, evaluate
from nasseg.training.job import forward
from nasseg.training.protocol import MASKS
from nasseg.training.rundir import RUN, RunDir


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


@click.command("eval")
@click.argument("path")
@click.option("--data", help="A folder, camvid:PATH or synthetic; a run's own where it is left out.")
@click.option("--split", default="val", show_default=True, help="The split to measure.")
@click.option("--size", type=SIZE, help="Height and width images are resized to; those of the training where it is left out.")
@click.option("--masks", default="original", show_default=True, help="original: masks in their own size; resized: to --size.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Images in one forward pass.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--onnx", is_flag=True, help="Run the bundle's model.onnx in ONNX Runtime instead of the module.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: metrics, per_class, protocol.")
def command(
    path: str,
    data: str | None,
    split: str,
    size: tuple[int, int] | None,
    masks: str,
    batch_size: int,
    device: str,
    onnx: bool,
    as_json: bool,
) -> None:
    """Measure PATH, a run's folder or a bundle: mIoU, mAcc, aAcc and IoU by class, in percent."""
    problems = []
    if masks not in MASKS:
        problems.append(Problem("", "--masks", f"must be one of {', '.join(MASKS)}", masks, nearest(masks, MASKS)))
    if batch_size < 1:
        problems.append(Problem("", "--batch-size", "must be a whole number from 1", batch_size, 1))
    if problems:
        raise ConfigError(problems)
    measured = read(path, onnx=onnx, device=device)
    if (data or measured.data) is None:
        raise ConfigError(Problem("", "--data", "a bundle does not say which data to measure it on", None, "synthetic"))
    opened = open_data(str(data or measured.data))
    if opened.classes != measured.classes:
        theirs, ours = ", ".join(opened.classes), ", ".join(measured.classes)
        raise ConfigError(Problem("", "--data", f"its classes ({theirs}) are not those the network was trained on ({ours})", opened.spec))
    found = evaluate(
        measured.predict,
        opened.split(split),
        num_classes=opened.num_classes,
        classes=opened.classes,
        size=size or measured.size,
        mean=measured.mean,
        std=measured.std,
        masks=masks,
        batch_size=batch_size,
        device="cpu" if onnx else resolve_device(device),
        weights=measured.weights,
    )
    protocol = {**found.protocol, "data": opened.spec}
    if as_json:
        click.echo(json.dumps({"metrics": dict(found.values), "per_class": dict(found.per_class), "protocol": protocol}))
        return
    console = wide_console()
    console.print(result_table(found.values, found.per_class, opened.classes))
    console.print(f"{opened.spec}: {protocol_line(protocol)}")


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
        predict=predict,
        classes=preprocessing.classes,
        size=preprocessing.size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        weights="onnx" if onnx else "bundle",
        data=None,
    )
