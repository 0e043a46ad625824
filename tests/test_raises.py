"""Tests of errors say which error is meant: its class, and its words by ``match=`` or by what is asserted of the caught one."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TOO_WIDE = {"Exception", "BaseException"}
WITHOUT_WORDS = {"SystemExit", "KeyboardInterrupt", "Stopped", "Leave", "ReachedError"}
"""Raised to leave, not to tell: there are no words to match."""


def vague(source: str) -> list[str]:
    """The ``pytest.raises`` of a file that any error, or any error of a class, would satisfy."""
    found = []
    tree = ast.parse(source)
    kept = {
        id(item.context_expr)
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if item.optional_vars is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            classes = {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}
            worded = any(keyword.arg in ("match", "check") for keyword in node.keywords) or id(node) in kept or classes <= WITHOUT_WORDS
            if classes & TOO_WIDE or not worded:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_one_error_is_meant() -> None:
    found = {path.relative_to(TESTS).as_posix(): lines for path in sorted(TESTS.rglob("*.py")) if (lines := vague(path.read_text("utf-8")))}
    assert not found


def test_vague_ones_are_found() -> None:
    source = """
with pytest.raises(Exception, match="x"): ...
with pytest.raises(ConfigError): ...
with pytest.raises(ConfigError) as caught, other(): ...
with pytest.raises((ConfigError, ValueError), match="x"): ...
with pytest.raises(SystemExit): ...
"""
    assert vague(source) == ["line 2: pytest.raises(Exception, match='x')", "line 3: pytest.raises(ConfigError)"]
