"""Verbs on published networks."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import DATA, call
from safetensors.torch import load_file

import nasseg
from nasseg.cli.genotypes import read_genotype
from nasseg.cli.main import run as run_command
from nasseg.cli.target import Asked, trial_of
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, StudyError, WeightsError
from nasseg.export.published import preprocessing_of
from nasseg.genes.presets import preset
from nasseg.published.network import Published
from nasseg.training.evaluate import evaluate
from nasseg.training.job import forward
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
    with pytest.raises(ConfigError, match="--pretrained: is not for a published network"):
        trial_of(str(network), Asked(pretrained=True))
    with pytest.raises(ConfigError) as refused:
        trial_of(str(network), Asked(backbone="mit_b1", weights="x.pth", genes={"lpm": "se"}))
    assert [problem.key for problem in refused.value.problems] == ["--backbone", "--weights", "--set lpm"]
    assert "is not for a published network, which has its encoder and all its weights" in str(refused.value)
    assert "a published network's genes are what its weights are for" in str(refused.value)


@pytest.mark.parametrize(("asked", "size"), [({"size": (32, 64)}, (32, 64)), ({}, (64, 96))])
def test_the_size_is_the_networks_own_unless_another_is_asked_for(asked: dict[str, Any], size: tuple[int, int], network: Path) -> None:
    assert trial_of(str(network), Asked(data=DATA, **asked)).size == size


@pytest.mark.parametrize(("settings", "pad_multiple"), [({}, 1), ({"pad_multiple": 32}, 32)])
def test_so_is_what_it_pads_images_to(settings: dict[str, int], pad_multiple: int, network: Path) -> None:
    assert trial_of(str(network), Asked(data=DATA, settings=settings)).settings == {"pad_multiple": pad_multiple}


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


def city_like(folder: Path, **meta: Any) -> Path:
    """SegFormer-B0 of the streets' eleven classes, measured through windows."""
    text = """
crop_size = (64, 64)
model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(48, 48)))
test_pipeline = [dict(type='Resize', scale=(96, 96), keep_ratio=True)]
"""
    return saved(folder, 11, **configured(text, CLASSES=open_data(DATA).classes, **meta))


def test_eval_measures_by_the_networks_own_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = city_like(tmp_path)
    code, said, _ = call(["eval", str(path), "--data", DATA, "--json", "--device", "cpu"], capsys)
    assert code == 0
    found = json.loads(said)
    protocol = found["protocol"]
    assert (protocol["size"], protocol["resize"], protocol["window"], protocol["crop"], protocol["stride"]) == (
        [96, 96],
        "keep_ratio",
        "slide",
        [64, 64],
        [48, 48],
    )
    assert (protocol["pad_multiple"], protocol["weights"]) == (1, "published")
    assert (found["protocol_of"], found["changed"]) == ("published network", {})
    assert any("ImageNet's mean" in remark for remark in found["remarks"])
    # The number is that of the module under that protocol.
    model, data = Published.open(path).model(), open_data(DATA)
    expected = evaluate(
        partial(forward, model),
        data.split("val"),
        num_classes=11,
        classes=data.classes,
        size=(96, 96),
        mean=model.backbone.mean,  # type: ignore[arg-type]
        std=model.backbone.std,  # type: ignore[arg-type]
        mode="slide",
        crop=(64, 64),
        stride=(48, 48),
        keep_ratio=True,
        pad_multiple=1,
    )
    assert found["metrics"]["miou"] == pytest.approx(expected.miou, abs=1e-6)


