from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from nasseg.search.store import read_study
from nasseg.search.view import RUNNING, WAITING, StudyView, TrialView, pareto_front
from nasseg.training.trial import Result
from tests.kits_store import complete, drive, fake_space, make_study


def test_front_by_hand() -> None:
    points = [(50.0, 3.0), (40.0, 2.0), (45.0, 2.0), (50.0, 4.0), (10.0, 1.0), (45.0, 2.0), (9.0, 1.0)]
    assert pareto_front(points, ["max", "min"]) == [0, 2, 4, 5]
    assert pareto_front([(1.0,), (3.0,), (3.0,)], ["max"]) == [1, 2]
    assert pareto_front([], ["max", "min"]) == []


def test_front_is_what_the_definition_says() -> None:
    rng = random.Random(0)
    for directions in (["max", "min"], ["min", "min", "max"]):
        points = [tuple(float(rng.randrange(6)) for _ in directions) for _ in range(60)]
        signed = [tuple(-v if d == "max" else v for v, d in zip(p, directions, strict=True)) for p in points]
        expected = [i for i, p in enumerate(signed) if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in signed)]
        assert pareto_front(points, directions) == expected


def test_json_of_a_study(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, budget="macs=100M", trials=3)
    first = study.propose()
    assert first is not None
    study.tell(first.number, complete(first.trial.genotype))
    second = study.propose()
    assert second is not None
    study.tell(second.number, Result(status=Result.FAILED, reason="no luck"))
    study.propose()
    out = study.view().to_dict()
    assert set(out) == {"path", "objectives", "trials", "front", "warnings"}
    assert out["front"] == [first.number]
    by_number = {trial["number"]: trial for trial in out["trials"]}
    told = by_number[first.number]
    keys = ("number", "id", "state", "origin", "miou", "macs", "params", "fidelity", "on_front", "reason")
    assert all(key in told for key in keys)
    assert told["id"] == first.trial.genotype.id
    assert (told["state"], told["on_front"], told["fidelity"], told["reason"]) == ("complete", True, 1.0, None)
    failed = by_number[second.number]
    assert (failed["state"], failed["reason"], failed["miou"], failed["on_front"]) == ("failed", "no luck", None, False)
    assert by_number[max(by_number)]["state"] == "running"
    for trial in out["trials"]:
        if trial["state"] == "rejected":
            assert trial["reason"].startswith("over budget: macs ")
            assert trial["miou"] is None
            assert trial["macs"] > 1e8


def measured(number: int, per_class: dict[str, float], unpredicted: tuple[str, ...] | None = (), **more: Any) -> TrialView:
    return TrialView(
        number=number, state="complete", origin="sampler", values=(50.0,), per_class=per_class, unpredicted=unpredicted, **more
    )


def study_of(*trials: TrialView) -> StudyView:
    return StudyView(path=Path("results/x"), trials=trials, objectives={"miou": "max"})


def test_classes_that_no_trial_learnt_are_named() -> None:
    collapsed = {"soil": 90.0, "crop": 55.0, "weed": 0.0}
    trials = [measured(n, collapsed, ("weed",), on_front=n == 2, resolved={"class_weights": "none", "iterations": 240}) for n in range(4)]
    found = study_of(*trials).warnings
    assert found[0] == "weed: IoU below 1 % in 4 of 4 trials, 1 of 1 on the front, never predicted"
    wanted = "--set trainer.class_weights=sqrt_median_frequency (a study with other settings needs another --out)"
    assert found[1] == f"to learn them: {wanted}"
    assert len(found) == 2
    as_json = study_of(*trials).to_dict()
    assert as_json["warnings"] == found
    assert as_json["trials"][0]["worst_class"] == {"name": "weed", "iou": 0.0}
    assert as_json["trials"][0]["collapsed"] == {"single": None, "never": ["weed"], "low": {}}


