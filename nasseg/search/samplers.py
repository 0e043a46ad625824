"""Optuna's samplers by name, with the settings that found the best fronts under a hard budget, where rejects are told, not trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from nasseg.errors import ConfigError, Problem, nearest

POPULATION = 20
"""NSGA-II's population: studies here have tens to hundreds of trials, and 20 beat Optuna's 50 at 50 and at 200."""


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


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler of this name. Raises :class:`ConfigError` for another name."""
    if name not in SAMPLERS:
        raise ConfigError(Problem("", "sampler", f"must be one of {', '.join(SAMPLERS)}", name, nearest(name, SAMPLERS)))
    with warnings.catch_warnings():
        # Multivariate and group TPE are marked experimental in Optuna 5; the version is bounded and the settings are tested.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed % 2**32)
