"""A folder is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasseg.errors import BundleError
from nasseg.export.place import beside, check_target, move


def test_a_new_folder_stands_when_the_block_is_left(tmp_path: Path):
    target = tmp_path / "deep" / "b"
    with beside(target) as folder:
        (folder / "a").write_text("1")
        assert folder.parent == target.parent
        assert not target.exists()
        move(folder, target)
    assert [p.name for p in target.parent.iterdir()] == ["b"]
    assert (target / "a").read_text() == "1"
    assert target.stat().st_mode & 0o777 == 0o755
    assert (target / "a").stat().st_mode & 0o777 == 0o644


def test_an_error_or_ctrl_c_leaves_nothing(tmp_path: Path):
    def begin(kind: type[BaseException]) -> None:
        with beside(tmp_path / "b") as folder:
            (folder / "a").write_text("1")
            raise kind("stopped")

    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind, match="stopped"):
            begin(kind)
    assert list(tmp_path.iterdir()) == []


def test_the_old_folder_comes_back_if_the_new_one_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "b"
    target.mkdir()
    (target / "a").write_text("old")

    def refuse(self: Path, other: Path) -> None:
        raise OSError(1, "refused")

    def replace() -> None:
        with beside(target) as folder:
            (folder / "a").write_text("new")
            monkeypatch.setattr(Path, "rename", refuse)
            move(folder, target)

    with pytest.raises(BundleError, match="b: cannot be written: refused"):
        replace()
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_links_are_not_followed(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(BundleError, match="link: exists and is not a folder"):
        check_target(tmp_path / "link", needed=(), known=(), force=True)
    check_target(tmp_path / "there", needed=("x",), known=(), force=False)  # empty
    check_target(tmp_path / "new", needed=("x",), known=(), force=False)
