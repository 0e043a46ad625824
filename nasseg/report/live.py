"""What a person sees while a search runs: a table that is redrawn, or one line an event where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nasseg.report.pareto import STYLES, count, percent, shown_settings, worst_cell
from nasseg.search.log import describe
from nasseg.search.view import COMPLETE, DUPLICATE, FAILED, REJECTED, RUNNING, Event, TrialView, collapsed_classes, pareto_front

BEST_ROWS, LAST_ROWS = 6, 4
NOTES = 3
WARNINGS = 4
"""Sentences on classes that are not learnt, but for the last, which says what to set."""
NARROW = 100
"""Columns of a terminal below which the live table leaves the trials' origin and worst class out."""
PROGRESS_LINE_SECONDS = 30.0
"""Without a terminal a running trial's progress is a line no more often than this."""

HINT = "Ctrl-C stops; the same command goes on where it stopped"


@dataclass
class Row:
    """A running trial: how far it is."""

    trial: TrialView
    since: float
    iteration: int = 0
    total: int = 0
    loss: float | None = None

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.iteration / self.total) if self.total else 0.0


class SearchScreen:
    """Listens to a search and shows it. Use as a context; pass it to the search as its listener.

    ``trials`` is the number asked for, ``objectives`` as the study's; ``total`` says of a trial how many iterations it will run (0:
    unknown).
    """

    def __init__(
        self,
        console: Console,
        *,
        title: str,
        trials: int,
        objectives: dict[str, str],
        total: Callable[[TrialView], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.title = title
        self.trials = trials
        self.objectives = objectives
        self.total = total
        self.clock = clock
        self.started = clock()
        self.running: dict[int, Row] = {}
        self.finished: dict[int, TrialView] = {}
        self.counts = dict.fromkeys((COMPLETE, FAILED, REJECTED, DUPLICATE), 0)
        self.here = 0
        self.notes: list[str] = []
        self.status = ""
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        self._said: dict[int, float] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self.console.print(self.title)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, trials: tuple[TrialView, ...]) -> None:
        """Take up what an earlier start of the study has done."""
        with self._lock:
            for trial in trials:
                if trial.state in self.counts:
                    self.counts[trial.state] += 1
                if trial.trained:
                    self.finished[trial.number] = trial
            self._warn()

    def __call__(self, event: Event) -> None:
        """Take note of an event; without a terminal, print it."""
        with self._lock:
            self._take(event)
        if self._live is None:
            self._print(event)

    def _take(self, event: Event) -> None:
        trial = event.trial
        self.status = event.text if event.kind == "status" else ""
        if trial is None:
            self.notes += [event.text] if event.kind == "note" else []
            return
        number = trial.number
        if event.kind in (RUNNING, "resumed"):
            self.running[number] = Row(trial, self.clock(), total=self.total(trial))
        elif event.kind == "progress" and number in self.running:
            row = self.running[number]
            row.iteration, row.loss = event.iteration or 0, event.metrics.get("loss", row.loss)
        elif event.kind == "lost":
            self.notes.append(describe(event))
        elif event.kind in self.counts:
            self.counts[event.kind] += 1
            if self.running.pop(number, None) is not None:
                self.here += 1
            if trial.trained:
                self.finished[number] = trial
                self._warn()

    def _print(self, event: Event) -> None:
        trial = event.trial
        # Rejects come by the dozen; search.log has each, the other lines their number.
        if event.kind == REJECTED:
            return
        if event.kind == "progress" and trial is not None:
            now = self.clock()
            if now - self._said.setdefault(trial.number, now) < PROGRESS_LINE_SECONDS:
                return
            self._said[trial.number] = now
        tail = f" · {self.tally()}" if event.kind in (COMPLETE, FAILED) else ""
        self.console.print(f"[{self.done}/{self.trials}] {describe(event)}{tail}", soft_wrap=True, markup=False, highlight=False)

    @property
    def done(self) -> int:
        """Trained trials, earlier starts included."""
        return self.counts[COMPLETE] + self.counts[FAILED]

    def front(self) -> list[TrialView]:
        """The complete trials that no other beats, best first by the first objective."""
        able = [trial for trial in self._complete() if trial.values is not None]
        kept = [able[i] for i in pareto_front([trial.values or () for trial in able], list(self.objectives.values()))]
        sign = -1 if next(iter(self.objectives.values())) == "max" else 1
        return sorted(kept, key=lambda trial: (sign * (trial.values or (0.0,))[0], trial.number))

    def _warn(self) -> None:
        """Look for classes that are not learnt; not at every redrawing."""
        found = collapsed_classes(self._complete(), self.front())
        self._warnings = [*found[:WARNINGS], *found[-1:]] if len(found) > WARNINGS else found

    def _complete(self) -> list[TrialView]:
        return [trial for trial in self.finished.values() if trial.state == COMPLETE]

    def left(self) -> float | None:
        """Seconds to the end at the pace of this start, None before there is a pace."""
        done = self.here + sum(row.share for row in self.running.values())
        elapsed = self.clock() - self.started
        todo = self.trials - self.done - sum(row.share for row in self.running.values())
        return None if done < 0.2 or elapsed <= 0 else max(0.0, todo) * elapsed / done

    def tally(self) -> str:
        """``2 failed · 31 rejected · 2 duplicates · front 4 · 3:12 elapsed · 5:40 to go``."""
        failed = f"{self.counts[FAILED]} failed · " if self.counts[FAILED] else ""
        left = self.left()
        eta = "" if left is None or self.done >= self.trials else f" · {clock_text(left)} to go"
        elapsed = clock_text(self.clock() - self.started)
        return (
            f"{failed}{self.counts[REJECTED]} rejected · {self.counts[DUPLICATE]} duplicates · front {len(self.front())}"
            f" · {elapsed} elapsed{eta}"
        )

    def render(self) -> RenderableType:
        """The whole screen: running trials, the front, the last ones, the tally."""
        with self._lock:
            front = self.front()
            numbers = {trial.number for trial in front}
            last = [trial for trial in list(self.finished.values())[::-1] if trial.number not in numbers][:LAST_ROWS]
            title = Text(self.title, style="bold", overflow="fold", no_wrap=False)
            said = [*self._warnings, *self.notes[-NOTES:], *([self.status] if self.status else [])]
            notes = [Text(text, style="yellow", overflow="fold", no_wrap=False) for text in said]
            texts = sum(len(text.wrap(self.console, self.console.width)) for text in (title, *notes))
            room = max(2, self.console.size.height - len(self.running) - len(last) - texts - 6)
            settings = any(trial.settings for trial in (*self.finished.values(), *(row.trial for row in self.running.values())))
            table = self._table(settings)
            for row in self.running.values():
                self._row(table, row.trial, settings, progress(row, self.clock()), "cyan")
            table.add_section()
            for trial in front[: min(BEST_ROWS, room)]:
                self._row(table, trial, settings, Text("front"), "bold")
            table.add_section()
            for trial in last:
                self._row(table, trial, settings, Text(trial.state), STYLES[trial.state])
            bar = Table.grid(padding=(0, 1))
            done = f"{self.done}/{self.trials} trained"
            bar.add_row(ProgressBar(total=self.trials, completed=min(self.done, self.trials), width=24), done)
            tally = Text(self.tally(), overflow="fold", no_wrap=False)
            return Group(title, table, bar, tally, *notes, Text(HINT, style="dim", overflow="fold", no_wrap=False))

    def _table(self, settings: bool) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        table.add_column("#", justify="right", no_wrap=True)
        if self._origins:
            table.add_column("origin", no_wrap=True, max_width=18)
        table.add_column("genes", no_wrap=True, overflow="ellipsis", ratio=1)
        if settings:
            table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in ("MACs", "params", "mIoU", *(["worst class"] if self._by_class else [])):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True, min_width=22)
        return table

    @property
    def _origins(self) -> bool:
        return self.console.width >= NARROW

    @property
    def _by_class(self) -> bool:
        return self.console.width >= NARROW and any(trial.per_class for trial in self.finished.values())

    def _row(self, table: Table, trial: TrialView, settings: bool, state: RenderableType, style: str) -> None:
        cells: list[RenderableType] = [str(trial.number), *([trial.origin] if self._origins else []), trial.short]
        if settings:
            cells.append(shown_settings(trial.settings))
        cells += [count(trial.cost.get("macs")), count(trial.cost.get("params")), percent(trial.metrics.get("miou"))]
        if self._by_class:
            cells.append(worst_cell(trial))
        table.add_row(*cells, state, style=style)


def progress(row: Row, now: float) -> Text:
    """``▕███████▏ 45% 0:31``, or the seconds alone where the length is not known."""
    seconds = clock_text(now - row.since)
    if not row.total:
        return Text(f"running {seconds}")
    eighths = round(row.share * 8 * 8)
    filled = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return Text(f"{filled:<8} {row.share:4.0%} {seconds}")


def clock_text(seconds: float) -> str:
    """``0:07``, ``12:05``, ``1:02:03``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
