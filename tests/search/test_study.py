from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nasseg.errors import BudgetError, StudyError
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.search import view
from nasseg.search.candidate import Proposal, Recipe, finite, unfinite
from nasseg.search.journal import read_storage
from nasseg.search.study import STARTS, Study
from nasseg.search.view import Event, load_optuna
from nasseg.training.trial import Result
from tests.kits_store import complete, drive, fake_cost, fake_miou, fake_space, make_study


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def frozen(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = load_optuna(read_storage(folder / "journal.log"))
    assert study is not None
    return study.get_trials(deepcopy=False)


def kinds(events: list[Event]) -> Counter[str]:
    return Counter(event.kind for event in events)


def test_exactly_n_are_trained_each_once_and_none_over_budget(tmp_path: Path) -> None:
    study, events = make_study(tmp_path, budget="macs=200M", trials=12)
    seen: list[Genotype] = []

    def result(genotype: Genotype) -> Result:
        seen.append(genotype)
        return complete(genotype)

    numbers = drive(study, result)
    assert len(numbers) == len(set(numbers)) == len(set(seen)) == study.trained == 12
    assert all(fake_cost(genotype)["macs"] <= 200e6 for genotype in seen)
    assert study.propose() is None
    assert study.finished == "12 trials were asked for"
    assert kinds(events)["complete"] == 12
    assert kinds(events)["rejected"] == study.rejected > 0


def test_a_reject_is_pruned_with_its_constraints_and_reason(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, budget="macs=100M,params=1M", trials=6)
    drive(study)
    rejected = [trial for trial in frozen(tmp_path) if trial.state == TrialState.PRUNED]
    assert len(rejected) == study.rejected
    for trial in rejected:
        cost = trial.user_attrs[view.CANDIDATE]["cost"]
        assert trial.constraints == {"params": cost["params"] / 1e6 - 1, "macs": cost["macs"] / 1e8 - 1}
        assert max(trial.constraints.values()) > 0
        assert trial.user_attrs[view.REASON].startswith("over budget: ")
        assert view.ATTEMPT not in trial.user_attrs
    trained = [trial for trial in frozen(tmp_path) if trial.state == TrialState.COMPLETE and view.DUPLICATE_OF not in trial.user_attrs]
    assert all(max(trial.constraints.values()) <= 0 for trial in trained)


def test_a_cost_of_exactly_the_bound_is_inside(tmp_path: Path) -> None:
    space = fake_space(lpm="none", ffn=0)
    study, _ = make_study(tmp_path, space=space, budget="macs=32M", trials=5)
    assert drive(study)
    assert (study.completed, study.finished) == (1, "every network of the space fake that fits the budget has been tried")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_small_space_is_used_up_and_says_so(tmp_path: Path, sampler: str) -> None:
    study, events = make_study(tmp_path, budget="macs=200M", trials=1000, sampler=sampler)
    drive(study)
    fitting = {genotype.id for genotype in fake_space().enumerate() if fake_cost(genotype)["macs"] <= 200e6}
    assert study.completed == len(fitting) == 30
    assert study.finished == "every network of the space fake that fits the budget has been tried"
    assert events[-1].text == f"the search ends early: {study.finished}"
    study.close()
    again, _ = make_study(tmp_path, budget="macs=200M", trials=1000, sampler=sampler)
    assert drive(again) == []
    assert again.completed == 30


def test_gp_runs_under_a_budget(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, budget="macs=200M", trials=13, sampler="gp", space=fake_space(objectives={"miou": "max"}))
    drive(study)
    assert study.completed == 13


def test_a_duplicate_is_answered_from_the_study_and_a_new_point_follows(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=48)
    drive(study)
    trials = frozen(tmp_path)
    duplicates = [trial for trial in trials if view.DUPLICATE_OF in trial.user_attrs]
    assert len(duplicates) == study.duplicates > 0
    for trial in duplicates:
        original = trials[trial.user_attrs[view.DUPLICATE_OF]]
        assert trial.state == TrialState.COMPLETE
        assert trial.values == original.values
        assert view.ATTEMPT not in trial.user_attrs
        follower = trials[trial.number + 1] if trial.number + 1 < len(trials) else None
        if follower is not None:
            assert follower.user_attrs[view.CANDIDATE]["origin"] in ("neighbour", "uniform")


def test_a_duplicate_of_a_running_trial_waits_for_its_answer(tmp_path: Path) -> None:
    space = fake_space(lpm="none", ffn=0)
    study, _ = make_study(tmp_path, space=space, trials=4)
    out: list[Proposal] = []
    while (proposal := study.propose()) is not None:
        out.append(proposal)
    assert len(out) == 4
    twins = [t for t in frozen(tmp_path) if t.state == TrialState.RUNNING and view.DUPLICATE_OF in t.user_attrs]
    assert twins
    for proposal in out[:-1]:
        study.tell(proposal.number, complete(proposal.trial.genotype))
    study.fail(out[-1].number, "bad luck")
    states = {t.number: t for t in frozen(tmp_path)}
    assert not [t for t in states.values() if t.state == TrialState.RUNNING]
    for twin in twins:
        original = states[twin.user_attrs[view.DUPLICATE_OF]]
        told = states[twin.number]
        assert told.state == original.state
        assert told.values == original.values
        if original.state == TrialState.FAIL:
            assert told.user_attrs[view.REASON] == f"as trial {original.number}: bad luck"


def test_presets_that_fit_come_first_and_the_others_say_why(tmp_path: Path) -> None:
    space = Space.load("tiny").with_fixed({"backbone": "mit_b0"})

    def cost(genotype: Genotype) -> dict[str, float]:
        macs = 10e6 if genotype.fusion == "fca" else 30e6
        return {"macs": macs, "params": 1.0, "macs_fvcore": macs, "decoder_params": 1.0, "decoder_macs": macs}

    study, events = make_study(tmp_path, space=space, cost=cost, budget="macs=20M", trials=3)
    assert [event.text for event in events if event.kind == "note"] == ["preset csap is left out: over budget: macs 30.0M > 20.0M"]
    first = study.propose()
    assert first is not None
    assert study.view_of(first.number).origin == "preset:canet_fca"
    study.close()
    again, events = make_study(tmp_path, space=space, cost=cost, budget="macs=20M", trials=3)
    drive(again)
    assert sum(trial.origin == "preset:canet_fca" for trial in again.view().trials) == 1
    assert not [event for event in events if event.kind == "note"]


def test_the_first_trial_of_a_study_of_settings_has_the_recipes_defaults(tmp_path: Path) -> None:
    space = fake_space(lr=True, fusion_width=64, lpm="se", ffn=1)
    study, events = make_study(tmp_path, space=space, trials=3, defaults={"lr": 0.02})
    assert [event.text for event in events] == ["the recipe's default lr=0.02 is outside 0.0001 … 0.01 log: 0.01 is taken"]
    first = study.propose()
    assert first is not None
    assert dict(first.trial.settings) == {"lr": 0.01}
    assert study.view_of(first.number).origin == "defaults"
    assert frozen(tmp_path)[0].params == {"train.lr": 0.01}
    study.close()
    again, events = make_study(tmp_path, space=space, trials=3, defaults={"lr": 0.02})
    drive(again)
    assert [trial.origin for trial in again.view().trials] == ["defaults", "sampler", "sampler"]
    assert not [event for event in events if event.kind == "note"]


def test_a_study_of_an_older_version_gets_the_defaults_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = fake_space(lr=True, fusion_width=64, lpm="se", ffn=1)
    with monkeypatch.context() as older:
        older.setattr(Study, "_enqueue_starts", lambda study: study.optuna.set_user_attr("presets", {}))
        study, _ = make_study(tmp_path, space=space, trials=2)
        drive(study)
        study.close()
    again, _ = make_study(tmp_path, space=space, trials=4, defaults={"lr": 0.005})
    drive(again)
    assert [trial.origin for trial in again.view().trials] == ["sampler", "sampler", "defaults", "sampler"]
    assert again.view().trials[2].settings == {"lr": 0.005}


def test_every_network_that_fits_is_tried_in_a_space_that_is_not_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 384 networks 24 fit; too few to be drawn, and the sampler knows nothing."""
    monkeypatch.setattr("nasseg.search.proposer.ENUMERABLE", 100)
    monkeypatch.setattr("nasseg.search.proposer.DRAWS", 0)
    both = {"choices": [1, 2]}
    genes = {"fusion": {"choices": ["concat", "fca"]}, "stage4.query_pool": both, "stage3.query_pool": both}
    space = fake_space(**genes)
    study, events = make_study(tmp_path, space=space, budget="macs=32M", trials=1000, sampler="random")
    drive(study)
    assert study.completed == 24
    assert events[-1].text == "the search ends early: every network of the space fake that fits the budget has been tried"


def test_a_budget_nothing_fits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"macs 32\.0M > 10\.0M"):
        make_study(tmp_path / "out", budget="macs=10M")
    assert not (tmp_path / "out").exists()


def test_after_too_many_rejects_a_fitting_point_is_drawn(tmp_path: Path) -> None:
    # One of 48 fits, and the sampler learns nothing.
    study, _ = make_study(tmp_path, budget="macs=32M,params=320K", trials=2, sampler="random", cost=fake_cost)
    drive(study)
    assert study.completed == 2
    assert study.rejected < 450


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Result(status=Result.FAILED, reason="loss is nan at iteration 3"), "loss is nan at iteration 3"),
        (Result(status=Result.FAILED), "the trainer gave no reason"),
        (Result(status=Result.COMPLETE, metrics={"miou": "fine"}), "the recipe's metric miou is 'fine', not a number"),  # type: ignore[dict-item]
        (Result(status=Result.COMPLETE, metrics={"miou": float("nan")}), "miou is nan"),
        (Result(status=Result.COMPLETE, metrics={"miou": float("inf")}), "miou is inf"),
        (Result(status=Result.COMPLETE, metrics={"aacc": 1.0}), "the trainer reported no miou (there are aacc, macs, params,"),
    ],
)
def test_what_cannot_be_compared_is_told_as_failed(tmp_path: Path, result: Result, reason: str) -> None:
    study, events = make_study(tmp_path, trials=2)
    numbers = drive(study, lambda genotype: result)
    assert (study.failed, study.completed, len(numbers)) == (2, 0, 2)
    for trial in frozen(tmp_path):
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs[view.REASON].startswith(reason)
    assert kinds(events)["failed"] == 2


def test_a_cost_is_counted_and_not_what_a_recipe_reports(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=3)
    drive(study, lambda genotype: Result(status=Result.COMPLETE, metrics={"miou": 50.0, "macs": 1.0}))
    for trial in study.view().trials:
        assert trial.values == (50.0, trial.cost["macs"])
        assert trial.number_of("macs") == trial.cost["macs"]


def test_a_result_of_an_older_version_that_cannot_be_read_is_its_trials_failure(tmp_path: Path) -> None:
    """A metric that was a text was written down before the trial was told, and every later start read it and died."""
    study, _ = make_study(tmp_path, trials=2)
    proposal = study.propose()
    assert proposal is not None
    study._attribute(proposal.number, view.RESULT, {"status": "complete", "metrics": {"miou": "very good"}})
    study.close()
    again, _ = make_study(tmp_path, trials=2)
    drive(again)
    assert (again.failed, again.completed) == (1, 1)
    assert again.view_of(proposal.number).reason == "its recorded result cannot be read: a metric is no number"


def test_a_failed_network_is_not_trained_again_a_lost_one_is_by_the_next_start(tmp_path: Path) -> None:
    space = fake_space(lpm="none", ffn=0, fusion_width={"choices": [32, 64]})
    study, _ = make_study(tmp_path / "failed", space=space, trials=50)
    drive(study, lambda genotype: Result(status=Result.FAILED, reason="nan"))
    assert study.failed == 2
    study, _ = make_study(tmp_path / "lost", space=space, trials=50)
    while (proposal := study.propose()) is not None:
        study.fail(proposal.number, "its worker was lost", lost=True)
    # Within one start a network that takes its worker down is not tried for ever.
    assert study.failed == 2
    again, _ = make_study(tmp_path / "lost", space=space, trials=50)
    assert len(drive(again)) == 2
    assert (again.failed, again.completed) == (0, 2)


def test_a_second_telling_is_ignored(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=1)
    proposal = study.propose()
    assert proposal is not None
    study.tell(proposal.number, complete(proposal.trial.genotype))
    study.tell(proposal.number, Result(status=Result.FAILED, reason="late"))
    study.fail(proposal.number, "later")
    assert (study.completed, study.failed) == (1, 0)


def test_running_trials_are_requeued_under_their_number(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=4)
    first, second = study.propose(), study.propose()
    assert first is not None
    assert second is not None
    study.tell(first.number, complete(first.trial.genotype))
    study.close()
    again, events = make_study(tmp_path, trials=4)
    third = again.propose()
    assert third is not None
    assert (third.number, third.attempt, third.trial) == (second.number, 2, second.trial)
    assert events[0].kind == "resumed"
    again.tell(third.number, complete(third.trial.genotype))
    drive(again)
    assert again.completed == 4
    assert all(trial.state.is_finished() for trial in frozen(tmp_path))


def test_more_trials_continue_a_study(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=5)
    first = drive(study)
    study.close()
    more, _ = make_study(tmp_path, trials=9)
    second = drive(more)
    assert more.completed == 9
    assert len(second) == 4
    assert min(second) > max(first)
    fewer, _ = make_study(tmp_path, trials=2)
    assert fewer.propose() is None


def test_after_a_restart_the_sampler_draws_on_and_not_again(tmp_path: Path) -> None:
    def ids(folder: Path, parts: list[int]) -> list[str]:
        out: list[str] = []
        for trials in parts:
            study, _ = make_study(folder, trials=trials, sampler="random", seed=3, space=fake_space(lr=True))
            while (proposal := study.propose()) is not None:
                out.append(json.dumps(dict(proposal.trial.settings)))
                study.tell(proposal.number, complete(proposal.trial.genotype))
            study.close()
        return out

    whole, parts = ids(tmp_path / "a", [6]), ids(tmp_path / "b", [3, 6])
    assert whole[:3] == parts[:3]
    assert not set(parts[:3]) & set(parts[3:])


def killed_at(folder: Path, operations: int) -> None:
    """Cut the journal as a kill after so many operations leaves it."""
    path = folder / "journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:operations]))


def test_a_kill_after_any_operation_loses_nothing(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path / "whole", budget="macs=200M", trials=6, seed=1)
    drive(study)
    study.close()
    journal = (tmp_path / "whole" / "journal.log").read_bytes()
    operations = len(journal.splitlines())
    for k in range(0, operations, 3):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "journal.log").write_bytes(journal)
        killed_at(folder, k)
        told = {t.number: t.values for t in frozen(folder) if t.state == TrialState.COMPLETE} if k else {}
        again, _ = make_study(folder, budget="macs=200M", trials=6, seed=1)
        handed = drive(again)
        assert again.completed == 6, k
        trials = again.view().trials
        assert len({t.key for t in trials if t.trained}) == 6
        assert not set(handed) & set(told)
        final = frozen(folder)
        assert all(final[number].values == values for number, values in told.items())
        assert all(t.state.is_finished() for t in final)
        again.close()


def test_a_trial_killed_while_being_drawn_is_cleared_with_a_reason(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=3)
    study.optuna.ask()
    study.close()
    again, _ = make_study(tmp_path, trials=3)
    assert frozen(tmp_path)[0].state == TrialState.FAIL
    assert frozen(tmp_path)[0].user_attrs[view.REASON] == "interrupted while being proposed; never trained"
    drive(again)
    assert again.completed == 3
    assert next(trial.number for trial in again.view().trials) == 1


def test_a_kill_between_result_and_telling_tells_it(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=1)
    proposal = study.propose()
    assert proposal is not None
    study._attribute(proposal.number, view.RESULT, finite(complete(proposal.trial.genotype).to_dict()))
    study.close()
    again, _ = make_study(tmp_path, trials=1)
    assert again.propose() is None
    assert again.completed == 1
    assert again.view().trials[0].metrics == {"miou": fake_miou(proposal.trial.genotype)}


def test_a_trial_that_takes_its_driver_down_ten_times_is_given_up(tmp_path: Path) -> None:
    for start in range(STARTS):
        study, _ = make_study(tmp_path, trials=1)
        proposal = study.propose()
        assert proposal is not None
        assert (proposal.number, proposal.attempt) == (0, start + 1)
        study.close()
    study, events = make_study(tmp_path, trials=1)
    assert study.propose() is None
    assert study.failed == 1
    assert events[-1].trial is not None
    assert events[-1].trial.reason == "started 10 times and never reached a checkpoint"


def test_a_trial_with_checkpoints_is_never_given_up(tmp_path: Path) -> None:
    for _ in range(STARTS + 2):
        study, _ = make_study(tmp_path, trials=1)
        proposal = study.propose()
        assert proposal is not None
        assert proposal.trial.workdir is not None
        checkpoints = Path(proposal.trial.workdir) / "attempt-1" / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        (checkpoints / "last.pt").write_text("")
        study.close()
    assert proposal.attempt == STARTS + 2


def test_a_draw_that_raises_leaves_no_running_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = make_study(tmp_path, trials=1)

    def broken(chooser: Any) -> Any:
        raise ValueError("broken space")

    monkeypatch.setattr(study.space, "suggest", broken)
    with pytest.raises(ValueError, match="broken space"):
        study.propose()
    assert frozen(tmp_path)[0].state == TrialState.FAIL


def test_one_objective_and_costs_as_objectives(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=5, objectives={"params": "min"})
    drive(study)
    best = study.view().best
    assert best is not None
    assert best.values == (best.cost["params"],)
    study.close()
    with pytest.raises(StudyError, match=r"was searched with other objectives \(minimize\) than miou, macs"):
        make_study(tmp_path, trials=5)


def test_the_front_is_what_no_other_beats(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=1000)
    drive(study)
    front = {(t.metrics["miou"], t.cost["macs"]) for t in study.view().front}
    every = [(fake_miou(g), fake_cost(g)["macs"]) for g in fake_space().enumerate()]
    assert front == {p for p in every if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in every)}
    assert {t.number for t in study.view().front} == set(study.front)


def test_searched_settings_reach_the_trial_and_win_over_fixed_ones(tmp_path: Path) -> None:
    recipe = Recipe(
        data="synthetic", size=(64, 64), settings={"batch_size": 2, "lr": 1.0}, seed=5, fidelity=0.5, weights="w", pretrained=False
    )
    study, _ = make_study(tmp_path, trials=1, space=fake_space(lr=True), recipe=recipe)
    proposal = study.propose()
    assert proposal is not None
    trial = proposal.trial
    assert trial.settings["batch_size"] == 2
    assert 1e-4 <= trial.settings["lr"] <= 1e-2
    assert (trial.seed, trial.fidelity, trial.weights, trial.data, trial.size) == (5, 0.5, "w", "synthetic", (64, 64))
    assert trial.workdir == str((tmp_path / "work" / str(proposal.number)).absolute())
    assert study.view_of(proposal.number).settings == {"lr": trial.settings["lr"]}


def test_keys_follow_content_and_not_paths() -> None:
    genotype = next(fake_space().enumerate())
    here = Recipe(data="/a", size=(64, 64), weights="/w", data_fingerprint="f", weights_digest="d")
    there = Recipe(data="/b", size=(64, 64), weights="/v", data_fingerprint="f", weights_digest="d")
    other = Recipe(data="/b", size=(64, 64), weights="/v", data_fingerprint="f", weights_digest="e")
    assert here.key(genotype, {}) == there.key(genotype, {}) != other.key(genotype, {})
    assert here.key(genotype, {"lr": 1.0}) != here.key(genotype, {})


def test_view_of_a_number_that_is_no_trial(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=1)
    number = study.optuna.ask().number
    with pytest.raises(KeyError, match=str(number)):
        study.view_of(number)


def test_unfinite_numbers_pass_through_json() -> None:
    raw = {"metrics": {"miou": float("nan"), "a": float("-inf"), "b": 1.0}, "per_class": {}, "list": [float("inf"), 2], "reason": "r"}
    plain = json.loads(json.dumps(finite(raw), allow_nan=False))
    assert plain == {"metrics": {"miou": "nan", "a": "-inf", "b": 1.0}, "per_class": {}, "list": ["inf", 2], "reason": "r"}
    back = unfinite(plain)
    assert str(back["metrics"]) == "{'miou': nan, 'a': -inf, 'b': 1.0}"


def test_no_telling_of_a_listener_is_needed(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path, trials=3, budget="macs=200M")
    study.listener = None
    drive(study)
    assert study.completed == 3
