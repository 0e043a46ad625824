from __future__ import annotations

import json

from nasseg.genes.genotype import Genotype
from nasseg.training.trial import Result, Trial


def trial(**changes: object) -> Trial:
    given = {"genotype": Genotype.from_dict({"backbone": "mit_b0"}), "data": "synthetic", "size": (64, 96), "settings": {"lr": 1e-3}}
    return Trial(**{**given, **changes})  # type: ignore[arg-type]


def test_trial_crosses_processes_as_plain_json() -> None:
    before = trial(workdir="w", parent="p", seed=3, fidelity=0.5)
    after = Trial.from_dict(json.loads(json.dumps(before.to_dict())))
    assert after == before
    assert after.key == before.key


def test_key_is_what_decides_the_outcome() -> None:
    key = trial().key
    assert len(key) == 16
    assert trial(workdir="elsewhere", parent="c.pt").key == key
    assert trial().attempt("w", None).key == key
    for change in (
        {"seed": 1},
        {"fidelity": 0.5},
        {"settings": {}},
        {"data": "camvid:x"},
        {"size": (64, 64)},
        {"weights": "w"},
        {"trainer": "full"},
    ):
        assert trial(**change).key != key, change


def test_result_round_trip() -> None:
    before = Result(status=Result.FAILED, reason="loss is nan at iteration 3", metrics={"miou": 12.5}, iterations=3)
    assert Result.from_dict(json.loads(before.to_json())) == before


def test_from_scratch() -> None:
    assert trial().from_scratch
    assert not trial(weights="w.safetensors").from_scratch
    assert not trial(pretrained=True).from_scratch
