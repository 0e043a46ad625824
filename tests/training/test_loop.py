"""The loop on a network of a few weights: gradients, precision, averaging, what is kept, how it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from kits_trainer import Told
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from nasseg.errors import ConfigError, TrainingFailed
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.config import TrainingConfig
from nasseg.training.loop import Loop
from nasseg.training.metrics import Metrics


class Net(nn.Module):
    """Two 1×1 convolutions with dropout between them: random numbers are drawn in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, 8, 1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(F.relu(self.backbone(x_BCHW))))
        return out


def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch k by its number; moves torch's global random numbers on purpose."""
    k = start
    while True:
        random = torch.Generator().manual_seed(k)
        x_BCHW = torch.randn(2, 3, 4, 4, generator=random)
        torch.rand(3)
        yield x_BCHW, (x_BCHW.sum(1) > 0).long()
        k += 1


def scores(*mious: float) -> Callable[[nn.Module], Metrics]:
    """Validations that come out as given, one after another."""
    left = iter(mious)

    def validate(module: nn.Module) -> Metrics:
        assert not module.training
        torch.rand(7)
        return Metrics(values={"miou": next(left), "macc": 0.0, "aacc": 0.0}, per_class={"a": 1.0}, protocol={"split": "val"})

    return validate


def loop(
    iterations: int = 4, *, validate: Callable[[nn.Module], Metrics] | None = None, model: nn.Module | None = None, **options: Any
) -> Loop:
    named = {key: options.pop(key) for key in ("folder", "identity", "forward", "loss") if key in options}
    return Loop(
        model or Net(),
        config=TrainingConfig.parse({"lr": 0.01, "backbone_lr_scale": 1.0, "channels_last": False, **options}),
        iterations=iterations,
        batches=batches,
        validate=validate or (lambda module: scores(50.0)(module)),
        **{"loss": F.cross_entropy, **named},
    )


def test_learns() -> None:
    told = Told()
    outcome = loop(60, lr=0.05).run(told)
    assert sum(told.losses[-10:]) / 10 < 0.6 * told.losses[0]
    assert (outcome.iterations, outcome.stopped, outcome.measured_at, outcome.weights_file) == (60, False, 60, None)
    assert outcome.metrics is not None
    assert outcome.metrics.miou == 50.0


def test_reports_every_iteration_with_loss_and_rate() -> None:
    told = Told()
    loop(3, warmup=0.0, power=1.0).run(told)
    assert [iteration for iteration, _ in told.told] == [1, 2, 3]
    assert [metrics["lr"] for _, metrics in told.told] == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert [set(metrics) for _, metrics in told.told] == [{"loss", "lr"}] * 2 + [{"loss", "lr", "miou", "macc", "aacc"}]


