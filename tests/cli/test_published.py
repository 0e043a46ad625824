"""Verbs on published networks."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import DATA, call
from safetensors.torch import load_file

from nasseg.cli.genotypes import read_genotype
from nasseg.cli.main import run as run_command
from nasseg.cli.target import Asked, trial_of
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError, StudyError, WeightsError
from nasseg.genes.presets import preset
from nasseg.published.network import Published
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Trial
from tests.published.test_network import configured, saved

# One iteration that moves nothing: what was begun with is still there after it.
SHORT = {"iterations": 1, "batch_size": 2, "threads": 1, "device": "cpu", "lr": 1e-12, "ema": 0.0}
SETS = [part for name, value in SHORT.items() for part in ("--set", f"trainer.{name}={value}")]


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and standard output, where capsys is not to be had."""
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            run_command(list(arguments))
        except SystemExit as left:
            code = int(left.code or 0)
    return code, out.getvalue()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SegFormer-B0 of three classes."""
    return saved(tmp_path_factory.mktemp("published"), **configured("crop_size = (64, 96)"))


@pytest.fixture(scope="module")
def fine_tuned(network: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on eleven classes, and what was said."""
    out = tmp_path_factory.mktemp("runs") / "Y"
    code, said = run("train", str(network), "--data", DATA, "--size", "64x64", "--out", str(out), *SETS)
    assert code == 0
    return out, said


def test_fine_tuning_says_what_it_begins_with(network: Path, fine_tuned: tuple[Path, str]) -> None:
    out, said = fine_tuned
    assert f"begins with the weights of {network}, but for the classifier, which is new: 3 classes there, 11 here\n" in said
    found = Published.open(network)
    kept = load_file(out / "model.safetensors")
    weights = [
        key
        for key in found.tensors
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")) and ".classifier." not in key
    ]
    assert len(weights) > 100
    for key in weights:
        torch.testing.assert_close(kept[key], found.tensors[key], rtol=0, atol=1e-6)
    assert kept["decoder.fusion.classifier.weight"].shape == (11, 256, 1, 1)


def test_a_run_knows_what_it_began_with(network: Path, fine_tuned: tuple[Path, str]) -> None:
    run = RunDir.open(fine_tuned[0])
    assert run.facts["network"]["path"] == str(network)
    trial = run.trial()
    assert (trial.network, trial.from_scratch) == (str(network), False)
    assert Trial.from_dict(trial.to_dict()) == trial
    # What was learnt is learnt from it, and not from somewhere else.
    assert trial.key != Trial.from_dict({**trial.to_dict(), "network": None}).key
    assert "network" not in Trial(genotype=trial.genotype, data=DATA, size=(64, 64)).to_dict()


def test_going_on_needs_the_network_no_more(
    network: Path, fine_tuned: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "Y"
    shutil.copytree(fine_tuned[0], out)
    moved = (out / "run.yaml").read_text().replace(str(network), str(tmp_path / "gone.pth"))
    (out / "run.yaml").write_text(moved)
    code, said, _ = call(["train", "--out", str(out), "--resume"], capsys)
    assert code == 0
    assert "begins with" not in said


def test_it_pads_as_the_network_does(network: Path, fine_tuned: tuple[Path, str]) -> None:
    run = RunDir.open(fine_tuned[0])
    assert Published.open(network).pad_multiple == 1
    assert run.facts["settings"]["pad_multiple"] == run.protocol.pad_multiple == run.load_model().pad_multiple == 1
    assert trial_of(str(network), Asked(data=DATA, settings={"pad_multiple": 32})).settings["pad_multiple"] == 32


def test_another_network_is_another_run(network: Path, fine_tuned: tuple[Path, str], tmp_path: Path) -> None:
    trial = RunDir.open(fine_tuned[0]).trial()
    changed = torch.load(network, weights_only=True)
    changed["state_dict"]["decode_head.linear_pred.bias"] += 1
    torch.save(changed, tmp_path / "other.pth")
    with pytest.raises(StudyError, match=r"holds another run: network \w{12} there, \w{12} here"):
        RunDir.create(fine_tuned[0], Trial.from_dict({**trial.to_dict(), "network": str(tmp_path / "other.pth")}), resume=True)


def test_a_classifier_that_fits_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = open_data(DATA).classes
    same = saved(tmp_path, len(names), **configured("crop_size = (32, 32)", CLASSES=names))
    out = tmp_path / "Y"
    code, said, _ = call(["train", str(same), "--data", DATA, "--out", str(out), *SETS], capsys)
    assert code == 0
    assert f"begins with all weights of {same}, the classifier of 11 classes included" in said
    # It was trained at 32x32, and so it is here.
    assert "11 classes · 32x32" in said
    bias = load_file(out / "model.safetensors")["decoder.fusion.classifier.bias"]
    torch.testing.assert_close(bias, Published.open(same).tensors["decoder.fusion.classifier.bias"], rtol=0, atol=1e-6)


def test_what_does_not_go_with_a_published_network(network: Path) -> None:
    asked = Asked(backbone="mit_b1", weights="x.pth", pretrained=True, genes={"lpm": "se"})
    with pytest.raises(ConfigError) as refused:
        trial_of(str(network), asked)
    assert [problem.key for problem in refused.value.problems] == ["--backbone", "--weights", "--pretrained", "--set lpm"]
    assert "is not for a published network, which has its encoder and all its weights" in str(refused.value)
    assert "a published network's genes are what its weights are for" in str(refused.value)


@pytest.mark.parametrize(("asked", "size"), [({"size": (32, 64)}, (32, 64)), ({}, (64, 96))])
def test_the_size_is_the_networks_own_unless_another_is_asked_for(asked: dict[str, Any], size: tuple[int, int], network: Path) -> None:
    assert trial_of(str(network), Asked(data=DATA, **asked)).size == size


def test_a_trial_of_another_design_is_refused(network: Path, tmp_path: Path) -> None:
    trial = Trial(
        genotype=preset("segformer", "mit_b0").override({"fusion_width": 64}),
        data=DATA,
        size=(64, 64),
        network=str(network),
        settings=SHORT,
    )
    with pytest.raises(WeightsError, match=r"net.pth: its genotype is \w{12}, the network to be trained is \w{12}"):
        RunDir.create(tmp_path / "Y", trial).run(lambda iteration, metrics: False)


def test_a_network_that_is_gone_is_named(tmp_path: Path) -> None:
    trial = Trial(genotype=preset("segformer", "mit_b0"), data=DATA, size=(64, 64), network=str(tmp_path / "gone.pth"))
    with pytest.raises(WeightsError, match=r"gone.pth: cannot be read \(No such file"):
        RunDir.create(tmp_path / "Y", trial)


def test_cost_takes_a_published_network(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_genotype(str(network)) == preset("segformer", "mit_b0")
    code, said, _ = call(["cost", str(network), "--size", "512x512", "--classes", "150"], capsys)
    assert code == 0
    assert "mit_b0" in said


def test_a_file_that_is_no_network_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, tmp_path / "x.pth")
    for command in (
        ["cost", str(tmp_path / "x.pth"), "--size", "64", "--classes", "3"],
        ["train", str(tmp_path / "x.pth"), "--out", str(tmp_path / "Y")],
    ):
        code, _, said = call(command, capsys)
        assert code == 2
        assert "x.pth: no published network that nasseg knows, with 1 tensors such as fc.weight; nearest: " in said
    assert not (tmp_path / "Y").exists()
