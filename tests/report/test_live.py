from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from nasseg.report.live import HINT, Row, SearchScreen, clock_text, progress
from nasseg.search.view import Event, TrialView


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(*, terminal: bool, trials: int = 4, clock: Clock | None = None, height: int = 30) -> tuple[SearchScreen, Console]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140, height=height, color_system=None)
    made = SearchScreen(
        console,
        title="tiny · streets",
        trials=trials,
        objectives={"miou": "max", "macs": "min"},
        total=lambda trial: 40,
        clock=clock or Clock(),
    )
    return made, console


def trial(number: int, state: str = "running", **more: Any) -> TrialView:
    given: dict[str, Any] = {"origin": "sampler", "short": f"genes {number}", "cost": {"macs": 1e9 + number, "params": 4e6}}
    if state == "complete":
        given |= {"metrics": {"miou": 50.0 - number}, "values": (50.0 - number, 1e9 + number)}
    return TrialView(number=number, state=state, **{**given, **more})


def shown(made: SearchScreen) -> list[str]:
    console = Console(width=140, height=30, color_system=None, record=True, file=io.StringIO())
    console.print(made.render())
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_the_table_of_a_search() -> None:
    clock = Clock()
    made, _ = screen(terminal=True, clock=clock)
    made(Event(kind="note", text="preset csap is left out: over budget"))
    made(Event(kind="status", text="starting Ray"))
    assert "starting Ray" in shown(made)
    made(Event(kind="running", trial=trial(0, origin="preset:canet_fca")))
    clock.now += 10
    made(Event(kind="progress", trial=trial(0), iteration=10, metrics={"loss": 1.0}))
    lines = shown(made)
    assert lines[0] == "tiny · streets"
    assert lines[1].split() == ["#", "origin", "genes", "MACs", "params", "mIoU", "state"]
    assert lines[2].split() == ["0", "preset:canet_fca", "genes", "0", "1.00G", "4.00M", "–", "██", "25%", "0:10"]
    assert "0/4 trained" in lines[3]
    # A quarter of one trial in 10 s: 3.75 trials more take 150 s.
    assert lines[4] == "0 rejected · 0 duplicates · front 0 · 0:10 elapsed · 2:30 to go"
    assert lines[5:] == ["preset csap is left out: over budget", HINT]

    made(Event(kind="complete", trial=trial(0, "complete")))
    made(Event(kind="rejected", trial=trial(1, "rejected")))
    made(Event(kind="duplicate", trial=trial(2, "duplicate")))
    made(Event(kind="running", trial=trial(3)))
    made(Event(kind="failed", trial=trial(3, "failed", reason="nan")))
    made(Event(kind="running", trial=trial(4)))
    made(Event(kind="lost", trial=trial(4), text="killed"))
    lines = shown(made)
    assert [line.split()[0] for line in lines[2:5]] == ["4", "0", "3"]
    assert lines[3].split()[-2:] == ["50.00", "front"]
    assert lines[4].split()[-1] == "failed"
    assert "2/4 trained" in lines[5]
    assert lines[6].startswith("1 failed · 1 rejected · 1 duplicates · front 1 · 0:10 elapsed")
    assert "trial 4 lost its worker: killed; it is tried again" in lines


def test_classes_that_are_not_learnt_are_shown_while_the_search_runs() -> None:
    made, console = screen(terminal=True)
    made(Event(kind="complete", trial=trial(0, "complete", per_class={"soil": 90.0, "crop": 30.0}, unpredicted=())))
    head, first = shown(made)[1:3]
    assert head.split()[-4:] == ["mIoU", "worst", "class", "state"]
    assert "crop 30.00" in first
    assert not any("IoU below" in line for line in shown(made))
    made(Event(kind="complete", trial=trial(1, "complete", per_class={"soil": 90.0, "crop": 0.0}, unpredicted=("crop",))))
    lines = shown(made)
    assert "crop: IoU below 1 % in 1 of 2 trials, 0 of 1 on the front, never predicted" in lines
    assert "every pixel is given to one class by trial 1 (soil)" in lines
    assert any(line.startswith("to learn them: --set trainer.class_weights=") for line in lines)
    # A terminal without the room has the sentences alone.
    console.width = 80
    assert "worst" not in shown(made)[1]
    later, _ = screen(terminal=True)
    later.begin((trial(1, "complete", per_class={"soil": 90.0, "crop": 0.0}, unpredicted=("crop",)),))
    assert any(line.startswith("crop: IoU below 1 %") for line in shown(later))


def test_rows_are_cut_to_the_screen() -> None:
    made, _ = screen(terminal=True, trials=50, height=16)
    for number in range(40):
        made(Event(kind="complete", trial=trial(number, "complete", values=(50.0 + number, 1e9 + number))))
    assert len(shown(made)) <= 16
    made.console.height = 40
    assert sum(line.endswith("front") for line in shown(made)) == 6


