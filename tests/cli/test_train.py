"""nasseg train: targets, refusals, stopping, going on."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kits_trainer import DATA, TINY, call
from rich.console import Console

from nasseg.cli import run_view, target
from nasseg.cli.run_view import RunView, bar, collapse_lines, result_table, stop_switch
from nasseg.cli.target import Asked, natural_size, trial_of
from nasseg.errors import ConfigError
from nasseg.genes.presets import preset
from nasseg.search.store import Picked
from nasseg.training.collapse import Collapse
from nasseg.training.curves import read_log
from nasseg.training.rundir import RunDir

SHORT = ["--set", "trainer.iterations=3", "--set", "trainer.batch_size=2", "--set", "trainer.threads=1", "--set", "trainer.device=cpu"]


@pytest.fixture
def genotype(tmp_path: Path) -> str:
    TINY.save(tmp_path / "tiny.yaml")
    return str(tmp_path / "tiny.yaml")


def test_trains_and_says_where_everything_lies(genotype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Y"
    code, said, _ = call(["train", genotype, "--data", DATA, "--size", "64", "--out", str(out), *SHORT], capsys)
    assert code == 0
    assert "test_efficientnet · " in said
    assert f"11 classes · 64x64 · full, 3 iterations · seed 0 · {out}" in said
    assert "iteration 3/3 · loss " in said
    for word in ("road", "mIoU", "aAcc", "measured at iteration 3 on val, 4 images at 64x64", "original masks", "ema weights"):
        assert word in said
    for name in ("model.safetensors", "metrics.json", "log.csv", "curves.png"):
        assert str(out / name) in said
        assert (out / name).is_file()
    assert f"next:\n  nasseg export {out} --out bundles/Y\n" in said


def test_ctrl_c_saves_and_the_same_command_goes_on(
    genotype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "Y"
    command = ["train", genotype, "--data", DATA, "--size", "64", "--out", str(out), *SHORT]

    def pressed(self: RunView, iteration: int, metrics: Mapping[str, float]) -> None:
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(RunView, "show", pressed)
        code, said, _ = call(command, capsys)
    assert code == 130
    assert f"stopped at iteration 2 of 3; resume with: nasseg train --out {out} --resume" in said
    assert signal.getsignal(signal.SIGTERM) is before
    code, _, said = call(command, capsys)
    assert code == 2
    assert "holds this run already; add --resume to go on with it" in said
    code, said, _ = call(["train", "--out", str(out), "--resume"], capsys)
    assert code == 0
    assert [row["iteration"] for row in read_log(out / "log.csv")] == [1, 2, 3]
    code, said, _ = call([*command, "--resume"], capsys)
    assert code == 0
    assert "measured at iteration 3" in said


def test_a_run_that_fails_says_why(genotype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["--set", "trainer.lr=1e9", "--set", "trainer.warmup=0", "--set", "trainer.clip=0", "--set", "trainer.iterations=9"]
    code, _, said = call(["train", genotype, "--data", DATA, "--size", "64", "--out", str(tmp_path / "Y"), *SHORT[2:], *wild], capsys)
    assert code == 1
    assert " is nan at iteration " in said or " is infinite at iteration " in said
    assert "Traceback" not in said


REFUSED = [
    ([], "what to train"),
    (["u_mix"], "nearest legal: u_mixformer"),
    (["u_mixformer"], "names no backbone"),
    (["u_mixformer", "--backbone", "resnet999"], "resnet999"),
    (["u_mixformer", "--backbone", "mit_b0", "--set", "trainer.iteration=4"], "nearest legal: iterations"),
    (["u_mixformer", "--backbone", "mit_b0", "--set", "lmp=se"], "no such gene"),
    (["u_mixformer", "--backbone", "mit_b0", "--size", "big"], "a size is HEIGHTxWIDTH"),
    (["u_mixformer", "--backbone", "mit_b0", "--seed", "-1"], "--seed: must be a whole number from 0"),
    (["u_mixformer", "--backbone", "mit_b0", "--trainer", "ful"], "nearest legal: full"),
    (["u_mixformer", "--backbone", "mit_b0", "--data", "/no/such/folder"], "/no/such/folder"),
    (["--resume", "--seed", "1", "--data", "synthetic"], "must be given with --data, --seed"),
    (["u_mixformer", "--backbone", "mit_b0", "--pretrained", "--weights", "w.pth"], "--pretrained: gets published weights and --weights"),
    (["--resume"], "no such folder"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_refusals_are_one_sentence_and_leave_nothing(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = call(["train", *arguments, "--out", str(tmp_path / "Y")], capsys)
    assert code == 2
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def picked(**changes: Any) -> Picked:
    facts: dict[str, Any] = {
        "genotype": TINY,
        "settings": {"lr": 0.02},
        "fixed": {"iterations": 60, "lr": 0.5},
        "data": "camvid:/d",
        "size": (120, 160),
        "weights": "/w.safetensors",
        "pretrained": False,
        "trainer": "proxy",
        "seed": 7,
        "number": 3,
    }
    return Picked(**{**facts, **changes})


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A results folder results/X; what was picked from it."""
    asked: list[str] = []

    def pick(path: str) -> Picked:
        asked.append(path)
        return picked()

    monkeypatch.setattr(target, "is_study", lambda path: str(path) == "results/X")
    monkeypatch.setattr(target, "pick", pick)
    return asked


