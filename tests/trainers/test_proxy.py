"""The proxy recipe."""

from __future__ import annotations

from kits_trainer import Told, TrainerContract, tiny_trial

from nasseg.trainers.proxy import Proxy


class TestProxy(TrainerContract):
    name = "proxy"

    def test_measures_once_at_the_end_on_resized_masks(self) -> None:
        told = Told()
        result = self.run(tiny_trial(), told)
        assert ["miou" in metrics for _, metrics in told.told] == [False, False, True]
        assert (result.protocol["masks"], result.protocol["weights"]) == ("resized", "raw")


def test_defaults_are_those_measured_to_tell_candidates_apart() -> None:
    config = Proxy().config
    assert (config.lr, config.backbone_lr_scale, config.class_weights) == (3e-3, 0.2, "auto")
    assert (config.threads, config.cache, config.masks, config.keep) == (1, True, "resized", "last")
    # Six passes over 266 to 367 images come to 200 to 275 iterations.
    assert 200 <= config.iterations * config.batch_size / 8 <= 275
