"""The contract every recipe keeps, as a class to inherit; and the tiny trial it is tried on.

A new recipe's test is a subclass with two attributes; ``settings`` shortens what would take long::

    class TestMine(TrainerContract):
        name = "mine"
        settings = {"iterations": 3}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from nasseg.cli.main import run as run_command
from nasseg.errors import ConfigError, DataError, WeightsError
from nasseg.files import canonical_json
from nasseg.genes.genotype import Genotype
from nasseg.models.segmenter import build
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.trainer import load_trainer
from nasseg.training.trial import Result, Trial

DATA = "synthetic:streets?seed=0&size=64x64&train=8&val=4"
TINY = Genotype.from_dict(
    {"backbone": "test_efficientnet", "fusion_stride": 8, "inputs": "self", "ffn": 1, "lpm": "se", "fusion_width": 16}
)
LOSSES = Path(__file__).parent / "assets" / "losses"


def tiny_trial(**changes: Any) -> Trial:
    """A network of 0.1 M weights on eight 64×64 scenes."""
    return replace(Trial(genotype=TINY, data=DATA, size=(64, 64)), **changes)


class Told:
    """A report that keeps what it is told, and asks to stop at an iteration."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.told: list[tuple[int, dict[str, float]]] = []

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        self.told.append((iteration, dict(metrics)))
        return iteration == self.stop_at

    @property
    def losses(self) -> list[float]:
        """The losses, to the last bit."""
        return [metrics["loss"] for _, metrics in self.told]


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of the command."""
    code = 0
    try:
        run_command(arguments)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    said = capsys.readouterr()
    return code, said.out, said.err


def check_golden(name: str, losses: list[float]) -> None:
    """Compare with ``assets/losses/NAME.txt``, within 1e-4: other CPUs add in another order.

    To write the file anew after a change that is meant to change the numbers: delete it and run the test once.
    """
    file = LOSSES / f"{name}.txt"
    if not file.exists():
        file.write_text("".join(f"{loss!r}\n" for loss in losses))
        pytest.fail(f"{file} was written anew; look at it and commit it")
    assert losses == pytest.approx([float(line) for line in file.read_text().split()], rel=1e-4)


class TrainerContract:
    """What a search and ``nasseg train`` rely on."""

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {"iterations": 3}

    def run(self, trial: Trial, report: Callable[[int, Mapping[str, float]], bool] | None = None, **settings: Any) -> Result:
        """A run of this recipe with its short settings and some more."""
        trainer = load_trainer(self.name)({**self.settings, "batch_size": 4, "threads": 1, **settings})
        result = trainer.run(replace(trial, trainer=self.name), report or Told())
        assert isinstance(result, Result)
        return result

    def test_unknown_and_illegal_settings_are_refused_at_once(self) -> None:
        with pytest.raises(ConfigError, match="no such setting") as caught:
            load_trainer(self.name)({"iteratoins": 3, "lr": -1})
        assert [problem.key for problem in caught.value.problems] == ["lr", "iteratoins"]
        assert caught.value.problems[1].nearest == "iterations"

    def test_says_what_it_does_and_how_it_is_run(self) -> None:
        trainer = load_trainer(self.name)
        assert trainer.__doc__
        assert f"--trainer {self.name}" in trainer.__doc__

    def test_three_iterations_give_a_complete_result(self, tmp_path: Path) -> None:
        told = Told()
        result = self.run(tiny_trial(workdir=str(tmp_path / "work")), told)
        assert (result.status, result.reason, result.iterations) == (Result.COMPLETE, None, 3)
        assert set(result.metrics) == {"miou", "macc", "aacc"}
        assert all(math.isfinite(value) and 0 <= value <= 100 for value in result.metrics.values())
        assert result.metrics["miou"] == pytest.approx(sum(result.per_class.values()) / len(result.per_class))
        protocol = result.protocol
        assert (protocol["split"], protocol["images"], protocol["size"], protocol["unit"]) == ("val", 4, [64, 64], "percent")
        assert (protocol["classes"], protocol["ignore"], protocol["flip"], protocol["window"]) == (11, 255, False, "whole")
        assert {"resize", "scale", "masks", "weights", "iteration"} <= set(protocol)
        assert result.settings["iterations"] == 3
        # What every class weighs: the built-in scenes have rare ones.
        assert result.class_weights["rule"] == "sqrt_median_frequency"
        assert len(result.class_weights["weights"]) == 11
        assert set(result.unpredicted or ()) <= {name for name, iou in result.per_class.items() if iou == 0}
        assert result.seconds > 0
        assert result.environment["torch"]
        assert Result.from_dict(result.to_dict()) == result
        assert canonical_json(result.to_dict())
        assert [iteration for iteration, _ in told.told] == [1, 2, 3]
        assert told.told[-1][1]["miou"] == result.metrics["miou"]

    def test_its_weights_fit_the_network_and_its_checkpoint_is_whole(self, tmp_path: Path) -> None:
        result = self.run(tiny_trial(workdir=str(tmp_path)))
        assert result.checkpoint is not None
        build(TINY, 11).load_state_dict(load_file(result.checkpoint))
        state = load_checkpoint(tmp_path)
        assert (state["iteration"], state["identity"]["genotype"]) == (3, TINY.id)

    def test_without_a_folder_nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = self.run(tiny_trial())
        assert result.status == Result.COMPLETE
        assert result.checkpoint is None
        assert list(tmp_path.iterdir()) == []

    def test_stops_where_the_report_says_so(self, tmp_path: Path) -> None:
        result = self.run(tiny_trial(workdir=str(tmp_path)), Told(stop_at=2))
        assert (result.status, result.iterations, result.reason) == (Result.COMPLETE, 2, "stopped at iteration 2 of 3")
        assert load_checkpoint(tmp_path)["iteration"] == 2

    def test_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        straight, before, after = Told(), Told(stop_at=1), Told()
        whole = self.run(tiny_trial(), straight, dropout=0.2)
        self.run(tiny_trial(workdir=str(tmp_path / "a")), before, dropout=0.2)
        resumed = self.run(tiny_trial(workdir=str(tmp_path / "b"), parent=str(tmp_path / "a")), after, dropout=0.2)
        assert before.losses + after.losses == straight.losses
        assert resumed.metrics == whole.metrics

    def test_fidelity_is_a_share_of_a_whole_schedule(self) -> None:
        told = Told()
        result = self.run(tiny_trial(fidelity=0.5), told, iterations=4, warmup=0.0, power=1.0)
        rates = [metrics["lr"] for _, metrics in told.told]
        assert result.iterations == 2
        assert rates[1] == pytest.approx(rates[0] / 2)
        assert self.run(tiny_trial(fidelity=0.01)).iterations == 1

    def test_a_loss_that_is_not_a_number_ends_the_run_with_its_reason(self) -> None:
        result = self.run(tiny_trial(), lr=1e9, warmup=0.0, power=0.0, clip=0.0, iterations=5)
        assert result.status == Result.FAILED
        assert result.reason is not None
        assert result.reason.startswith(("loss is nan at iteration", "loss is infinite at iteration", "gradient is"))
        assert "(lr 1e+09" in result.reason
        assert 1 <= result.iterations < 5
        assert result.metrics == {}

    def test_poisoned_weights_end_the_first_iteration(self, tmp_path: Path) -> None:
        weights = build(TINY, 11).backbone.state_dict()
        name = next(name for name, value in weights.items() if value.ndim == 4)
        weights[name] = torch.full_like(weights[name], float("nan"))
        save_file(weights, tmp_path / "poisoned.safetensors")
        result = self.run(tiny_trial(weights=str(tmp_path / "poisoned.safetensors")))
        assert result.reason is not None
        assert result.reason.startswith("loss is nan at iteration 1 (lr ")

    def test_too_little_memory_ends_the_run_with_its_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any, **options: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        monkeypatch.setattr("nasseg.training.losses.SegmentationLoss.forward", full)
        result = self.run(tiny_trial())
        assert result.status == Result.FAILED
        assert result.reason == "out of memory at iteration 1 (batch_size 4 of 64x64)"

    def test_the_seed_decides(self) -> None:
        first, again, other = Told(), Told(), Told()
        for told, seed in ((first, 5), (again, 5), (other, 6)):
            self.run(tiny_trial(seed=seed), told)
        assert first.losses == again.losses
        assert first.losses != other.losses

    def test_bad_input_is_an_error_and_no_result(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere"):
            self.run(tiny_trial(data=str(tmp_path / "nowhere")))
        with pytest.raises(ConfigError, match="backbone"):
            self.run(tiny_trial(genotype=TINY.on(None)))
        with pytest.raises(WeightsError, match="there is no checkpoint to go on from"):
            self.run(tiny_trial(parent=str(tmp_path / "nowhere")))

    def test_golden_losses(self) -> None:
        told = Told()
        self.run(tiny_trial(seed=1), told, iterations=6)
        check_golden(self.name, told.losses)
