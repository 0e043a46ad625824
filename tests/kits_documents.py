"""The commands that pages, headers and docstrings of the repository show, as a reader would type them.

Read are ``nasseg``, ``python -m nasseg``, ``torchrun``, ``python bench/`` and ``make`` with what follows: lines of code blocks (after ``$``
or ``say``, over several lines with a backslash), comments of YAML files, and inline code in prose and docstrings.
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

STARTS = re.compile(r"(?:\$ |say )?((?:nasseg [a-z]|python -m nasseg |torchrun |python bench/|make [a-z]).*)", re.DOTALL)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)([^`]+)\1(?!`)")
REST = "…"
"""What stands for further options, or for several of a kind (``IMAGE…``)."""


@dataclass(frozen=True)
class Shown:
    """A command as it is shown: where, and its text with continued lines joined. ``mentioned``: in prose, where what is left out goes
    without saying."""

    place: str
    text: str
    mentioned: bool = False

    def variants(self) -> Iterator[tuple[list[str], bool]]:
        """Its words for each way to read it (``show|stats``, ``[--json]``: without any, with all), and whether something is left out."""
        # A list of commands says behind a gap what each does.
        text = re.split(r" {2,}(?=[^#\s])", self.text)[0]
        optional = re.compile(r"(?<=\s)\[([^\[\]]+)\]")
        readings = dict.fromkeys((optional.sub("", text), optional.sub(r"\1", text)))
        for reading in readings:
            words = [word for word in shlex.split(reading, comments=True) if word != REST]
            rest = REST in shlex.split(reading, comments=True)
            choices = [word.removesuffix(REST).split("|") if re.fullmatch(r"[\w/:.…|-]+", word) else [word] for word in words]
            for chosen in itertools.product(*choices):
                yield list(chosen), rest or self.mentioned


def shown_commands() -> list[Shown]:
    """Every command shown anywhere, in the order of the files."""
    pages = [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "search_spaces/README.md", "results/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "results" / "reference").glob("*.md")),
    ]
    headers = sorted(path for folder in ("search_spaces", "trainers", "bench") for path in (ROOT / folder).rglob("*.y*ml"))
    sources = sorted(path for folder in ("trainers", "bench", "nasseg") for path in (ROOT / folder).rglob("*.py"))
    scripts = sorted((ROOT / "bench").glob("*.sh"))
    found: dict[tuple[str, str, bool], Shown] = {}
    for path in [*pages, *headers, *sources, *scripts]:
        # nasseg/trainers and nasseg/search_spaces are links to the folders beside it.
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("nasseg/trainers/", "nasseg/search_spaces/")):
            continue
        for one in of_file(name, path.read_text(encoding="utf-8")):
            found.setdefault((one.place, one.text, one.mentioned), one)
    return list(found.values())


def of_file(name: str, text: str) -> Iterator[Shown]:
    """The commands of a file, by its kind."""
    if name.endswith(".md"):
        for language, block in FENCE.findall(text):
            if language in ("", "sh", "bash", "console"):
                yield from _lines(name, block)
            elif language == "yaml":
                yield from _lines(name, _comments(block))
        yield from _inline(name, FENCE.sub("", text))
    elif name.endswith((".yaml", ".yml")):
        yield from _lines(name, _comments(text))
    elif name.endswith(".sh"):
        yield from _lines(name, re.sub(r'"?\$(\w+)(/[\w:]*)?"?', lambda found: f"demo{found[2] or ''}", text))
    else:
        for docstring in _docstrings(text):
            yield from _lines(name, "\n".join(line.strip() for line in docstring.splitlines() if line.startswith("    ")))
            yield from _inline(name, docstring)


def _lines(name: str, block: str) -> Iterator[Shown]:
    for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
        found = STARTS.fullmatch(line.strip())
        # An arrow belongs to a drawing of how verbs follow each other.
        if found is not None and "→" not in shlex.split(found[1], comments=True):
            yield Shown(name, found[1])


def _inline(name: str, text: str) -> Iterator[Shown]:
    for _, code in INLINE.findall(text):
        found = STARTS.fullmatch(" ".join(code.split()))
        if found is not None:
            yield Shown(name, found[1], mentioned=True)


def _comments(text: str) -> str:
    return "\n".join(line.lstrip().removeprefix("#").strip() for line in text.splitlines() if line.lstrip().startswith("#"))


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def shown_files(page: Path) -> dict[str, str]:
    """YAML files that a page shows whole: blocks whose first line is a comment that names the file."""
    out = {}
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        named = re.match(r"#[^\n]*?\b(\w+\.yaml)\b", block)
        if language == "yaml" and named is not None:
            out[named[1]] = block
    return out
