from __future__ import annotations

import pytest
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from nasseg.errors import ConfigError
from nasseg.search.samplers import SAMPLERS, make_sampler


@pytest.mark.parametrize(("name", "kind"), [("tpe", TPESampler), ("nsga2", NSGAIISampler), ("gp", GPSampler), ("random", RandomSampler)])
def test_samplers_by_name_and_without_warnings(name: str, kind: type[BaseSampler]) -> None:
    assert isinstance(make_sampler(name, 2**40 + 1).inner, kind)
    assert set(SAMPLERS) == {"tpe", "nsga2", "gp", "random"}


def test_unknown_sampler() -> None:
    with pytest.raises(ConfigError, match=r"sampler: must be one of tpe, nsga2, gp, random \(given 'tpee'\); nearest legal: tpe"):
        make_sampler("tpee", 0)
