"""The full recipe."""

from __future__ import annotations

import pytest
from kits_trainer import Told, TrainerContract, check_golden, tiny_trial

from nasseg.trainers.full import Full


class TestFull(TrainerContract):
    name = "full"

    def test_keeps_the_best_validation_of_the_averaged_weights(self) -> None:
        told = Told()
        result = self.run(tiny_trial(), told, val_every=1)
        measured = {iteration: metrics["miou"] for iteration, metrics in told.told}
        assert list(measured) == [1, 2, 3]
        assert result.metrics["miou"] == max(measured.values())
        assert measured[result.protocol["iteration"]] == max(measured.values())
        assert (result.protocol["masks"], result.protocol["weights"]) == ("original", "ema")

    def test_without_class_weights_the_losses_are_those_of_before_they_were_automatic(self) -> None:
        told = Told()
        result = self.run(tiny_trial(seed=1), told, iterations=6, class_weights="none")
        check_golden("full_unweighted", told.losses)
        assert result.class_weights == {"rule": "none", "weights": {}}


def test_defaults_are_segformers_rates() -> None:
    config = Full().config
    assert config.lr * config.backbone_lr_scale == pytest.approx(6e-5)
    assert (config.ema, config.masks, config.keep, config.class_weights) == (0.999, "original", "best", "auto")
    assert config.iterations >= 100
