"""One thread: the networks of these tests are too small for more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nasseg.training.device import threads


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield
