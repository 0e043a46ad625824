"""The auxiliary head: there in training, in checkpoints, in the loss; nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import DATA, TINY, Told, tiny_trial
from safetensors.torch import load_file

from nasseg.cli.main import run as run_command
from nasseg.errors import ConfigError
from nasseg.export.bundle import load_bundle
from nasseg.models.auxiliary import PREFIX
from nasseg.models.segmenter import build
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.config import TrainingConfig
from nasseg.training.job import Job

SETTINGS: dict[str, Any] = {"iterations": 3, "batch_size": 4, "aux_loss": 0.4, "device": "cpu"}


def trained(told: Told | None = None, settings: dict[str, Any] | None = None, **trial: Any) -> Job:
    job = Job.open(tiny_trial(**trial), TrainingConfig.parse({**SETTINGS, **(settings or {})}))
    result = job.train(job.loss(), told or Told())
    assert result.status == "complete", result.reason
    return job


def test_its_shape_is_mmsegmentations() -> None:
    model = build(TINY, 11)
    model.add_auxiliary()
    assert model.auxiliary is not None
    width = model.decoder.channels[2]
    shapes = {name: tuple(value.shape) for name, value in model.auxiliary.named_parameters()}
    assert shapes == {"0.weight": (256, width, 3, 3), "1.weight": (256,), "1.bias": (256,), "4.weight": (11, 256, 1, 1), "4.bias": (11,)}
    main, beside = model.train()(torch.zeros(2, 3, 64, 96))
    assert (main.shape, beside.shape) == ((2, 11, 8, 12), (2, 11, 4, 6))


def test_in_eval_mode_the_network_is_what_it_was() -> None:
    model = build(TINY, 11).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(x)
        model.add_auxiliary()
        assert torch.equal(model.eval()(x), plain)
        assert torch.equal(model.predict(x), build_twin(model).predict(x))


def build_twin(model: torch.nn.Module) -> Any:
    twin = build(TINY, 11).eval()
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(PREFIX)})
    return twin


def test_it_learns_and_teaches_the_backbone() -> None:
    with_head, without = Told(), Told()
    job = trained(with_head)
    trained(without, {"aux_loss": 0.0})
    assert with_head.losses[0] > without.losses[0]
    fresh = Job.open(tiny_trial(), job.config)
    moved = [name for name, value in job.model.state_dict().items() if not torch.equal(value, fresh.model.state_dict()[name])]
    assert {f"{PREFIX}0.weight", f"{PREFIX}4.weight"} <= set(moved)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_kept_weights_have_none_and_checkpoints_do(tmp_path: Path, ema: float) -> None:
    trained(settings={"ema": ema}, workdir=str(tmp_path))
    build(TINY, 11).load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert f"{PREFIX}0.weight" in load_checkpoint(tmp_path)["model"]


def test_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole, before, after = Told(), Told(stop_at=1), Told()
    trained(whole)
    trained(before, workdir=str(tmp_path / "a"))
    trained(after, workdir=str(tmp_path / "b"), parent=str(tmp_path / "a"))
    assert before.losses + after.losses == whole.losses


def test_weights_go_from_a_run_with_it_to_one_without_and_back(tmp_path: Path) -> None:
    trained(workdir=str(tmp_path / "a"))
    trained(settings={"aux_loss": 0.0}, workdir=str(tmp_path / "b"), parent=str(tmp_path / "a"))
    trained(workdir=str(tmp_path / "c"), parent=str(tmp_path / "b"))


def test_a_crop_that_would_be_padded_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"aux_loss needs sides that are multiples of 32, or pad_multiple=1 .given '48x64'.; nearest legal: 64x64"
    ):
        trained(size=(48, 64))
    trained(size=(48, 64), settings={"pad_multiple": 1})


def test_it_is_not_in_the_bundle(tmp_path: Path) -> None:
    arguments = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64", "--out", str(tmp_path / "run")]
    sets = ["iterations=2", "batch_size=4", "aux_loss=0.4", "warmup=0.0", "device=cpu"]
    run_command([*arguments, *(part for each in sets for part in ("--set", f"trainer.{each}"))])
    run_command(["export", str(tmp_path / "run"), "--out", str(tmp_path / "bundle"), "--images", "1"])
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.auxiliary is None
    assert not [name for name in load_file(tmp_path / "bundle" / "model.safetensors") if name.startswith(PREFIX)]