def test_eval_says_where_a_network_says_nothing(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = saved(tmp_path, 11)
    code, _, said = call(["eval", str(silent), "--data", DATA], capsys)
    assert code == 2
    assert "--size: this network does not say the size that images enter at; give one; nearest legal: 512x512" in said
    code, said, _ = call(["eval", str(silent), "--data", DATA, "--size", "64x64", "--device", "cpu"], capsys)
    assert code == 0
    assert "The published network does not say how it was measured; by default whole images are stretched to its size." in said
    assert f"{silent}: it does not say how images were normalised; ImageNet's mean and deviation are taken" in said
    code, _, said = call(["eval", str(network)], capsys)
    assert code == 2
    assert "--data: a published network does not say which data to measure it on" in said


def test_classes_must_be_the_datas(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["eval", str(network), "--data", DATA], capsys)
    assert code == 2
    assert f"has 11 classes, {network} tells 3 apart" in said
    names = list(open_data(DATA).classes)
    names[3], names[4] = names[4], names[3]
    swapped = saved(tmp_path, 11, **configured("crop_size = (64, 64)", CLASSES=names))
    code, _, said = call(["eval", str(swapped), "--data", DATA], capsys)
    assert code == 2
    assert f"its class 3 is {names[4]}, that of {swapped} is {names[3]}; they must agree in order" in said


def test_onnx_is_a_bundles(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["eval", str(network), "--data", DATA], ["predict", str(network), "--data", DATA, "--out", str(tmp_path / "p")]):
        code, _, said = call([*command, "--onnx"], capsys)
        assert code == 2
        assert f"{network}: a published network has no ONNX file; make one with: nasseg export {network} --out BUNDLE" in said


def test_predict_draws_with_its_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = city_like(tmp_path)
    code, said, _ = call(["predict", str(path), "--data", DATA, "--number", "1", "--out", str(tmp_path / "p"), "--device", "cpu"], capsys)
    assert code == 0
    assert "windows, as measured" in said
    assert f"{path}: it does not say how images were normalised" in said
    masks = sorted((tmp_path / "p").glob("*_mask.png"))
    assert len(masks) == 1
    named = "".join(open_data(DATA).classes)
    assert any(word in named for word in said.split())


def test_export_makes_a_bundle_that_computes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = city_like(tmp_path)
    out = tmp_path / "bundle"
    code, said, _ = call(["export", str(path), "--out", str(out), "--data", DATA, "--images", "2"], capsys)
    assert code == 0
    assert f"{path}: it does not say how images were normalised" in said
    assert f"nasseg eval {out} --data" in said
    model, bundle = nasseg.load(path), nasseg.load(out)
    assert bundle.genotype == model.genotype
    assert (model.pad_multiple, bundle.pad_multiple) == (1, 1)
    x_BCHW = torch.randn(1, 3, 45, 77, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(bundle(x_BCHW), model(x_BCHW))
    assert model.preprocessing is not None
    assert bundle.preprocessing is not None
    # The data gave what the network does not say.
    others = ("image_size", "palette")
    assert {k: v for k, v in bundle.preprocessing.items() if k not in others} == {
        k: v for k, v in model.preprocessing.items() if k not in others
    }
    assert bundle.preprocessing["palette"] == [list(colour) for colour in open_data(DATA).palette]
    assert bundle.preprocessing["image_size"] == [64, 64]
    assert bundle.preprocessing["evaluation"]["window"] == "slide"
    card = (out / "README.md").read_text()
    assert "Not trained with nasseg: SegFormer as its authors (NVlabs) write it, read from `net.pth`." in card
    assert "their licence, not known to nasseg, applies" in card


def test_export_without_data_or_size(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = saved(tmp_path)
    code, _, said = call(["export", str(silent), "--out", str(tmp_path / "b")], capsys)
    assert code == 2
    assert "--size: this network does not say the size that images enter at" in said
    assert not (tmp_path / "b").exists()
    facts = preprocessing_of(Published.open(silent), size=(32, 64))
    assert (facts.size, facts.classes, facts.evaluation) == ((32, 64), ("class_0", "class_1", "class_2"), None)
    assert (facts.pad_multiple, facts.protocol.pad_multiple) == (1, 1)
    code, _, said = call(["export", str(tmp_path / "Y"), "--out", str(tmp_path / "c"), "--size", "32x64"], capsys)
    assert code == 2
    assert "--size: is for a published network; a run's files take the size it was trained at" in said


def test_load(network: Path, fine_tuned: tuple[Path, str], tmp_path: Path) -> None:
    # A published network, and a run; a bundle above.
    model = nasseg.load(network)
    assert not model.training
    assert model.preprocessing is not None
    assert model.preprocessing["size"] == [64, 96]
    run = nasseg.load(fine_tuned[0])
    assert run.num_classes == 11
    assert run.preprocessing is not None
    assert run.preprocessing["classes"] == list(open_data(DATA).classes)
    assert nasseg.load(saved(tmp_path)).preprocessing is None
    (tmp_path / "x.txt").touch()
    with pytest.raises(BundleError, match=r"x.txt: no network; one is the folder of a bundle or a run, or a file that ends in"):
        nasseg.load(tmp_path / "x.txt")
    with pytest.raises(BundleError, match=r"nowhere: no such folder"):
        nasseg.load(tmp_path / "nowhere")


def test_reduced_labels_are_remarked(tmp_path: Path) -> None:
    path = saved(tmp_path, **configured("train_pipeline = [dict(type='LoadAnnotations', reduce_zero_label=True)]"))
    assert any(remark.startswith("it was trained with reduce_zero_label: ") for remark in Published.open(path).remarks)