def test_a_trial_of_a_study_brings_what_was_searched(study: list[str]) -> None:
    found = trial_of("results/X:best", Asked())
    assert study == ["results/X:best"]
    assert (found.genotype, found.data, found.size, found.weights, found.seed) == (TINY, "camvid:/d", (120, 160), "/w.safetensors", 7)
    assert (found.trainer, found.settings, found.fidelity) == ("full", {"lr": 0.02}, 1.0)


def test_the_studys_own_recipe_brings_its_settings_too(study: list[str]) -> None:
    assert trial_of("results/X:3", Asked(trainer="proxy")).settings == {"iterations": 60, "lr": 0.02}


def test_the_command_line_goes_first(study: list[str]) -> None:
    asked = Asked(data="synthetic", size=(64, 64), seed=1, settings={"lr": 1.0}, genes={"lpm": "cbam"}, weights="/other")
    found = trial_of("results/X:3", asked)
    assert (found.data, found.size, found.seed, found.settings, found.weights) == ("synthetic", (64, 64), 1, {"lr": 1.0}, "/other")
    assert found.genotype == TINY.override({"lpm": "cbam"})


def test_weights_belong_to_their_backbone(study: list[str]) -> None:
    assert trial_of("results/X:3", Asked(backbone="timm:resnet18")).weights is None
    assert trial_of("results/X:3", Asked(backbone="resnet18")).genotype.backbone == "resnet18"
    assert trial_of("results/X:3", Asked(pretrained=True)).weights is None
    assert trial_of("results/X:3", Asked(pretrained=True)).pretrained is True


def test_a_study_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="neither a genotype file nor a published design"):
        trial_of("results/none:best", Asked())


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a genotype file nor a published design"):
        trial_of(str(tmp_path), Asked())


def test_presets_take_a_backbone_and_the_datas_own_size() -> None:
    found = trial_of("csap", Asked(backbone="mit_b0", data="synthetic"))
    assert found.genotype == preset("csap", "mit_b0")
    assert (found.size, found.data, found.seed) == ((96, 128), "synthetic", 0)


@pytest.mark.parametrize(("given", "size"), [("40x60", (32, 64)), ("600x900", (512, 768)), ("512x1024", (512, 1024))])
def test_natural_size(given: str, size: tuple[int, int]) -> None:
    assert natural_size(f"synthetic?size={given}&train=1&val=1") == size


def test_bars() -> None:
    assert [bar(p) for p in (0, 100, 50, 2.5, 0.7, 120, -3)] == ["", "█" * 20, "█" * 10, "▌", "▏", "█" * 20, ""]


