"""Variables: what a chooser may answer, and where an illegal answer goes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nasseg.genes.chooser import FixedChooser, RandomChooser
from nasseg.genes.variable import Choices, Condition, Setting, plain


def choices(gene: str, *values: Any, stage: int = 1) -> Choices:
    return Choices(f"stage{stage}.{gene}", gene, tuple(map(str, values)), {stage: values})


@pytest.mark.parametrize(
    ("drawn", "legal", "expected"),
    [
        ("stage2", ["none", "own", "stage3", "stage4"], "stage3"),
        ("stage3", ["none", "own", "stage4"], "stage4"),
        ("stage3", ["none", "own", "stage2"], "own"),
        ("stage4", ["none", "stage3"], "none"),
        ("own", ["none", "stage4"], "none"),
        ("own", ["own"], "own"),
    ],
)
def test_repair_of_attention(drawn: str, legal: list[str], expected: str) -> None:
    values = ["none", "own", "stage4", "stage3", "stage2"]
    variable = choices("attention", *values)
    found = variable.repair(values.index(drawn), [values.index(v) for v in legal], 1)
    assert values[found] == expected


def test_repair_of_the_rest() -> None:
    inputs = choices("inputs", (1,), (1, 2, 3, 4), (1, 2), (2, 3))
    # Of what legal sets share with all four: two of them miss two, the nearer one in the list wins.
    assert inputs.repair(1, [0, 2, 3], 1) == 2
    assert choices("rank", 0, 1, 8, "full").repair(2, [0, 1, 3], 1) == 1
    assert choices("rank", 0, 1, 8, "full").repair(3, [0, 2], 1) == 2
    assert choices("key_stride", 8, 32, 64).repair(0, [1, 2], 1) == 1
    assert choices("lpm", "none", "se", "eca").repair(2, [0, 1], 1) == 1
    # A choice that means nothing at this stage goes by what it is called.
    source = Choices("attention", "attention", ("stage4", "own"), {4: (None, "own"), 3: ("stage4", "own")})
    assert source.repair(0, [1], 4) == 1


def test_index_is_strict() -> None:
    variable = Choices("stage1.pool_conv", "pool_conv", (True, False), {1: (True, False)})
    assert variable.index(False) == 1
    with pytest.raises(ValueError, match=r"stage1\.pool_conv: 1 is none of \[True, False\]"):
        variable.index(1)


class Answers:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def categorical(self, name: str, choices: Any) -> Any:
        return self.answer

    def integer(self, name: str, low: int, high: int, step: int, log: bool) -> Any:
        return self.answer

    def real(self, name: str, low: float, high: float, log: bool) -> Any:
        return self.answer


LR = Setting("train.lr", low=1e-4, high=1e-2, log=True)
BATCH = Setting("train.batch_size", low=4, high=16, step=4, integer=True)
LOSS = Setting("train.loss", choices=("cross_entropy", "ohem"))


@pytest.mark.parametrize(("setting", "answer"), [(LR, 1e-4), (LR, 3e-3), (BATCH, 12), (LOSS, "ohem")])
def test_settings_take(setting: Setting, answer: Any) -> None:
    assert setting.ask(Answers(answer)) == answer


@pytest.mark.parametrize(
    ("setting", "answer", "message"),
    [
        (LR, 0.1, r"train\.lr: 0\.1 is not in 0\.0001 … 0\.01 log"),
        (LR, "fast", r"train\.lr: 'fast' is not in"),
        (BATCH, 6, r"train\.batch_size: 6 is not in 4 … 16 step 4"),
        (BATCH, 8.0, r"train\.batch_size: 8\.0 is not in"),
        (BATCH, True, r"train\.batch_size: True is not in"),
        (LOSS, "dice", r"train\.loss: 'dice' is not in cross_entropy, ohem"),
    ],
)
def test_settings_refuse(setting: Setting, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting.ask(Answers(answer))


def test_random_chooser_stays_inside_and_reaches_the_ends() -> None:
    chooser = RandomChooser(random.Random(0))
    whole = [BATCH.ask(chooser) for _ in range(200)]
    assert set(whole) == {4, 8, 12, 16}
    iterations = Setting("train.iterations", low=1, high=8, log=True, integer=True)
    drawn = [iterations.ask(chooser) for _ in range(2000)]
    assert set(drawn) == set(range(1, 9))
    # On a logarithmic scale 1 stands for 0.5 to 1.5: log 3 of log 17.
    assert drawn.count(1) / 2000 == pytest.approx(0.388, abs=0.04)
    rates = sorted(float(LR.ask(chooser)) for _ in range(1001))
    assert rates[500] == pytest.approx(1e-3, rel=0.15)
    flat = sorted(float(Setting("train.drop_path", low=0.0, high=0.3).ask(chooser)) for _ in range(1001))
    assert flat[500] == pytest.approx(0.15, abs=0.015)


def test_fixed_chooser_falls_back_to_chance() -> None:
    chooser = FixedChooser({"a": "x", "b": 3, "c": 0.5}, random.Random(0))
    assert chooser.categorical("a", ("x", "y")) == "x"
    assert chooser.integer("b", 0, 9, 1, False) == 3
    assert chooser.real("c", 0.0, 1.0, False) == 0.5
    assert {chooser.categorical("d", ("x", "y")) for _ in range(50)} == {"x", "y"}
    assert {chooser.integer("e", 0, 2, 1, False) for _ in range(50)} == {0, 1, 2}
    assert 0 <= chooser.real("f", 0.0, 1.0, False) <= 1


def test_condition() -> None:
    condition = Condition("stage3.rank", (1, "full"), "rank 1 or full")
    assert condition.holds({"stage3.rank": "full"})
    assert not condition.holds({"stage3.rank": 0})
    assert not condition.holds({"stage3.rank": None})
    assert not condition.holds({})


def test_plain() -> None:
    assert plain([True, (1, 2), "own", 0.05]) == "[true, [1, 2], own, 0.05]"