def test_settings_have_a_column_where_they_are_searched() -> None:
    made, _ = screen(terminal=True)
    made(Event(kind="running", trial=trial(0, settings={"lr": 0.00123})))
    lines = shown(made)
    assert "settings" in lines[1].split()
    assert "lr 0.00123" in lines[2]


def test_the_live_table_is_taken_away_at_the_end() -> None:
    made, console = screen(terminal=True)
    with made:
        made(Event(kind="running", trial=trial(0)))
    assert isinstance(console.file, io.StringIO)
    assert "tiny · streets" in console.file.getvalue()


def test_plain_lines_without_a_terminal() -> None:
    clock = Clock()
    made, console = screen(terminal=False, clock=clock, trials=2)
    with made:
        made(Event(kind="running", trial=trial(0)))
        made(Event(kind="rejected", trial=trial(1, "rejected", reason="over budget")))
        for _ in range(7):
            clock.now += 10
            made(Event(kind="progress", trial=trial(0), iteration=10, metrics={"loss": 0.5}))
        made(Event(kind="complete", trial=trial(0, "complete", on_front=True)))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "tiny · streets",
        "[0/2] trial 0 started (sampler): 1.00G MACs, 4.00M params; genes 0",
        "[0/2] trial 0 at iteration 10: loss 0.5",
        "[0/2] trial 0 at iteration 10: loss 0.5",
        "[1/2] trial 0 complete: mIoU 50 at 1.00G MACs, 4.00M params, on the front · 1 rejected · 0 duplicates · front 1 · "
        "1:10 elapsed · 1:10 to go",
    ]


def test_an_earlier_start_is_taken_up() -> None:
    made, _ = screen(terminal=True, trials=5)
    made.begin((trial(0, "complete"), trial(1, "rejected"), trial(2, "failed"), trial(3, "waiting")))
    assert made.done == 2
    assert made.tally().startswith("1 failed · 1 rejected · 0 duplicates · front 1")
    assert made.left() is None
    made.trials = 2
    assert "to go" not in made.tally()


def test_one_objective_that_is_to_be_small() -> None:
    made, _ = screen(terminal=True)
    made.objectives = {"macs": "min"}
    for number in (3, 1, 2):
        made(Event(kind="complete", trial=trial(number, "complete", values=(float(number),))))
    assert [t.number for t in made.front()] == [1]


def test_progress_words() -> None:
    row = Row(trial(0), since=0.0, iteration=20, total=40)
    assert progress(row, 7.2).plain == "████      50% 0:07"
    assert progress(Row(trial(0), since=0.0), 65.0).plain == "running 1:05"
    assert Row(trial(0), since=0.0, iteration=99, total=40).share == 1.0
    assert [clock_text(s) for s in (-1, 7, 725, 3723)] == ["0:00", "0:07", "12:05", "1:02:03"]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("settings", [{}, {"lr": 0.00123, "drop_path": 0.1}])
def test_nothing_but_genes_and_settings_is_cut_at_any_width(width: int, settings: dict[str, float]) -> None:
    title = (
        "decoder · CamVid 240x320 · tf_efficientnet_lite0 · budget macs=330M,params=7.0M · proxy · ray 10.0.0.1:6379 ×8 · "
        "/a/path/of/more/than/a/hundred/and/sixty/columns/that/has/no/space/anywhere/and/must/be/broken/at/the/edge/of/the/terminal/"
        "wherever/that/is/results/camvid"
    )
    note = "preset csap is left out: over budget: macs 338M > 330M, params 7.14M > 7.00M; so is preset feedformer: macs 1.25G > 330M"
    # The console of the command line, which does not wrap by itself.
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None, soft_wrap=True)
    made = SearchScreen(console, title=title, trials=4, objectives={"miou": "max", "macs": "min"}, total=lambda trial: 40, clock=Clock())
    made(Event(kind="note", text=note))
    made(Event(kind="running", trial=trial(0, origin="preset:canet_fca", settings=settings)))
    with made:
        pass
    assert isinstance(console.file, io.StringIO)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).splitlines()
    assert max(map(len, drawn)) <= width
    text = "".join("".join(drawn).split())
    for whole in (title, note, HINT, made.tally()):
        assert "".join(whole.split()) in text
    head = next(line for line in drawn if line.startswith("# ")).split()
    origin, searched = ["origin"] if width >= 100 else [], ["settings"] if settings else []
    assert head == ["#", *origin, "genes", *searched, "MACs", "params", "mIoU", "state"]
    assert "4.00M" in text
