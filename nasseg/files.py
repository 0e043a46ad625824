"""Files: atomic writes, YAML and JSON, digests, the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nasseg.errors import ConfigError, Problem


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write whole or not at all: a temporary file beside the target, flushed to disk, then moved over it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def parse_yaml(text: str, where: str) -> Any:
    """YAML 1.2 (``1e-4`` is a number, ``no`` a word); a repeated key or a syntax error is a :class:`ConfigError` that names its line."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        first_line = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(Problem(place, "", f"not readable as YAML: {first_line}")) from error


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file; a missing or unreadable one is a :class:`ConfigError`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(Problem(str(path), "", f"cannot be read: {reason}")) from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML (or JSON) file."""
    return parse_yaml(read_text(path), str(path))


def dump_yaml(value: Any) -> str:
    """Block-style YAML text, short lists inline, keys in the order given."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 140
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def cache_dir() -> Path:
    """``$NASSEG_CACHE``, or the user's cache folder. Holds only what can be computed again."""
    given = os.environ.get("NASSEG_CACHE")
    return Path(given).expanduser() if given else user_cache_path("nasseg")


def read_json_or_none(path: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """A JSON object, or None where the file is missing or torn: for caches, which may be lost at any time."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
