"""The stamp on every result."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from typing import Any

import pytest
import torch

import nasseg
from nasseg.files import canonical_json
from nasseg.training import environment


def test_stamp_is_plain_and_complete() -> None:
    found = environment.stamp()
    assert canonical_json(found)
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert (found["nasseg"], found["device"], found["threads"]) == (nasseg.__version__, "cpu", torch.get_num_threads())
    assert list(found) == ["nasseg", "commit", "python", *environment.PACKAGES, "platform", "device", "threads"]


def test_commit_is_twelve_digits_or_unknown() -> None:
    found = environment.commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{12}\+?", found)


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", gone)
    assert environment.commit.__wrapped__() is None


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(nasseg, "__file__", str(tmp_path / "site" / "nasseg" / "__init__.py"))
    assert environment.commit.__wrapped__() is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package-at-all"))
    assert environment.stamp()["no-such-package-at-all"] is None
    assert environment.stamp()["torch"] == version("torch")
