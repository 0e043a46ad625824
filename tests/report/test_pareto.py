from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nasseg.metric import label_of
from nasseg.report.pareto import count, front_table, percent, reason_of, shown_settings, summary, trial_table, warning_lines, worst_cell
from nasseg.search.view import StudyView, TrialView


def trial(number: int, state: str = "complete", **more: Any) -> TrialView:
    given: dict[str, Any] = {"origin": "sampler", "short": f"genes {number}", "cost": {"macs": 1.5e9, "params": 4e6}}
    if state == "complete":
        given |= {"metrics": {"miou": 50.0 + number}, "values": (50.0 + number, 1.5e9)}
    return TrialView(number=number, state=state, **{**given, **more})


def view(*trials: TrialView) -> StudyView:
    return StudyView(path=Path("results/first"), trials=trials, objectives={"miou": "max", "macs": "min"})


def printed(table: object) -> list[str]:
    console = Console(width=160, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_all_trials_as_a_table() -> None:
    study = view(
        trial(0, origin="preset:csap", on_front=True, metrics={"miou": 50.0, "miou_holdout": 41.25}),
        trial(1, "failed", reason="loss is nan at iteration 3\nmore"),
        trial(2, "duplicate", duplicate_of=0, metrics={"miou": 50.0}),
        trial(3, "rejected", reason="over budget: macs 2.00G > 1.50G", settings={"lr": 0.00123, "loss": "ohem"}),
    )
    lines = printed(trial_table(study, study.trials, title="results/first"))
    assert lines[0] == "results/first"
    assert lines[1].split() == ["#", "mIoU", "mIoU", "holdout", "MACs", "params", "origin", "genes", "settings", "state", "reason"]
    assert lines[2].split() == ["*0", "50.00", "41.25", "1.50G", "4.00M", "preset:csap", "genes", "0", "complete"]
    failed = ["1", "–", "–", "1.50G", "4.00M", "sampler", "genes", "1", "failed", "loss", "is", "nan"]
    assert lines[3].split()[:-3] == failed
    assert lines[4].endswith("duplicate  as trial 0")
    assert "lr 0.00123 loss ohem  rejected   over budget: macs 2.00G > 1.50G" in lines[5]


def test_the_worst_class_stands_beside_the_mean() -> None:
    study = view(
        trial(0, on_front=True, per_class={"soil": 90.0, "crop": 55.5}, unpredicted=()),
        trial(1, on_front=True, per_class={"soil": 90.0, "a class with a long name": 0.25}, unpredicted=()),
        trial(2, "failed", reason="no luck"),
    )
    lines = printed(front_table(study))
    assert lines[1].split() == ["#", "mIoU", "worst", "class", "MACs", "params", "origin", "genes"]
    assert [" ".join(line.split()[2:-5]) for line in lines[2:]] == ["a class with… 0.25", "crop 55.50"]
    assert "  –  1.50G" in printed(trial_table(study, study.trials))[3]
    assert [worst_cell(each).style for each in study.trials] == ["", "red", ""]
    assert [str(line) for line in warning_lines(["weed: IoU 0"])] == ["warning: weed: IoU 0"]


def test_front_as_a_table() -> None:
    study = view(trial(0, on_front=True), trial(1, on_front=True), trial(2))
    lines = printed(front_table(study))
    assert lines[0] == "Pareto front (mIoU max, macs min)"
    assert [line.split()[0] for line in lines[2:]] == ["1", "0"]
    assert "state" not in lines[1]


def test_summary_counts() -> None:
    study = view(
        trial(0, on_front=True), trial(1, "failed"), trial(2, "rejected"), trial(3, "duplicate"), trial(4, "running"), trial(5, "waiting")
    )
    assert summary(study) == "2 trained (1 failed), 1 rejected over budget, 1 duplicate answered, 1 running, 1 waiting, 1 on the front"
    assert summary(view()) == "0 trained, 0 rejected over budget, 0 duplicates answered, 0 on the front"


def test_small_words() -> None:
    assert [label_of(n) for n in ("miou", "miou_holdout", "aacc", "macs")] == ["mIoU", "mIoU holdout", "aAcc", "macs"]
    assert (percent(None), percent(1.239), count(None), count(1.5e9)) == ("–", "1.24", "–", "1.50G")
    assert shown_settings({"lr": 0.001234, "n": 3, "loss": "ohem"}) == "lr 0.00123 n 3 loss ohem"
    assert reason_of(trial(0)) == ""


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_tables_fit_the_terminal_and_nothing_is_cut(width: int, soft_wrap: bool) -> None:
    genes = "4:own1 3:- 2:4 | k32 self | lpm eca | ffn 0 | fca 128/8"
    reason = "over budget: macs 338M > 330M, params 7.14M > 7.00M"
    study = view(
        trial(0, origin="preset:canet_fca", short=genes, on_front=True, settings={"lr": 0.00123, "drop_path": 0.1}),
        trial(1, "rejected", short=genes, reason=reason),
    )
    for table, heads in ((trial_table(study, study.trials, width=width), ["state", "reason"]), (front_table(study, width=width), [])):
        console = Console(file=io.StringIO(), width=width, color_system=None, soft_wrap=soft_wrap, highlight=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        head = next(line for line in lines if line.split()[:2] == ["#", "mIoU"]).split()
        together = [*head[:4], "trial"] == head
        assert together or head == ["#", "mIoU", "MACs", "params", "origin", "genes", "settings", *heads]
        assert not together or width < 160
        words = [word for line in lines for word in line.split()]
        for whole in ("50.00", "1.50G", "preset:canet_fca", "0.00123", *genes.split(), *(reason.split() if heads else [])):
            assert whole in words, f"{whole} is cut or broken at {width} columns"