def test_the_table_ends_with_the_worst_class_and_warnings_say_what_to_set() -> None:
    console = Console(width=140, color_system=None, record=True, file=io.StringIO())
    console.print(result_table({"miou": 30.0}, {"a": 60.0, "b": 0.0}, ("a", "b")))
    assert "worst class: b   0.00" in console.export_text()
    lines = collapse_lines(Collapse.of({"a": 60.0, "b": 0.0}, ["b"]), {"class_weights": "none", "iterations": 10}, {})
    said = [str(line) for line in lines]
    assert said[:2] == ["warning: every pixel is given to a: the network tells no classes apart", "warning: never predicted: b"]
    assert said[2:] == ["warning: to learn them: --set trainer.class_weights=sqrt_median_frequency"]
    assert collapse_lines(Collapse.of({"a": 60.0, "b": 10.0}, []), {}, {}) == []
    done = {"balance": 0.5, "class_weights": "sqrt_median_frequency"}
    assert len(collapse_lines(Collapse.of({"a": 60.0, "b": 0.0}, []), done, {})) == 1


def test_table_has_a_dash_where_the_union_is_empty() -> None:
    console = Console(width=60, file=None, record=True, quiet=False)
    with console.capture() as caught:
        console.print(result_table({"miou": 25.0, "miou_holdout": 12.0}, {"a": 50.0, "c": 0.0}, ("a", "b", "c")))
    lines = [line.split() for line in caught.get().splitlines()]
    assert ["a", "50.00", "█" * 10] in lines
    assert ["b", "–"] in lines
    assert ["c", "0.00"] in lines
    assert ["mIoU", "25.00", "█" * 5] in lines
    assert lines[-1][:3] == ["mIoU", "holdout", "12.00"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=140, force_terminal=True, color_system=None)
    with console.capture() as caught, RunView(console, 4) as view:
        for iteration in range(1, 5):
            view.show(iteration, {"loss": 0.5, "lr": 1e-3} | ({"miou": 33.0} if iteration == 3 else {}))
    assert "4/4" in caught.get()
    assert "loss 0.5000 · lr 1.00e-03" in caught.get()
    assert "mIoU 33.00" in caught.get()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_the_bar_and_its_numbers_are_whole_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(run_view.time, "monotonic", lambda: now[0])
    console = Console(width=width, force_terminal=True, color_system=None, soft_wrap=True)
    with console.capture() as caught, RunView(console, 20_000, 16) as view:
        for iteration in (1, 12_345):
            view.show(iteration, {"loss": 1.2345, "lr": 6e-5, "miou": 45.67})
            now[0] += 1000.0
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", caught.get()).replace("\r", "\n").splitlines()
    assert max(map(len, drawn)) <= width
    text = " ".join(" ".join(drawn).split())
    assert text.endswith("loss 1.2345 · lr 6.00e-05 · 12.34 it/s · 197.5 images/s · mIoU 45.67")
    assert "iteration 12345/20000" in text


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(run_view.time, "monotonic", lambda: now[0])
    console = Console(width=200, force_terminal=False)
    with console.capture() as caught, RunView(console, 10_000) as view:
        for iteration in range(1, 26):
            now[0] += 1.0
            view.show(iteration, {"loss": 0.5, "lr": 1e-3} | ({"miou": 33.0} if iteration == 15 else {}))
    assert caught.get().splitlines() == [
        "iteration 10/10000 · loss 0.5000 · lr 1.00e-03 · 1.00 it/s · 2:46:30 to go",
        "iteration 15/10000 · loss 0.5000 · lr 1.00e-03 · 1.00 it/s · mIoU 33.00 · 2:46:25 to go",
        "iteration 25/10000 · loss 0.5000 · lr 1.00e-03 · 1.00 it/s · mIoU 33.00 · 2:46:15 to go",
    ]


def test_a_second_ctrl_c_leaves_at_once() -> None:
    with stop_switch() as switch:
        os.kill(os.getpid(), signal.SIGTERM)
        assert switch.on
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_run_of_another_trial_is_refused(genotype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Y"
    command = ["train", genotype, "--data", DATA, "--size", "64", *SHORT, "--out", str(out)]
    RunDir.create(
        out,
        trial_of(
            genotype, Asked(data=DATA, size=(64, 64), settings={"iterations": 3, "batch_size": 2, "threads": 1, "device": "cpu", "lr": 0.1})
        ),
    )
    code, _, said = call([*command, "--resume"], capsys)
    assert code == 2
    assert "holds another run: trainer.lr 0.1 there, 0.0006 here; give another --out" in said
