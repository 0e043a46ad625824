"""Optuna's samplers by name, with the settings that found the best fronts under a hard budget, where rejects are told, not trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.genes.variable import Nearest, same

POPULATION = 20
"""NSGA-II's population: studies here have tens to hundreds of trials, and 20 beat Optuna's 50 at 50 and at 200."""


REDRAWS = 8
"""How often a choice that is drawn for itself and illegal is drawn again before the nearest legal one is taken."""


class LegalSampler(BaseSampler):
    """Another sampler, whose answers become legal before Optuna stores them.

    Optuna wants one set of choices a parameter, and with genes that depend on each other some of them are illegal in some trials. What
    the inner sampler draws jointly (TPE's multivariate density, NSGA-II's child, the Gaussian process's optimum) knows nothing of that, and
    Optuna stores what was drawn. So joint draws are held back here and given out one parameter at a time: each as the legal choice nearest
    to it, ``nearest`` being what the caller sets before it asks for the parameter.
    """

    def __init__(self, inner: BaseSampler) -> None:
        self.inner = inner
        self.nearest: Nearest = same
        """Of the parameter that is asked for next."""
        self._joint: tuple[int, dict[str, Any]] = (-1, {})

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The inner sampler's."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Nothing: what the inner sampler draws is given out by :meth:`sample_independent`."""
        self._joint = (trial.number, self.inner.sample_relative(study, trial, search_space))
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """The inner sampler's value of this parameter, made legal."""
        number, joint = self._joint
        if number == trial.number and param_name in joint:
            return self.nearest(joint[param_name])
        if isinstance(param_distribution, CategoricalDistribution):
            choices: tuple[Any, ...] = param_distribution.choices
            legal = [choice for choice in choices if self.nearest(choice) == choice]
            if len(legal) == 1:
                return legal[0]
        for _ in range(REDRAWS):
            drawn = self.inner.sample_independent(study, trial, param_name, param_distribution)
            if self.nearest(drawn) == drawn:
                return drawn
        return self.nearest(drawn)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The inner sampler's."""
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The inner sampler's."""
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """The inner sampler's."""
        self.inner.reseed_rng()


def tpe(seed: int) -> BaseSampler:
    """Multivariate over groups of genes that appear together, which keeps what conditional genes share; constant liar for parallel runs."""
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def nsga2(seed: int) -> BaseSampler:
    """NSGA-II, population 20."""
    return NSGAIISampler(population_size=POPULATION, seed=seed)


def gp(seed: int) -> BaseSampler:
    """Gaussian process: best of all at few trials, and seconds a proposal at hundreds (its cost grows with the cube of the trials)."""
    return GPSampler(seed=seed)


def random(seed: int) -> BaseSampler:
    """Every candidate drawn without regard to the others."""
    return RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {"tpe": tpe, "nsga2": nsga2, "gp": gp, "random": random}


def make_sampler(name: str, seed: int) -> LegalSampler:
    """The sampler of this name, its answers made legal. Raises :class:`ConfigError` for another name."""
    if name not in SAMPLERS:
        raise ConfigError(Problem("", "sampler", f"must be one of {', '.join(SAMPLERS)}", name, nearest(name, SAMPLERS)))
    with warnings.catch_warnings():
        # Multivariate and group TPE are marked experimental in Optuna 5; the version is bounded and the settings are tested.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return LegalSampler(SAMPLERS[name](seed % 2**32))
