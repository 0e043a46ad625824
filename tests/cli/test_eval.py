"""nasseg eval: a run and a bundle give the numbers the training gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kits_trainer import DATA, Told, call, tiny_trial

from nasseg.export.bundle import export_run
from nasseg.training.rundir import RunDir

SETTINGS = {"iterations": 3, "batch_size": 2, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "Y", tiny_trial(trainer="full", settings=SETTINGS))
    run.run(Told())
    return run


def test_a_run_gives_its_own_numbers(trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["eval", str(trained.path), "--json"], capsys)
    found = json.loads(said)
    assert code == 0
    assert found["metrics"] == pytest.approx(trained.metrics["metrics"], abs=1e-9)
    assert found["per_class"] == pytest.approx(trained.metrics["per_class"], abs=1e-9)
    assert found["protocol"] == {**trained.metrics["protocol"], "data": DATA}


def test_as_a_table(trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["eval", str(trained.path), "--split", "train", "--size", "32x64", "--masks", "resized"], capsys)
    assert code == 0
    assert "mIoU" in said
    assert "train, 8 images at 32x64 (stretch, whole image, single scale, no flip), resized masks" in said


@pytest.mark.parametrize("onnx", [[], ["--onnx"]])
def test_a_bundle_gives_the_same(trained: RunDir, bundle: Path, onnx: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["eval", str(bundle), "--data", DATA, "--json", *onnx], capsys)
    found = json.loads(said)
    assert code == 0
    assert found["metrics"] == pytest.approx(trained.metrics["metrics"], abs=0.05)
    assert found["protocol"]["weights"] == ("onnx" if onnx else "bundle")


@pytest.fixture(scope="module")
def bundle(trained: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "B"
    export_run(trained.path, out)
    return out


PROTOCOLS = [
    ("--keep-ratio --size 48x100 --size-divisor 32", "at 48x100 (keep ratio, sides multiples of 32, whole image, single scale, no flip)"),
    (
        "--mode slide --crop 32x48 --stride 20x30",
        "at 64x64 (stretch, padded to multiples of 32, windows of 32x48 every 20x30, single scale, no flip)",
    ),
    ("--size 50x64 --pad-multiple 1", "at 50x64 (stretch, not padded, whole image, single scale, no flip)"),
    ("--size 50x64 --size-divisor 32", "at 50x64 (stretch, sides multiples of 32, whole image, single scale, no flip)"),
    ("--mode slide --crop 48", "windows of 48x48 every 32x32"),
    ("--scales 0.5,1 --flip", "whole image, scales 0.5, 1, with flip)"),
    ("--amp bf16 --boundary", "ema weights in bf16"),
]


@pytest.mark.parametrize(("options", "sentence"), PROTOCOLS)
def test_protocols(trained: RunDir, options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["eval", str(trained.path), *options.split()], capsys)
    assert code == 0
    assert sentence in said
    assert ("boundary IoU" in said) is ("--boundary" in options)


def test_a_bundle_and_its_onnx_file_under_a_protocol(trained: RunDir, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes that the network's stride does not divide: module, bundle and ONNX file give the same."""
    numbers = []
    for start in ([str(trained.path)], [str(bundle), "--data", DATA], [str(bundle), "--data", DATA, "--onnx"]):
        code, said, _ = call(["eval", *start, "--keep-ratio", "--size", "57x90", "--flip", "--json"], capsys)
        assert code == 0
        numbers.append(json.loads(said)["metrics"])
    assert numbers[1] == pytest.approx(numbers[0], abs=0.05)
    assert numbers[2] == pytest.approx(numbers[0], abs=0.05)


def test_report(trained: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["eval", str(trained.path), "--report", str(tmp_path / "report"), "--worst", "2"], capsys)
    assert code == 0
    assert f"report: {tmp_path / 'report' / 'index.html'}" in said
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {name: found["values"][name] for name in ("miou", "macc", "aacc")} == pytest.approx(trained.metrics["metrics"], abs=1e-9)
    assert found["protocol"]["data"] == DATA
    matrix = np.load(tmp_path / "report" / "confusion.npy")
    assert found["values"]["aacc"] == pytest.approx(100 * matrix.trace() / matrix.sum())
    assert len((tmp_path / "report" / "images.csv").read_text().splitlines()) == 1 + 4
    code, said, _ = call(["eval", str(trained.path), "--report", str(tmp_path / "report"), "--json"], capsys)
    assert code == 0
    assert "boundary_iou" in json.loads(said)["metrics"]


REFUSED = [
    (["--mode", "slide"], "--crop: mode slide wants the windows' size"),
    (["--scales", "a"], "--scales: numbers above 0, by comma"),
    (["--keep-ratio", "--masks", "resized"], "--keep-ratio: goes with original masks"),
    (["--amp", "fp17"], "--amp: must be one of none, bf16, fp16 (given 'fp17'); nearest legal: fp16"),
    (["--worst", "0"], "--worst: must be a whole number from 1"),
    (["--workers", "-1"], "--workers: must be a whole number from 0"),
    (["--split", "test"], "no split 'test'; there are train, val"),
    (["--masks", "tiny"], "--masks: must be one of original, resized"),
    (["--batch-size", "0"], "--batch-size: must be a whole number from 1"),
    (["--pad-multiple", "16"], "--pad-multiple: must be 1 (images as they are) or a multiple of 32 (given 16)"),
    (["--onnx"], "a training run has no ONNX file; make one with: nasseg export"),
    (["--device", "cuda:77"], "cuda:77"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_refusals(trained: RunDir, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(trained.path), *arguments], capsys)
    assert code == 2
    assert sentence in said


def test_neither_run_nor_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(tmp_path)], capsys)
    assert code == 2
    assert "not a bundle" in said


def test_an_onnx_file_has_one_precision(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(bundle), "--data", DATA, "--onnx", "--amp", "bf16"], capsys)
    assert code == 2
    assert "--amp: is the module's; an ONNX file computes in the precision it was written in (given 'bf16'); nearest legal: none" in said


def test_a_bundle_wants_data(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(bundle)], capsys)
    assert code == 2
    assert "a bundle does not say which data to measure it on" in said


@pytest.mark.shared
def test_data_of_other_classes_are_refused(trained: RunDir, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(trained.path), "--data", f"camvid:{shared / 'data' / 'camvid'}"], capsys)
    assert code == 2
    assert "are not those the network was trained on (road, pavement" in said