def test_half_of_the_trials_or_one_of_the_front_is_warned_of() -> None:
    good, bad = {"soil": 90.0, "weed": 40.0}, {"soil": 90.0, "weed": 0.5}
    assert study_of(measured(0, good), measured(1, bad), measured(2, good)).warnings == []
    assert study_of(measured(0, good), measured(1, bad)).warnings[0] == "weed: IoU below 1 % in 1 of 2 trials"
    front = study_of(measured(0, good, on_front=True), measured(1, bad, on_front=True), measured(2, good))
    assert front.warnings[0] == "weed: IoU below 1 % in 1 of 3 trials, 1 of 2 on the front"
    mixed = study_of(measured(0, {**good, "weed": 0.0}, ("weed",)), measured(1, bad))
    assert mixed.warnings[0] == "weed: IoU below 1 % in 2 of 2 trials, never predicted in 1 of them"


def test_networks_of_one_class_are_named() -> None:
    one = {"soil": 70.0, "crop": 0.0}
    trials = [measured(n, one if n < 7 else {"soil": 90.0, "crop": 50.0}, ("crop",) if n < 7 else ()) for n in range(20)]
    first, _ = study_of(*trials).warnings
    assert (
        first
        == "every pixel is given to one class by trial 0 (soil), trial 1 (soil), trial 2 (soil), trial 3 (soil), trial 4 (soil) and 2 more"
    )


def test_no_more_classes_are_named_than_fit() -> None:
    found = study_of(measured(0, {**{f"c{n}": 0.0 for n in range(8)}, "soil": 90.0})).warnings
    assert found[5] == "and 3 more classes"
    assert len(found) == 7


def test_results_of_an_older_nasseg_are_read_without_what_was_predicted() -> None:
    (first, _) = study_of(measured(0, {"soil": 90.0, "weed": 0.0}, None)).warnings
    assert first == "weed: IoU below 1 % in 1 of 1 trials"


def test_a_duplicate_shows_what_answered_it(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=48)
    drive(study)
    view = study.view()
    duplicates = [trial for trial in view.trials if trial.state == "duplicate"]
    assert duplicates
    for trial in duplicates:
        assert trial.duplicate_of is not None
        original = view.trial(trial.duplicate_of)
        assert original is not None
        assert (trial.id, trial.metrics) == (original.id, original.metrics)
        assert not trial.on_front
        assert not trial.trained


def test_running_trials_of_a_dead_driver_wait(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=2)
    proposal = study.propose()
    assert proposal is not None
    study.close()
    (tmp_path / "study.yaml").write_text("objectives: {miou: max, macs: min}\n")
    assert [trial.state for trial in read_study(tmp_path).trials] == [WAITING]
    assert [trial.state for trial in study.view().trials] == [RUNNING]


def test_queued_presets_wait_with_what_is_known(tmp_path: Path) -> None:
    from nasseg.genes.presets import preset  # noqa: PLC0415  # for this test alone
    from nasseg.genes.space import Space  # noqa: PLC0415

    tiny = Space.load("tiny").with_fixed({"backbone": "mit_b0"})
    study, _ = make_study(tmp_path, space=tiny, trials=1)
    assert [(t.state, t.origin, t.id) for t in study.view().trials] == [
        (WAITING, "preset:csap", preset("csap", "mit_b0").id),
        (WAITING, "preset:canet_fca", preset("canet_fca", "mit_b0").id),
    ]


def test_best_follows_the_first_objective() -> None:
    def trial(number: int, *values: float) -> TrialView:
        return TrialView(number=number, state="complete", origin="sampler", values=values, on_front=True)

    trials = (trial(0, 10.0, 5.0), trial(1, 20.0, 9.0), trial(2, 15.0, 7.0))
    up = StudyView(path=Path("x"), trials=trials, objectives={"miou": "max", "macs": "min"})
    assert [t.number for t in up.front] == [1, 2, 0]
    assert up.best is trials[1]
    down = StudyView(path=Path("x"), trials=trials, objectives={"macs": "min", "miou": "max"})
    assert down.best is trials[0]
    assert StudyView(path=Path("x"), trials=(), objectives={}).best is None
    assert StudyView(path=Path("x"), trials=trials, objectives={}).front == trials


@pytest.mark.parametrize("name", ["miou", "macs"])
def test_number_of(name: str) -> None:
    trial = TrialView(number=0, state="complete", origin="", metrics={"miou": 1.0}, cost={"macs": 2})
    assert trial.number_of(name) == {"miou": 1.0, "macs": 2.0}[name]
    assert trial.number_of("other") is None
    assert fake_space().size() == 48
