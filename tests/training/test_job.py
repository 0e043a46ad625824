"""One trial made concrete: crops, starting points, frozen backbones, failures told apart from mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import DATA, TINY, Told, tiny_trial

from nasseg.errors import BackboneError, ConfigError, DataError, WeightsError
from nasseg.genes.genotype import Genotype
from nasseg.models.segmenter import build
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.config import TrainingConfig
from nasseg.training.job import Job, crop_of, forward, run_failure
from nasseg.training.losses import SegmentationLoss
from nasseg.training.trial import Result, Trial


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig.parse({"iterations": 3, "batch_size": 2, "device": "cpu", **settings})


def run(trial: Trial, told: Told | None = None, **settings: Any) -> Result:
    return Job.open(trial, config(**settings)).train(SegmentationLoss(), told or Told())


def test_crop_by_hand() -> None:
    assert crop_of((512, 1024), 1.0) == ((512, 1024), 1.0)
    assert crop_of((512, 1024), 0.5) == ((256, 512), 2.0)
    assert crop_of((120, 160), 1.0) == ((120, 160), 1.0)
    # never below 32, never above the whole
    assert crop_of((64, 20), 0.1) == ((32, 20), 2.0)


def test_smaller_crops_show_things_at_the_same_scale() -> None:
    """At scale 1 a crop of half the size is a part of the image as the evaluation sees it, and not the whole image made small."""
    whole = Job.open(tiny_trial(), config(scale_low=1.0, scale_high=1.0, flip=0.0, color=0.0))
    part = Job.open(tiny_trial(), config(scale_low=1.0, scale_high=1.0, flip=0.0, color=0.0, crop=0.5))
    x_whole, _ = next(whole.batches(0))
    x_part, _ = next(part.batches(0))
    assert (x_whole.shape, x_part.shape) == ((2, 3, 64, 64), (2, 3, 32, 32))
    windows = x_whole[0].unfold(1, 32, 1).unfold(2, 32, 1).movedim(0, 2)
    assert (windows - x_part[0]).abs().amax((2, 3, 4)).min() < 1e-5


def test_logits_cover_the_image_at_any_size() -> None:
    model = build(TINY, 5).eval()
    assert forward(model, torch.zeros(1, 3, 64, 72)).shape == (1, 5, 8, 9)
    assert forward(model, torch.zeros(1, 3, 60, 50)).shape == (1, 5, 60, 50)
    # Unpadded, the cells cover the image as they are.
    model.pad_multiple = 1
    assert forward(model, torch.zeros(1, 3, 60, 50)).shape == (1, 5, 8, 7)


@pytest.mark.parametrize("size", [(40, 56), (33, 47)])
def test_sizes_that_are_no_multiples_of_32(size: tuple[int, int]) -> None:
    result = run(tiny_trial(size=size))
    assert (result.status, result.protocol["size"]) == (Result.COMPLETE, list(size))


def test_training_and_validation_see_images_as_the_settings_say() -> None:
    """Unpadded, padded and resized up: three functions of one network, each on record."""
    found = {}
    settings: dict[str, dict[str, Any]] = {"padded": {}, "unpadded": {"pad_multiple": 1}, "resized": {"eval_size_divisor": 32}}
    for name, given in settings.items():
        told = Told()
        result = run(tiny_trial(size=(45, 61)), told, ema=0.0, scale_low=1.0, scale_high=1.0, **given)
        assert result.status == Result.COMPLETE
        found[name] = (result.protocol["pad_multiple"], result.protocol["size_divisor"], told.losses)
    assert [found[name][:2] for name in settings] == [(32, 1), (1, 1), (32, 32)]
    assert found["padded"][2] == found["resized"][2]
    assert found["padded"][2] != found["unpadded"][2]


def test_a_backbone_that_cannot_run_unpadded_is_refused_before_training() -> None:
    with pytest.raises(BackboneError, match="convnext_atto does not run unpadded"):
        Job.open(tiny_trial(genotype=TINY.on("convnext_atto")), config(pad_multiple=1))


def test_a_frozen_backbone_keeps_weights_and_statistics() -> None:
    job = Job.open(tiny_trial(), config(freeze_backbone=True, lr=0.1))
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    job.train(SegmentationLoss(), Told())
    moved = {name.partition(".")[0] for name, value in job.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"decoder"}


def test_the_data_decide_the_number_of_classes() -> None:
    assert Job.open(tiny_trial(), config()).model.num_classes == 11


def test_another_fidelity_starts_from_the_kept_weights(tmp_path: Path) -> None:
    run(tiny_trial(fidelity=0.5, workdir=str(tmp_path)), iterations=4)
    kept = load_checkpoint(tmp_path)["kept"]["weights"]
    job = Job.open(tiny_trial(parent=str(tmp_path)), config(iterations=4))
    told = Told()
    job.train(SegmentationLoss(), told)
    assert [iteration for iteration, _ in told.told] == [1, 2, 3, 4]
    fresh = Job.open(tiny_trial(), config(iterations=4))
    fresh.model.load_state_dict(kept)
    again = Told()
    fresh.train(SegmentationLoss(), again)
    assert told.losses == again.losses


def test_unmeasured_weights_do_as_well(tmp_path: Path) -> None:
    run(tiny_trial(workdir=str(tmp_path)), Told(stop_at=1))
    result = run(tiny_trial(parent=str(tmp_path), seed=1))
    assert (result.status, result.iterations) == (Result.COMPLETE, 3)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run(tiny_trial(workdir=str(tmp_path)))
    other = TINY.override({"lpm": "none"})
    with pytest.raises(WeightsError, match=f"a checkpoint of another network: genotype {TINY.id} there, {other.id} here"):
        run(tiny_trial(genotype=other, parent=str(tmp_path)))


def test_operational_settings_may_change_when_going_on(tmp_path: Path) -> None:
    straight, before, after = Told(), Told(stop_at=1), Told()
    run(tiny_trial(), straight)
    run(tiny_trial(workdir=str(tmp_path)), before, checkpoint_every=1)
    run(tiny_trial(parent=str(tmp_path)), after, cache=True, checkpoint_every=2, threads=1)
    assert before.losses + after.losses == straight.losses


def test_a_held_out_split_is_measured_too() -> None:
    job = Job.open(tiny_trial(), config())
    splits = {**job.data.splits, "holdout": job.data.split("val").subset([0, 1], "holdout")}
    object.__setattr__(job.data, "splits", splits)
    result = job.train(SegmentationLoss(), Told())
    assert set(result.metrics) == {f"{name}{tail}" for name in ("miou", "macc", "aacc") for tail in ("", "_holdout")}
    assert result.protocol["also"] == {"holdout": 2}


def test_metrics_that_are_asked_for_are_reported_on_every_split() -> None:
    asked = ["iou[road,sky]", "worst_iou", "boundary_iou"]
    job = Job.open(tiny_trial(), config(metrics=asked))
    object.__setattr__(job.data, "splits", {**job.data.splits, "holdout": job.data.split("val").subset([0, 1], "holdout")})
    told = Told()
    result = job.train(SegmentationLoss(), told)
    names = ("miou", "macc", "aacc", *asked)
    assert set(result.metrics) == {f"{name}{tail}" for name in names for tail in ("", "_holdout")}
    assert result.metrics["iou[road,sky]"] == pytest.approx((result.per_class["road"] + result.per_class["sky"]) / 2)
    assert result.metrics["worst_iou"] == min(result.per_class.values())
    assert 0 <= result.metrics["boundary_iou"] <= 100
    assert told.told[-1][1]["iou[road,sky]"] == result.metrics["iou[road,sky]"]
    with pytest.raises(ConfigError, match=r"trainer proxy: metrics: no class raod; the data has .* nearest legal: iou\[road\]"):
        Job.open(tiny_trial(), config(metrics=["iou[raod]"]))


def test_precision_the_device_lacks_is_bad_input() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        run(tiny_trial(), amp="fp16")


def test_a_mistake_in_code_is_not_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SegmentationLoss, "forward", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(tiny_trial())


FAILURES = [
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate"), "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"), "out of memory"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process that loads images was lost"),
    (ValueError("Expected more than 1 value per channel when training, got input size [1, 8, 1, 1]"), "batch normalisation needs"),
    (RuntimeError("shape mismatch"), None),
    (ValueError("no"), None),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_failures_by_their_text(error: Exception, reason: str | None) -> None:
    found = run_failure(error)
    assert found is None if reason is None else (found or "").startswith(reason)


def test_a_batch_norm_without_a_second_value_is_a_reason() -> None:
    result = run(tiny_trial(size=(32, 32)), batch_size=1)
    reason = "batch normalisation needs more than one value per channel; take a larger batch or size at iteration 1 (batch_size 1 of 32x32)"
    assert (result.status, result.reason) == (Result.FAILED, reason)


def test_a_data_set_without_val_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job.open(tiny_trial(), config())
    object.__setattr__(job.data, "splits", {"train": job.data.split("train")})
    monkeypatch.setattr("nasseg.training.job.open_data", lambda spec: job.data)
    with pytest.raises(DataError, match="no split 'val'"):
        Job.open(tiny_trial(data=DATA), config())


def test_identity_holds_no_paths(tmp_path: Path) -> None:
    here = Job.open(tiny_trial(workdir=str(tmp_path)), config()).identity
    assert str(tmp_path) not in str(here)
    assert here["genotype"] == Genotype.from_dict(TINY.to_dict()).id
    assert not TrainingConfig.OPERATIONAL & here["settings"].keys()


def test_a_checkpoint_from_before_a_setting_existed_is_of_the_same_run(tmp_path: Path) -> None:
    trial = tiny_trial(workdir=str(tmp_path))
    run(trial, Told(stop_at=2))
    file = tmp_path / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    for name in ("sync_bn", "schedule"):
        del state["identity"]["settings"][name]
    for name in ("randoms", "parts"):
        del state[name]
    torch.save(state, file)
    told = Told()
    run(trial.attempt(str(tmp_path / "b"), str(tmp_path)), told)
    assert [iteration for iteration, _ in told.told] == [3]
