from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nasseg.errors import BackboneError, BudgetError, ConfigError, DataError, NassegError, StudyError, WeightsError
from nasseg.files import dump_yaml, read_yaml
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.genes.space import Space
from nasseg.search import plan as module
from nasseg.search.plan import Plan, check_weights, differences, make_plan
from tests.kits_store import fake_space

DATA = "synthetic?train=2&val=1&size=64x96"


def make(folder: Path, space: Any = None, **more: Any) -> Plan:
    given: dict[str, Any] = {"data": DATA, "size": (64, 96), "trials": 3, "out": folder / "out", "trainer": "tests.kits_store:FakeTrainer"}
    return make_plan(fake_space() if space is None else space, **{**given, **more})


def saved(plan: Plan) -> None:
    plan.out.mkdir(parents=True, exist_ok=True)
    (plan.out / "study.yaml").write_text(dump_yaml(plan.config()))


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"trials": 0}, ConfigError, r"--trials: must be a whole number from 1 \(given 0\); nearest legal: 1"),
        ({"trials": -3}, ConfigError, "--trials: must be a whole number from 1"),
        ({"fidelity": 0.0}, ConfigError, "--fidelity: must be above 0 and at most 1"),
        ({"sampler": "tp"}, ConfigError, "--sampler: must be one of tpe, nsga2, gp, random"),
        ({"seed": -1}, ConfigError, "--seed: must be a whole number from 0"),
        ({"size": (16, 64)}, ConfigError, "--size: height and width must be at least 32 pixels"),
        ({"weights": "w", "pretrained": True}, ConfigError, "--pretrained: gets weights from the hub and --weights from a file"),
        ({"objectives": {"miou": "up"}}, ConfigError, "objective: miou: must be max, as tests.kits_store:FakeTrainer declares it"),
        ({"space": "tinny"}, ConfigError, "no such space"),
        ({"space": "tiny"}, ConfigError, "--backbone: the space names no backbone, so one must be given"),
        ({"backbone": "mit_b9"}, BackboneError, "mit_b9"),
        ({"budget": "flops=1G"}, ConfigError, "no such bound"),
        ({"budget": "macs=1M"}, BudgetError, "no network of space fake fits this bound: the cheapest one has macs"),
        ({"data": "/nowhere/at/all"}, DataError, "/nowhere/at/all"),
        ({"trainer": "prox"}, ConfigError, "no such recipe"),
        ({"settings": {"itterations": 3}}, ConfigError, "itterations: no such setting; nearest legal: iterations"),
        ({"weights": "/nowhere.safetensors"}, WeightsError, r"/nowhere.safetensors: cannot be read"),
        ({"genes": {"lpm": "sse"}}, ConfigError, "lpm"),
        ({"genes": {"colour": "red"}}, ConfigError, "colour"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, given: dict[str, Any], error: type[NassegError], match: str
) -> None:
    with pytest.raises(error, match=match):
        make(tmp_path, **given)
    assert list(tmp_path.iterdir()) == []


def test_several_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, trials=0, fidelity=2.0, sampler="x")
    assert len(caught.value.problems) == 3


