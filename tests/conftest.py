"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Several test processes on few cores: one thread each, set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: Ctrl-C could not be tried.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The kits' assertions show values as a test's do.
pytest.register_assert_rewrite(*(path.stem for path in Path(__file__).parent.glob("kits_*.py")))

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes: a file stays in one, which builds its fixtures once; groups that a mark names are slow and come first."""
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).as_posix()))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the tests lie in one folder per test process, never in the user's."""
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path_factory.getbasetemp() / "nasseg-cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights; tests that need them skip where they are not at hand."""
    folder = Path(os.environ.get("NASSEG_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "camvid").is_dir():
        pytest.skip(f"real data and weights are not at hand: {folder}")
    return folder
