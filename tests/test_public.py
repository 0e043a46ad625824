"""The public door: exact, sorted, and cheap to open."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nasseg


def test_all_is_exact_sorted_and_reachable() -> None:
    assert nasseg.__all__ == sorted(nasseg.__all__)
    assert set(nasseg.__all__) == {*nasseg._HOMES, *(name.removeprefix("nasseg.") for name in nasseg._CALLS)}
    for name in nasseg.__all__:
        assert callable(getattr(nasseg, name)), name
        assert name in dir(nasseg)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'nasseg' has no attribute 'serch'"):
        nasseg.serch  # noqa: B018


def test_import_is_cheap_and_has_no_effects() -> None:
    code = """
import os, sys
before = dict(os.environ)
import nasseg
assert dict(os.environ) == before
heavy = {"torch", "ray", "optuna", "timm", "numpy", "pyarrow", "matplotlib"} & set(sys.modules)
sys.exit(f"import nasseg loads {heavy}" if heavy else 0)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_cost_and_search_are_packages_that_can_be_called() -> None:
    import nasseg.cost.cost  # noqa: PLC0415

    costed = nasseg.cost(nasseg.preset("scaseg", backbone="mit_b0"), size=(512, 512), num_classes=150)
    assert isinstance(costed, nasseg.cost.cost.Cost)
    # ARCHITECTURES: 4.910 M live, 5.851 G conv + linear + matmul, 5.937 G with norms and resizes.
    assert round(costed.params / 1e6, 3) == 4.910
    assert round(costed.macs / 1e9, 3) == 5.851
    assert round(costed.macs_fvcore / 1e9, 3) == 5.937