def test_the_resolved_configuration(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    plan = make(tmp_path, budget="macs=1.5G", settings={"steps": 2}, seed=3, weights=weights, fidelity=0.5)
    saved(plan)
    config = read_yaml(plan.out / "study.yaml")
    assert config["budget"] == {"macs": 1.5e9}
    assert config["data"]["spec"] == plan.data
    assert config["data"]["fingerprint"] == plan.data_fingerprint
    assert config["size"] == [64, 96]
    assert config["backbones"] == ["mit_b0"]
    assert config["weights"] == {"path": str(weights), "digest": module.file_digest(weights)}
    assert config["trainer"] == "tests.kits_store:FakeTrainer"
    assert (config["settings"], config["fidelity"], config["seed"], config["trials"]) == ({"steps": 2}, 0.5, 3, 3)
    assert Space.from_dict(config["space"]) == plan.space
    assert set(config["versions"]) >= {"nasseg", "torch", "optuna", "ray"}
    assert plan.earlier() == config
    assert plan.recipe.key(next(plan.space.enumerate()), {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "macs=1.5G"}, r"budget\.macs: 2\.00G → 1\.50G"),
        ({"budget": "params=20M"}, r"budget\.macs: 2\.00G → none; budget\.params: none → 20\.0M"),
        ({"size": (96, 96)}, "size: 64x96 → 96x96"),
        ({"data": "synthetic?train=3&val=1&size=64x96"}, r"data\.fingerprint"),
        ({"seed": 1}, "seed: 0 → 1"),
        ({"sampler": "random"}, "sampler: tpe → random"),
        ({"fidelity": 0.5}, r"fidelity: 1\.0 → 0\.5"),
        ({"settings": {"steps": 9}}, r"settings\.steps: none → 9"),
        ({"genes": {"lpm": "se"}}, r"space\.genes\.lpm"),
        ({"trainer": "proxy"}, r"trainer: tests\.kits_store:FakeTrainer → proxy"),
        ({"objectives": {"miou": "max"}}, r"objectives\.macs: min → none"),
        ({"backbone": "mit_b1"}, r"mit_b0"),
    ],
)
def test_another_study_under_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    saved(make(tmp_path, budget="macs=2G"))
    before = (tmp_path / "out" / "study.yaml").read_bytes()
    other = make(tmp_path, **{"budget": "macs=2G", **change})
    with pytest.raises(StudyError, match=rf"belongs to another study; it differs in .*{said}"):
        other.earlier()
    assert (tmp_path / "out" / "study.yaml").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.yaml"]


def test_what_may_change(tmp_path: Path) -> None:
    saved(make(tmp_path))
    for change in ({"trials": 9}, {"settings": {"threads": 1, "workers": 2, "device": "cpu"}}):
        assert make(tmp_path, **change).earlier() is not None


def test_long_lists_of_differences_are_cut(tmp_path: Path) -> None:
    saved(make(tmp_path))
    changes = {
        "seed": 1,
        "sampler": "gp",
        "fidelity": 0.5,
        "size": (96, 96),
        "settings": {"steps": 1, "lr": 0.5, "batch_size": 1, "clip": 0.5},
    }
    with pytest.raises(StudyError, match=r"; and \d+ more\. Give another --out"):
        make(tmp_path, **changes, budget="macs=9G").earlier()


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    plan = make(tmp_path)
    assert plan.earlier() is None
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StudyError, match="is a file; --out names a folder"):
        plan.earlier()
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    for leftover in (".driver", ".driver.lock", ".study.yaml.x1", "search.log"):
        (tmp_path / "out" / leftover).write_text("")
    assert plan.earlier() is None
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(StudyError, match=r"holds something else \(thesis\.tex\)"):
        plan.earlier()
    (tmp_path / "out" / "study.yaml").write_text("[]\n")
    with pytest.raises(StudyError, match="is not the configuration of a study"):
        plan.earlier()
    (tmp_path / "out" / "study.yaml").write_text("format: 99\n")
    with pytest.raises(StudyError, match="was written by a newer nasseg"):
        plan.earlier()


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(tmp_path)
    plan.out.mkdir()

    def closed(path: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(StudyError, match="cannot be read: Permission denied"):
        plan.earlier()


def test_the_budget_given_replaces_the_spaces(tmp_path: Path) -> None:
    raw = {**fake_space().to_dict(), "budget": {"macs": "2G", "params": "9M"}}
    space = Space.from_dict(raw)
    assert make(tmp_path, space).budget.bounds == {"macs": 2e9, "params": 9e6}
    assert make(tmp_path, space, budget="macs=3G").budget.bounds == {"macs": 3e9}
    assert make(tmp_path, space, budget={"macs": 3e9}).budget.bounds == {"macs": 3e9}
    assert make(tmp_path, space, budget=Budget({"macs": 3e9})).budget.bounds == {"macs": 3e9}


def test_fixed_genes_backbone_and_genotype(tmp_path: Path) -> None:
    assert make(tmp_path, genes={"lpm": "se"}).space.size() == 16
    assert make(tmp_path, "tiny", backbone="mit_b1").backbones == ("mit_b1",)
    raw = {"name": "settings", "genotype": "given", "genes": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}}
    given = Space.from_dict(raw)
    plan = make(tmp_path, given, genotype=preset("csap"), backbone="timm:mit_b0", genes={"lpm": "se"})
    assert [g.short() for g in plan.space.enumerate()] == [preset("csap").override({"lpm": "se"}).short()]
    assert plan.backbones == ("mit_b0",)
    own = Genotype.from_dict({"backbone": "mit_b1"})
    assert make(tmp_path, given, genotype=own).backbones == ("mit_b1",)


