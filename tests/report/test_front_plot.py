from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from nasseg.report.front_plot import axes_of, draw_front, save_front, title_of
from nasseg.search.view import StudyView, TrialView

CONFIG = {
    "budget": {"macs": 2e9},
    "space": {"name": "tiny"},
    "data": {"name": "streets"},
    "size": [96, 128],
    "backbones": ["mit_b0"],
}


def trial(number: int, miou: float, macs: float, **more: Any) -> TrialView:
    return TrialView(
        number=number, state="complete", metrics={"miou": miou}, cost={"macs": macs}, values=(miou, macs), **{"origin": "sampler", **more}
    )


STUDY = StudyView(
    path=Path("results/first"),
    trials=(
        trial(0, 50.0, 1e9, origin="preset:csap", on_front=True),
        trial(1, 40.0, 1.5e9),
        trial(2, 60.0, 1.8e9, on_front=True),
        trial(3, 45.0, 1.9e9, origin="preset:canet_fca"),
        TrialView(number=4, state="rejected", origin="sampler", cost={"macs": 3e9}),
    ),
    objectives={"miou": "max", "macs": "min"},
    config=CONFIG,
)


def test_what_is_drawn() -> None:
    axes = draw_front(STUDY).axes[0]
    points = {str(c.get_label()): [tuple(map(float, xy)) for xy in c.get_offsets()] for c in axes.collections}
    assert points == {
        "trial": [(1.5, 40.0)],
        "published design": [(1.0, 50.0), (1.9, 45.0)],
        "front": [(1.0, 50.0), (1.8, 60.0)],
    }
    line, budget = axes.lines
    assert line.get_xydata().tolist() == [[1.0, 50.0], [1.8, 60.0]]
    assert list(budget.get_xdata()) == [2.0, 2.0]
    assert sorted(text.get_text() for text in axes.texts) == ["0", "2", "canet_fca", "csap"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("MACs (G)", "mIoU (%)")
    assert axes.get_title(loc="left") == "results/first · tiny · streets 96x128 · mit_b0"


def test_axes_follow_the_objectives() -> None:
    assert axes_of({"miou": "max", "macs": "min"}) == ("macs", "miou")
    assert axes_of({"params": "min", "miou_holdout": "max"}) == ("params", "miou_holdout")
    assert axes_of({"miou": "max"}) == ("macs", "miou")
    assert axes_of({"decoder_macs": "min"}) == ("decoder_macs", "miou")


def test_picture_of_a_study_with_nothing_in_it(tmp_path: Path) -> None:
    path = save_front(StudyView(path=tmp_path, trials=(), objectives={"miou": "max"}), tmp_path / "front.png")
    with Image.open(path) as image:
        assert image.size == (1200, 750)


def test_picture(tmp_path: Path) -> None:
    with Image.open(save_front(STUDY, tmp_path / "front.png")) as image:
        assert image.format == "PNG"
        # The front's red and the presets' blue are there.
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert {(192, 57, 43), (31, 78, 121)} <= colours
    assert title_of(StudyView(path=Path("x"), trials=(), objectives={})) == "x"
