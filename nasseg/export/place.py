"""A folder written whole or not at all: made beside its target, moved into place when it is finished."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from nasseg.errors import BundleError


def check_target(target: Path, *, needed: Collection[str], known: Collection[str], force: bool) -> None:
    """Refuse a target that would be damaged, before any work is done.

    A bundle is told by the files ``needed``; with ``force`` it is replaced, unless files lie in it that are not ``known``. Raises
    :class:`BundleError`.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BundleError(f"{target}: exists and is not a folder; choose another --out")
    if not target.exists() or not any(target.iterdir()):
        return
    if not all((target / name).is_file() for name in needed):
        raise BundleError(f"{target}: holds files that are no bundle; choose another --out")
    if not force:
        raise BundleError(f"{target}: a bundle lies there already; choose another --out, or replace it with --force")
    strangers = sorted(p.name for p in target.iterdir() if p.name not in known)
    if strangers:
        raise BundleError(f"{target}: beside the bundle lies {', '.join(strangers[:3])}, which --force would delete; move it away")


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A temporary folder in the same place as the target, gone at the end whatever happens.

    Raises :class:`BundleError` where none can be made, and for any ``OSError`` inside (a full disk).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move(folder: Path, target: Path) -> None:
    """Put a finished folder in the target's place; what lay there is kept until the new one stands."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    target.replace(old)
    try:
        folder.rename(target)
    except BaseException:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