def test_a_setting_given_is_no_longer_searched(tmp_path: Path) -> None:
    plan = make(tmp_path, fake_space(lr=True), settings={"lr": 0.005, "steps": 2})
    assert not any(variable.name.startswith("train.") for variable in plan.space.variables)
    assert plan.settings == {"steps": 2}
    assert {point.settings["lr"] for point in plan.space.points(5)} == {0.005}


@pytest.mark.parametrize(
    ("genes", "match"),
    [
        ({"train.learning_rate": {"low": 0.1, "high": 0.2}}, "space fake: train: learning_rate: no such setting; nearest legal: lr"),
        ({"train.drop_path": {"low": 0.1, "high": 1.5}}, "space fake: train: drop_path: must be a number from 0 and below 1"),
        ({"train.loss": {"choices": ["cross_entropy", "focal"]}}, "space fake: train: loss: must be one of cross_entropy, ohem"),
        ({"train.batch_size": {"low": 0, "high": 4}}, "space fake: train: batch_size: must be a whole number from 1"),
    ],
)
def test_searched_settings_the_trainer_does_not_take(tmp_path: Path, genes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(tmp_path, fake_space(**genes))


def test_the_defaults_are_what_the_recipe_takes_where_nobody_says_otherwise(tmp_path: Path) -> None:
    genes = {
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "train.backbone_lr_scale": {"low": 0.01, "high": 1.0, "log": True},
        "train.batch_size": {"low": 2, "high": 8},
    }
    given = {"trainer": "proxy", "settings": {"batch_size": 4}}
    assert make(tmp_path, fake_space(**genes), **given).defaults == {"lr": 3e-3, "backbone_lr_scale": 1.0}
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    assert make(tmp_path, fake_space(**genes), **given, weights=weights).defaults == {"lr": 3e-3, "backbone_lr_scale": 0.2}
    assert make(tmp_path, fake_space()).defaults == {}


def test_integer_ranges_stay_integers(tmp_path: Path) -> None:
    plan = make(tmp_path, fake_space(**{"train.batch_size": {"low": 2, "high": 8}, "train.flip": {"choices": [0.0, 0.5]}}))
    assert all(isinstance(point.settings["batch_size"], int) for point in plan.space.points(8))


def test_weights_are_tried_on_every_backbone(tmp_path: Path) -> None:
    plan = make(tmp_path)
    check_weights(plan)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"w\.safetensors: not readable as safetensors"):
        check_weights(make(tmp_path, weights=weights))


def test_differences() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "versions": {"torch": "1"}, "weights": {"path": "x", "digest": "d"}, "none": None}
    new = {"a": {"b": 2, "c": (1, 2)}, "versions": {"torch": "2"}, "weights": {"path": "y", "digest": "d"}, "budget": {"macs": 1.5e9}}
    assert differences(old, new) == ["a.b: 1 → 2", "budget.macs: none → 1.50G"]
    assert differences(old, new, ["a", "budget.macs"]) == []
