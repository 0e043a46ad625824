from __future__ import annotations

import pickle

import pytest

from nasseg import errors
from nasseg.errors import ConfigError, NassegError, Problem, nearest


def test_problem_says_where_what_rule_and_nearest() -> None:
    problem = Problem("a.yaml", "stage3.rank", "must be one of 0, 1", 3, 1)
    assert str(problem) == "a.yaml: stage3.rank: must be one of 0, 1 (given 3); nearest legal: 1"
    assert str(Problem("", "", "no data")) == "no data"
    legal = ("lr", "clip")
    assert str(Problem("t", "lrr", "no such setting", None, "lr", legal)) == "t: lrr: no such setting; nearest legal: lr"
    assert str(Problem("t", "fps", "no such setting", 20, None, legal)) == "t: fps: no such setting (given 20); legal are lr, clip"
    assert str(Problem("", "--set", "wants key=value", "x")) == "--set: wants key=value (given 'x')"


def test_config_error_holds_all_problems_and_crosses_processes() -> None:
    error = ConfigError([Problem("a", "k", "one"), Problem("a", "l", "two")])
    assert str(error) == "a: k: one\na: l: two"
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_exit_codes() -> None:
    tree = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, NassegError)]
    assert {e.__name__ for e in tree if e.exit_code == 1} == {"RunFailed", "TrainingFailed", "ExportFailed"}
    assert all(e.exit_code == 2 for e in tree if not issubclass(e, errors.RunFailed))
    for e in tree:
        assert e.__name__ in (errors.__doc__ or ""), f"{e.__name__} is missing from the drawing"


@pytest.mark.parametrize(
    ("given", "options", "found"),
    [
        (3, (0, 1, 2, 4, 8), 2),
        (100, (64, 128), 128),
        ("SE", ("none", "se"), "se"),
        ("lpmm", ("ffn", "lpm"), "lpm"),
        ("zzz", ("ffn", "lpm"), None),
        (True, (0, 1), None),
        ("fulll", (0, 1, "full"), "full"),
        # 4 of 9 letters of fps and params stand in the same order, and they have nothing to do with each other.
        ("fps", ("params", "macs", "macs_fvcore"), None),
        ("para", ("params", "macs"), "params"),
        ("iter", ("items", "warmup_iterations", "iterations"), "iterations"),
        ("latency", ("params", "macs"), None),
        ("Mitb0", ("mit_b0", "mit_b1"), "mit_b0"),
        ("", ("params", "macs"), None),
    ],
)
def test_nearest(given: object, options: tuple[object, ...], found: object) -> None:
    assert nearest(given, options) == found