def test_one_step_is_adamw_on_the_clipped_gradient() -> None:
    ours, theirs = Net(), Net()
    for net in (ours, theirs):
        net.drop.p = 0.0
    loop(1, model=ours, warmup=0.0, clip=0.01, weight_decay=0.1).run(Told())
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs.backbone.weight, theirs.head.weight], "weight_decay": 0.1},
            {"params": [theirs.backbone.bias, theirs.head.bias], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    x, y = next(batches(0))
    F.cross_entropy(theirs(x), y).backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
    optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_accumulation_is_a_larger_batch() -> None:
    small, large = Net(), Net()
    for net in (small, large):
        net.drop.p = 0.0
    told = Told()
    loop(1, model=small, accumulation=2).run(told)
    joined = Loop(
        large,
        config=TrainingConfig.parse({"lr": 0.01, "backbone_lr_scale": 1.0, "channels_last": False}),
        iterations=1,
        batches=lambda start: iter([tuple(torch.cat(parts) for parts in zip(*[next(batches(k)) for k in (0, 1)], strict=True))]),
        loss=F.cross_entropy,
        validate=scores(1.0),
    )
    other = Told()
    joined.run(other)
    assert told.losses == pytest.approx(other.losses, rel=1e-6)
    torch.testing.assert_close(small.state_dict(), large.state_dict())


def test_accumulation_takes_its_batches_in_turn() -> None:
    seen: list[int] = []

    def numbered(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(start, 100):
            seen.append(k)
            yield next(batches(k))

    first = loop(3, accumulation=2)
    first.batches = numbered
    first.run(Told(stop_at=2))
    assert seen == [0, 1, 2, 3]
    second = loop(3, accumulation=2)
    second.batches = numbered
    second.restore(first.state())
    second.run(Told())
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"amp": "bf16"}, {"accumulation": 2}, {"channels_last": True}])
def test_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    """6 straight = 3 and 3, with dropout, validations and a loader that all draw random numbers."""
    straight, before, after = Told(), Told(stop_at=3), Told()
    whole = loop(6, validate=scores(*range(9)), val_every=2, **options)
    whole.run(straight)
    first = loop(6, validate=scores(*range(9)), val_every=2, **options)
    first.run(before)
    state = first.state()
    second = loop(6, validate=scores(*range(1, 9)), val_every=2, **options)
    second.restore(state)
    torch.rand(11)
    second.run(after)
    assert before.told + after.told == straight.told
    for mine, other in zip(second.measured.state_dict().values(), whole.measured.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_bf16_runs_the_forward_pass_in_bf16() -> None:
    seen: list[torch.dtype] = []

    def forward(module: nn.Module, x_BCHW: Tensor) -> Tensor:
        out: Tensor = module(x_BCHW)
        seen.append(out.dtype)
        return out

    loop(1, amp="bf16", forward=forward, loss=lambda logits, y: F.cross_entropy(logits.float(), y)).run(Told())
    assert seen == [torch.bfloat16]
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        loop(1, amp="fp16")


def test_the_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    made = loop(5, ema=0.5, folder=tmp_path)
    made.run(Told())
    kept = load_checkpoint(tmp_path)["kept"]["weights"]
    assert torch.equal(kept["head.weight"], made.measured.get_parameter("head.weight"))
    assert not torch.equal(kept["head.weight"], made.model.get_parameter("head.weight"))


@pytest.mark.parametrize(("keep", "miou", "iteration"), [("best", 30.0, 2), ("last", 20.0, 6)])
def test_which_validation_is_kept(tmp_path: Path, keep: str, miou: float, iteration: int) -> None:
    outcome = loop(6, validate=scores(30.0, 30.0, 20.0), val_every=2, keep=keep, folder=tmp_path, identity={"genotype": "abc"}).run(Told())
    assert outcome.metrics is not None
    assert (outcome.metrics.miou, outcome.measured_at, outcome.iterations) == (miou, iteration, 6)
    assert outcome.weights_file == tmp_path / "model.safetensors"
    with safe_open(outcome.weights_file, "pt") as file:
        assert file.metadata() == {"nasseg": f'{{"genotype":"abc","iteration":{iteration}}}'}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {
        "iteration": iteration,
        "metrics": {"miou": miou, "macc": 0.0, "aacc": 0.0},
        "per_class": {"a": 1.0},
        "protocol": {"split": "val"},
    }


def test_the_end_is_validated_once() -> None:
    told = Told()
    loop(4, validate=scores(1.0, 2.0), val_every=2).run(told)
    assert [iteration for iteration, metrics in told.told if "miou" in metrics] == [2, 4]


def test_a_resumed_run_takes_its_best_weights_along(tmp_path: Path) -> None:
    first = loop(6, validate=scores(30.0), val_every=2, folder=tmp_path / "a")
    first.run(Told(stop_at=3))
    second = loop(6, validate=scores(10.0, 20.0), val_every=2, folder=tmp_path / "b")
    second.restore(load_checkpoint(tmp_path / "a"))
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()
    outcome = second.run(Told())
    assert outcome.metrics is not None
    assert (outcome.metrics.miou, outcome.measured_at) == (30.0, 2)
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    loop(2, folder=tmp_path).run(Told())
    again = loop(2, folder=tmp_path, validate=scores())
    again.restore(load_checkpoint(tmp_path))
    told = Told()
    outcome = again.run(told)
    assert told.told == []
    assert outcome.metrics is not None
    assert outcome.metrics.miou == 50.0
    assert (outcome.iterations, outcome.stopped) == (2, False)


def test_stopped_before_a_validation_there_are_no_numbers(tmp_path: Path) -> None:
    outcome = loop(6, folder=tmp_path).run(Told(stop_at=2))
    assert (outcome.metrics, outcome.weights_file, outcome.stopped, outcome.iterations) == (None, None, True, 2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "last.pt"]


def test_a_stop_at_the_end_is_the_end() -> None:
    assert loop(2).run(Told(stop_at=2)).stopped is False


def test_checkpoints_come_when_due_and_at_the_end(tmp_path: Path) -> None:
    seen: list[int] = []

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        file = tmp_path / "checkpoints" / "last.pt"
        seen.append(load_checkpoint(file)["iteration"] if file.exists() else 0)
        return False

    loop(5, checkpoint_every=2, folder=tmp_path).run(report)
    assert seen == [0, 2, 2, 4, 5]


def test_a_report_that_leaves_finds_its_iteration_on_disk(tmp_path: Path) -> None:
    class Leave(BaseException):
        pass

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        if iteration == 3:
            raise Leave
        return False

    with pytest.raises(Leave):
        loop(5, checkpoint_every=0, folder=tmp_path).run(report)
    assert load_checkpoint(tmp_path)["iteration"] == 3


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "nan"), (float("inf"), "infinite")])
def test_a_loss_that_is_not_finite_ends_the_run_at_once(value: float, word: str) -> None:
    calls = 0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(logits, target) + (value if calls == 3 else 0.0)

    told = Told()
    made = loop(9, loss=loss, warmup=0.0, power=0.0)
    with pytest.raises(TrainingFailed, match=rf"^loss is {word} at iteration 3 .lr 0\.01.$"):
        made.run(told)
    assert (len(told.told), made.iteration) == (2, 2)


def test_a_gradient_that_is_not_finite_ends_the_run_at_once() -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # sqrt at 0: a loss of 0 with a gradient of 0 · inf
        return (logits * 0).sum().sqrt()

    with pytest.raises(TrainingFailed, match=r"^gradient is nan at iteration 1 .lr 0\.01, loss 0.$"):
        loop(3, loss=loss, warmup=0.0).run(Told())


def test_a_loss_scale_that_collapses_ends_the_run() -> None:
    made = loop(3)

    class Collapsed:
        def is_enabled(self) -> bool:
            return True

        def get_scale(self) -> float:
            return 2.0**-20

        def scale(self, loss: Tensor) -> Tensor:
            return loss

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments: None

    made.scaler = Collapsed()  # type: ignore[assignment]
    with pytest.raises(TrainingFailed, match="no loss scale keeps fp16 gradients finite at iteration 1"):
        made.run(Told())


def test_seconds_add_up_over_a_resume() -> None:
    first = loop(4)
    spent = first.run(Told(stop_at=2)).seconds
    second = loop(4)
    second.restore(first.state())
    assert second.run(Told()).seconds >= spent
    assert math.isfinite(spent)
