"""A run and a bundle carry how they were measured; options change it, and what was changed is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kits_model import fill
from kits_trainer import DATA, TINY, Told, call
from safetensors.torch import save_file

from nasseg.cli.eval import changed_protocol
from nasseg.errors import BundleError
from nasseg.export.bundle import export_run
from nasseg.models.segmenter import build
from nasseg.training.protocol import Protocol
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Trial

pytestmark = pytest.mark.xdist_group("eval_protocol")

OLD = Path(__file__).resolve().parents[1] / "assets" / "format1"
SETTINGS = {
    **{"iterations": 3, "batch_size": 2, "threads": 1, "device": "cpu", "ema": 0.0},
    **{"eval_size": "50x100", "eval_keep_ratio": True, "pad_multiple": 1, "metrics": ["iou[road,sky]"]},
}
OWN = {"size": [50, 100], "resize": "keep_ratio", "size_divisor": 1, "pad_multiple": 1, "window": "whole", "masks": "original"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    trial = Trial(genotype=TINY, data=DATA, size=(64, 64), trainer="full", settings=SETTINGS)
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "Y", trial)
    run.run(Told())
    return run


@pytest.fixture(scope="module")
def bundle(trained: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "B"
    export_run(trained.path, out, images=2)
    return out


def measured(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, said, err = call(["eval", *arguments, "--json"], capsys)
    assert code == 0, err
    found: dict[str, Any] = json.loads(said)
    return found


def test_training_eval_of_the_run_and_eval_of_the_bundle_agree_to_the_last_digit(
    trained: RunDir, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = trained.metrics
    assert final["protocol"] | OWN == final["protocol"]
    of_run = measured([str(trained.path)], capsys)
    of_bundle = measured([str(bundle), "--data", DATA], capsys)
    for found, of in ((of_run, "run"), (of_bundle, "bundle")):
        # What a run reports beside these stands in the run alone.
        names = final["metrics"] if of == "run" else ("miou", "macc", "aacc")
        assert found["metrics"] == {name: final["metrics"][name] for name in names}
        assert found["per_class"] == final["per_class"]
        assert found["protocol"] | OWN == found["protocol"]
        assert (found["protocol_of"], found["changed"]) == (of, {})


def test_what_was_used_and_what_was_changed_is_said(trained: RunDir, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = call(["eval", str(trained.path)], capsys)
    assert "at 50x100 (keep ratio, not padded, whole image" in said
    assert "That is the run's own protocol." in said
    _, said, _ = call(["eval", str(bundle), "--data", DATA, "--stretch", "--size", "64x64", "--pad-multiple", "32", "--flip"], capsys)
    assert "at 64x64 (stretch, whole image, single scale, with flip)" in said
    assert "The bundle's own protocol has size 50x100, resize keep_ratio, pad_multiple 1, flip false; the rest is as there." in said
    found = measured([str(trained.path), "--size-divisor", "32"], capsys)
    assert found["changed"] == {"size_divisor": 1}
    assert found["protocol"] | OWN | {"size_divisor": 32} == found["protocol"]


def test_the_padding_that_is_asked_for_is_what_the_network_does(trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """Images become 50x50: unpadded, padded to 64x64 and resized to 64x64 are three functions."""
    accuracies = [
        measured([str(trained.path), *options], capsys)["metrics"]["aacc"]
        for options in ([], ["--pad-multiple", "32"], ["--size-divisor", "32"])
    ]
    assert len(set(accuracies)) == 3


def test_an_onnx_file_is_measured_as_closely_as_its_one_size_allows(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured([str(bundle), "--data", DATA, "--onnx"], capsys)
    assert found["protocol"] | OWN | {"size": [64, 64], "resize": "stretch"} == found["protocol"]
    assert found["metrics"] == pytest.approx(
        measured([str(bundle), "--data", DATA, "--stretch", "--size", "64x64"], capsys)["metrics"], abs=0.05
    )
    code, _, said = call(["eval", str(bundle), "--data", DATA, "--onnx", "--pad-multiple", "32"], capsys)
    assert code == 2
    assert "--pad-multiple: is the module's; an ONNX file pads as it was exported (given 32); nearest legal: 1" in said


def test_the_card_says_that_the_files_are_measured_otherwise(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    assert "| measured on | the largest that fits 50x100, aspect kept, not padded |" in card
    assert "That stretches every image to 64x64, the one size the exported files take. The accuracy above was measured otherwise" in card
    assert "so measured, the module has" in card


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_folders_of_an_earlier_nasseg(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As format 1 wrote them, with weights by a rule. The numbers are what that nasseg measured of them.

    The run says in its settings how it was measured; the bundle does not, and its images are stretched as they were then.
    """
    folder = Path(shutil.copytree(OLD / kind, tmp_path / kind))
    save_file(fill(build(TINY, 11)).state_dict(), folder / "model.safetensors")
    found = measured([str(folder), *(["--data", DATA] if kind == "bundle" else [])], capsys)
    expected = {
        "run": {"miou": 0.213150762499753, "macc": 6.889438033669439, "aacc": 0.9605829744948658},
        "bundle": {"miou": 0.317096606812496, "macc": 5.760069641542625, "aacc": 1.2851937727724412},
    }
    assert found["metrics"] == pytest.approx(expected[kind], abs=0.02)
    assert found["protocol_of"] == ("run" if kind == "run" else None)
    assert found["protocol"]["size"] == ([60, 100] if kind == "run" else [64, 64])
    _, said, _ = call(["eval", str(folder), *(["--data", DATA] if kind == "bundle" else [])], capsys)
    unknown = "The bundle does not say how it was measured; by default whole images are stretched to its size."
    assert ("That is the run's own protocol." if kind == "run" else unknown) in said


def test_a_run_whose_settings_are_no_protocol(trained: RunDir, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.path, tmp_path / "run"))
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.replace("masks: original", "masks: resized"))
    with pytest.raises(BundleError, match=r"run\.yaml: its settings are no way to validate: .*keep_ratio: goes with original masks"):
        RunDir.open(folder).load_model()


WINDOWS = Protocol(size=(64, 96), mode="slide", crop=(32, 48), stride=(16, 16))


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (Protocol(size=(8, 8)), {}, Protocol(size=(8, 8))),
        (WINDOWS, {"mode": "whole"}, Protocol(size=(64, 96))),
        (WINDOWS, {"crop": (30, 30)}, Protocol(size=(64, 96), mode="slide", crop=(30, 30), stride=(20, 20))),
        (WINDOWS, {"stride": (8, 8)}, Protocol(size=(64, 96), mode="slide", crop=(32, 48), stride=(8, 8))),
        (WINDOWS, {"size": (80, 80), "flip": True}, Protocol(size=(80, 80), mode="slide", crop=(32, 48), stride=(16, 16), flip=True)),
        (Protocol(size=(8, 8)), {"mode": "slide", "crop": (6, 6)}, Protocol(size=(8, 8), mode="slide", crop=(6, 6), stride=(4, 4))),
        (Protocol(size=(8, 8), keep_ratio=True), {"keep_ratio": False, "masks": "resized"}, Protocol(size=(8, 8), masks="resized")),
    ],
)
def test_options_change_a_protocol_field_by_field(base: Protocol, given: dict[str, Any], expected: Protocol) -> None:
    assert changed_protocol(base, given) == expected
