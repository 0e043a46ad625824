"""Log records and Python warnings on the console: their form, beside live tables, from other processes."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nasseg import log
from nasseg.cli import main
from nasseg.log import ConsoleHandler, console_logs, forwarded, relay, shown_on

OURS = logging.getLogger("nasseg.somewhere")
THEIRS = logging.getLogger("library")
LONG = "/a/folder/" + "x" * 300 + "/file.pt"


def test_a_record_is_one_line_that_says_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    with console_logs():
        OURS.debug("not shown")
        OURS.info("reading %d masks", 3)
        OURS.warning("%s cannot be read [red]and[/] is passed over", LONG)
        OURS.error("lost")
        THEIRS.info("not shown either")
        THEIRS.warning("odd")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "reading 3 masks",
        f"warning: {LONG} cannot be read [red]and[/] is passed over",
        "error: lost",
        "warning: odd",
    ]


def test_a_python_warning_is_one_line_without_code(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), console_logs():
        warnings.simplefilter("always")
        warnings.warn("a shape\n  is odd", RuntimeWarning, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: a shape is odd (RuntimeWarning, ")
    assert "test_log.py:" in line


def test_everything_is_as_before_afterwards() -> None:
    root, ours = logging.getLogger(), logging.getLogger("nasseg")
    before = (list(root.handlers), ours.level, warnings.showwarning, warnings.formatwarning)
    during: list[logging.Handler] = []

    def verb() -> None:
        with console_logs():
            during.extend(handler for handler in root.handlers if isinstance(handler, ConsoleHandler))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb()
    assert len(during) == 1
    assert (list(root.handlers), ours.level, warnings.showwarning, warnings.formatwarning) == before


def test_every_verb_shows_its_records(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main.main, "main", lambda **_: OURS.warning("from a verb"))
    main.run([])
    assert capsys.readouterr().err == "warning: from a verb\n"


def test_a_library_that_imports_nasseg_keeps_its_own_logging() -> None:
    code = "import logging, nasseg.log, nasseg.cli.main as m; r = logging.getLogger(); print(r.handlers, logging.getLogger('nasseg').level)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[] 0\n"


def test_lines_appear_whole_above_a_live_table(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None, soft_wrap=True)
    with console_logs(), shown_on(screen), Live(Text("THE TABLE"), console=screen, auto_refresh=False, transient=True):
        OURS.warning("%s is odd", LONG)
    assert capsys.readouterr().err == ""
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert f"warning: {LONG} is odd\n" in drawn
    # The table is drawn again below the line.
    assert drawn.rindex("THE TABLE") > drawn.index("is odd")


def test_after_the_table_and_without_a_terminal_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True)
    pipe = Console(file=io.StringIO(), force_terminal=False)
    with console_logs():
        with pytest.raises(ValueError, match="the table broke"), shown_on(screen):
            raise ValueError("the table broke")
        OURS.warning("after the table")
        with shown_on(pipe):
            OURS.warning("into a pipe")
        with shown_on(Console(quiet=True)):
            OURS.warning("from a process that does not speak")
    assert capsys.readouterr().err.splitlines() == ["warning: after the table", "warning: into a pipe"]
    assert screen.file.getvalue() == pipe.file.getvalue() == ""  # type: ignore[attr-defined]


def test_records_are_forwarded_and_relayed(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[tuple[str, int, str]] = []
    with forwarded(lambda *record: sent.append(record)):
        OURS.info("not forwarded")
        OURS.warning("odd: %d", 3)
        THEIRS.error("worse")
    OURS.warning("later")
    assert sent == [("nasseg.somewhere", logging.WARNING, "odd: 3"), ("library", logging.ERROR, "worse")]
    caplog.clear()
    relay("trial 7", *sent[0])
    assert caplog.record_tuples == [("nasseg.somewhere", logging.WARNING, "trial 7: odd: 3")]


def test_a_forked_child_does_not_write_into_its_parents_pipe() -> None:
    code = """
import logging, os
from nasseg.log import forwarded
with forwarded(lambda logger, level, text: print("sent", text, flush=True)):
    child = os.fork()
    if child == 0:
        logging.warning("from the child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    logging.warning("from the parent")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "sent from the parent\n"


def test_bars_are_drawn_on_the_console_that_shows_records() -> None:
    assert ConsoleHandler().console is log.STDERR
    assert log.STDERR.stderr
