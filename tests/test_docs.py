"""The commands in the documentation exist: verb, sub-verb and every option."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from nasseg.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "search_spaces/README.md", "results/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results" / "reference").glob("*.md")),
]


def commands(text: str) -> list[str]:
    """The nasseg commands of a page's code blocks, from the verb on, continued lines joined."""
    found = []
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.search(r"(?:^(?:\$ )?nasseg|-m nasseg) ([a-z].*)", line)
            if command is not None:
                found.append(command[1])
    return found


def parse(command: str) -> None:
    """Parse a command as click does; raises click's error for what does not exist. Values are not looked at."""
    # In a list of commands, what follows several spaces says what the command does; brackets mark what may be left out.
    words = [word.strip("[]") for word in shlex.split(re.split(r"\s{3,}", command)[0].replace("…", "X"), comments=True)]
    verb, arguments = words[0], words[1:]
    found = importlib.import_module(f"nasseg.cli.{verb}").command
    while isinstance(found, click.Group) and arguments:
        name = re.split(r"[|]", arguments.pop(0))[0]
        below = found.get_command(click.Context(found), name)
        assert below is not None, f"nasseg {verb} {name}"
        found = below
    found.make_parser(click.Context(found)).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_commands_exist(page: Path) -> None:
    for command in commands(page.read_text(encoding="utf-8")):
        assert re.split(r"[ |]", command)[0] in VERBS, command
        try:
            parse(command)
        except click.ClickException as error:
            pytest.fail(f"{page.name}: nasseg {command}: {error.format_message()}")


def test_the_check_finds_what_does_not_exist() -> None:
    page = "```sh\n$ nasseg space stats tiny --clases 3 \\\n  --size 8x8   # remark\ntorchrun -m nasseg train X\n```\n"
    assert commands(page) == ["space stats tiny --clases 3 --size 8x8   # remark", "train X"]
    with pytest.raises(click.NoSuchOption, match="--clases"):
        parse("space stats tiny --clases 3")
    with pytest.raises(AssertionError, match="nasseg space stat"):
        parse("space stat tiny")
