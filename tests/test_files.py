from __future__ import annotations

import os
from pathlib import Path

import pytest

from nasseg import files
from nasseg.errors import ConfigError


def test_write_atomic_leaves_old_content_and_no_litter_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "a.txt"
    files.write_atomic(target, "first")

    def broken(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk gone"):
        files.write_atomic(target, b"second")
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_yaml_is_1_2() -> None:
    assert files.parse_yaml("a: 1e-4\nb: no\nc: [1, 2]", "x") == {"a": 1e-4, "b": "no", "c": [1, 2]}


@pytest.mark.parametrize(("text", "line"), [("a: 1\na: 2\n", 2), ("a: [1,\n", 2), ("a: b: c\n", 1)])
def test_yaml_errors_name_file_and_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"^s\.yaml:{line}: not readable as YAML: "):
        files.parse_yaml(text, "s.yaml")


def test_yaml_round_trip_keeps_order() -> None:
    value = {"z": 1, "a": {"inputs": [1, 2], "x": None}, "t": "1e3"}
    text = files.dump_yaml(value)
    assert files.parse_yaml(text, "x") == value
    assert text.index("z:") < text.index("a:")
    assert "inputs: [1, 2]" in text


def test_read_text_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        files.read_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8 text"):
        files.read_text(tmp_path / "latin.yaml")


def test_canonical_json_and_digest() -> None:
    assert files.canonical_json({"b": 1, "a": [True, None]}) == '{"a":[true,null],"b":1}'
    assert files.digest({"b": 1, "a": 2}) == files.digest({"a": 2, "b": 1})
    assert files.digest({}) == "44136fa355b3"
    with pytest.raises(ValueError, match="JSON compliant"):
        files.canonical_json(float("nan"))


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path))
    assert files.cache_dir() == tmp_path
    monkeypatch.delenv("NASSEG_CACHE")
    assert files.cache_dir().name == "nasseg"


def test_read_json_or_none(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert files.read_json_or_none(path) is None
    path.write_text('{"a": 1')
    assert files.read_json_or_none(path) is None
    path.write_text("[1]")
    assert files.read_json_or_none(path) is None
    path.write_text('{"a": 1}')
    assert files.read_json_or_none(path) == {"a": 1}
