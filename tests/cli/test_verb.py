from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from nasseg.cli import main, options
from nasseg.cli.main import run
from nasseg.cli.verb import Verb, VerbGroup
from nasseg.errors import ConfigError


def verbs(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command under a group, by the words a user types."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for child in command.list_commands(context):
        found = command.get_command(context, child)
        assert found is not None
        yield from verbs(found, f"{name} {child}".strip())


ALL = dict(verbs(main.main))
ONCE = [
    (name, option)
    for name, command in ALL.items()
    for option in command.params
    if isinstance(option, click.Option) and not (option.multiple or option.count or option.is_flag)
]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_every_verb_checks_its_options() -> None:
    assert len(ALL) > 15
    assert {"search", "train", "data pack", "space stats", "trainers show"} <= set(ALL)
    assert [name for name, command in ALL.items() if not isinstance(command, Verb)] == []
    groups = [name for name in main.VERBS if isinstance(main.main.get_command(click.Context(main.main), name), click.Group)]
    assert [name for name in groups if not isinstance(main.main.get_command(click.Context(main.main), name), VerbGroup)] == []


@pytest.mark.parametrize(("name", "option"), ONCE, ids=[f"{name} {option.opts[0]}" for name, option in ONCE])
def test_a_second_value_is_refused(name: str, option: click.Option, capsys: pytest.CaptureFixture[str]) -> None:
    shown = max(option.opts, key=len)
    said = refused(capsys, *name.split(), shown, "first", option.opts[0], "second")
    assert said == f"nasseg: {shown}: takes one value, and 2 are given: first, second\n"


def test_all_that_is_given_twice_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(
        capsys, "train", "csap", "--weights=a.pth", "--pretrained", "--out", "x", "--scratch", "--weights", "b.pth", "--out", "y"
    )
    assert said.splitlines() == [
        "nasseg: --weights: takes one value, and 2 are given: a.pth, b.pth",
        "--pretrained and --scratch: exclude each other: give one",
        "--out: takes one value, and 2 are given: x, y",
    ]


def test_a_flag_may_be_given_again(capsys: pytest.CaptureFixture[str]) -> None:
    run(["cost", "csap", "--json", "--backbone", "mit_b0", "--size", "64", "--json", "--classes", "3"])
    assert capsys.readouterr().out.startswith("{")


def test_options_behind_positional_arguments_and_repeatable_ones_pass(capsys: pytest.CaptureFixture[str]) -> None:
    run(["cost", "--size", "64", "csap", "--classes", "3", "--backbone", "mit_b0", "--set", "lpm=se", "--set", "ffn=0", "--json"])
    assert capsys.readouterr().out.startswith("{")


def test_a_key_set_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--set lpm: takes one value, and two are given: se, eca$"):
        options.parse_sets(["lpm=se", "ffn=0", "lpm = eca"])
    with pytest.raises(ConfigError, match=r"^--set trainer\.lr: takes one value, and two are given: 1e-3, 2e-3$"):
        options.parse_sets(["train.lr=1e-3", "trainer.lr=2e-3"])
    assert options.parse_sets(["lpm=se", "stage3.lpm=eca"]) == {"lpm": "se", "stage3.lpm": "eca"}
