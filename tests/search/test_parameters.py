"""What Optuna stores is what is trained: for every space, every sampler, conditions, ties and training genes."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from kits_space import random_space

from nasseg.errors import ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.search import view
from nasseg.search.candidate import Chooser
from nasseg.search.samplers import make_sampler
from tests.kits_store import drive, make_study

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 60


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_proposals", ROOT / "bench" / "proposals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def drawn(space: Space, sampler: str, trials: int) -> list[optuna.trial.FrozenTrial]:
    """So many trials of a sampler over a space, each told a random result, some of them over a budget."""
    rng = random.Random(0)
    sampling = make_sampler(sampler, 1)
    study = optuna.create_study(sampler=sampling, directions=["maximize", "minimize"])
    for _ in range(trials):
        trial = study.ask()
        point = space.suggest(Chooser(trial, sampling))
        trial.set_user_attr(view.CANDIDATE, {"genotype": point.genotype.to_dict(), "settings": dict(point.settings)})
        over = rng.uniform(-1, 0.5)
        trial.set_constraint("macs", over)
        if over > 0:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [rng.random(), rng.random()])
    return study.get_trials(deepcopy=False)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("name", ["decoder", "scaseg", "csap", "tiny", "joint"])
def test_stored_parameters_are_the_networks(bench: ModuleType, name: str, sampler: str) -> None:
    space = bench.open_space(name)
    assert bench.differing(space, drawn(space, sampler, TRIALS)) == (0, TRIALS)


@pytest.mark.parametrize("seed", range(8))
def test_stored_parameters_of_spaces_with_conditions_and_ties(bench: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        try:
            space = Space.from_dict(random_space(rng))
        except ConfigError:
            continue
        if len(space.variables) > 3:
            break
    for sampler in ("tpe", "nsga2"):
        trials = drawn(space, sampler, 40)
        assert bench.differing(space, trials) == (0, 40)
        for trial in trials:
            genotype = Genotype.from_dict(trial.user_attrs[view.CANDIDATE]["genotype"])
            assert space.encode(genotype) == trial.params


def test_gp_stores_what_is_trained(bench: ModuleType) -> None:
    space = bench.open_space("tiny")
    assert bench.differing(space, drawn(space, "gp", 16)) == (0, 16)


def test_a_difference_is_seen(bench: ModuleType) -> None:
    space = bench.open_space("tiny")
    trial = drawn(space, "random", 1)[0]
    assert bench.differing(space, [trial]) == (0, 1)
    trial.params = {**trial.params, "stage3.attention": "stage4", "stage4.attention": "none"}
    assert bench.differing(space, [trial]) == (1, 1)


def test_a_study_stores_what_it_trains(bench: ModuleType, tmp_path: Path) -> None:
    """Through the journal, queued points and answered ones included."""
    space = bench.open_space("tiny")

    def cost(genotype: Genotype) -> dict[str, float]:
        macs = 1e6 * genotype.fusion_width * (2 if genotype.fusion == "fca" else 1)
        return {"macs": macs, "params": 1.0, "macs_fvcore": macs, "decoder_params": 1.0, "decoder_macs": macs}

    study, _ = make_study(tmp_path, space=space, cost=cost, budget="macs=130M", trials=60)
    drive(study)
    study.close()
    again, _ = make_study(tmp_path, space=space, cost=cost, budget="macs=130M", trials=70)
    trials = again.optuna.get_trials(deepcopy=False)
    origins = {trial.user_attrs[view.CANDIDATE]["origin"] for trial in trials}
    assert {"preset:csap", "sampler", "neighbour"} <= origins
    assert bench.differing(space, trials) == (0, len(trials))
