"""nasseg trainers: the list, and a recipe's settings."""

from __future__ import annotations

import pytest
from kits_trainer import call

from nasseg.trainers.proxy import Proxy
from nasseg.training.trainer import trainer_names


def test_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["trainers"], capsys)
    assert code == 0
    for name in trainer_names():
        assert any(line.startswith(f"{name} ") for line in said.splitlines())


def test_shows_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(["trainers", "show", "proxy"], capsys)
    assert code == 0
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    for name in Proxy.Config.model_fields:
        assert name in rows
    assert "a number above 0" in rows["lr"]
    assert "0.003" in rows["lr"]
    assert "true or false" in rows["cache"]
    assert " true " in rows["cache"]
    assert "--trainer proxy --set trainer.iterations=240" in said


def test_an_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["trainers", "show", "proxi"], capsys)
    assert code == 2
    assert "nearest legal: proxy" in said
