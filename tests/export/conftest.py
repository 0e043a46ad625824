"""One bundle for all tests of this folder: making it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from kits_export import make_run

from nasseg.export.bundle import export_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a run, with its data at hand; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("made")
    export_run(make_run(folder / "run").path, folder / "bundle", images=3)
    return folder / "bundle"
