"""Parameter groups and the schedule, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nasseg.training.optim import Schedule, build_optimizer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.table = nn.Parameter(torch.zeros(4, 4))
        self.decoder = nn.Sequential(nn.Conv2d(4, 2, 1), nn.LayerNorm(2))

    def no_weight_decay(self) -> set[str]:
        return {"table"}


def groups(net: Net, **options: float | str) -> dict[str, tuple[float, float]]:
    """Rate and decay by parameter name."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    optimizer = build_optimizer(net, **({"lr": 0.1, "weight_decay": 0.5, "backbone_lr_scale": 0.2} | options))
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}


def test_groups() -> None:
    assert groups(Net()) == {
        "backbone.0.weight": (pytest.approx(0.02), 0.5),
        "backbone.0.bias": (pytest.approx(0.02), 0.0),
        "backbone.1.weight": (pytest.approx(0.02), 0.0),
        "backbone.1.bias": (pytest.approx(0.02), 0.0),
        "table": (0.1, 0.0),
        "decoder.0.weight": (0.1, 0.5),
        "decoder.0.bias": (0.1, 0.0),
        "decoder.1.weight": (0.1, 0.0),
        "decoder.1.bias": (0.1, 0.0),
    }


def test_frozen_weights_are_in_no_group() -> None:
    net = Net()
    net.backbone.requires_grad_(False)
    assert sorted(groups(net)) == ["decoder.0.bias", "decoder.0.weight", "decoder.1.bias", "decoder.1.weight", "table"]


def test_poly_with_warm_up_by_hand() -> None:
    poly = Schedule(10, warmup=0.2, power=1.0)
    assert [poly.factor(t) for t in range(10)] == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert Schedule(10, warmup=0.0, power=0.9).factor(5) == pytest.approx(0.5**0.9)
    assert [Schedule(3, warmup=0.0, power=0.0).factor(t) for t in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
def test_short_schedules_are_whole(iterations: int) -> None:
    poly = Schedule(iterations, warmup=0.9, power=0.9)
    factors = [poly.factor(t) for t in range(iterations)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


def test_apply_sets_every_group() -> None:
    optimizer = build_optimizer(Net(), lr=0.1, weight_decay=0.5, backbone_lr_scale=0.2)
    assert Schedule(4, warmup=0.0, power=1.0).apply(optimizer, 2) == 0.5
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.01, 0.05])


def test_cosine_by_hand() -> None:
    cosine = Schedule(5, kind="cosine", warmup=0.2, power=0.9)
    assert [cosine.factor(t) for t in range(5)] == pytest.approx([1 / 2, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_floor_by_hand() -> None:
    assert [Schedule(4, warmup=0.0, power=1.0, floor=0.2).factor(t) for t in range(4)] == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert Schedule(2, kind="cosine", warmup=0.0, power=1.0, floor=0.1).factor(1) == pytest.approx(0.1 + 0.9 / 2)


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_a_schedule_is_a_function_of_the_iteration(kind: str) -> None:
    schedule = Schedule(50, kind=kind, warmup=0.1, power=0.9, floor=0.01)
    assert [schedule.factor(t) for t in reversed(range(50))] == [schedule.factor(t) for t in range(50)][::-1]


def test_groups_by_mmsegmentations_rule() -> None:
    """Only the backbone's norms do not decay: not its biases, not the norms of the head."""
    assert {name: decay for name, (_, decay) in groups(Net(), decay_rule="mmsegmentation").items()} == {
        "backbone.0.weight": 0.5,
        "backbone.0.bias": 0.5,
        "backbone.1.weight": 0.0,
        "backbone.1.bias": 0.0,
        "table": 0.5,
        "decoder.0.weight": 0.5,
        "decoder.0.bias": 0.5,
        "decoder.1.weight": 0.5,
        "decoder.1.bias": 0.5,
    }
    frozen = Net()
    frozen.backbone.requires_grad_(False)
    assert {rate for rate, _ in groups(frozen, decay_rule="mmsegmentation").values()} == {0.1}
    assert not any("backbone" in name for name in groups(frozen, decay_rule="mmsegmentation"))
