"""Real processes as a user starts them: torchrun, Ray, signals."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kits_trainer import TINY, call

from nasseg.training.rundir import RunDir

pytestmark = pytest.mark.xdist_group("processes")

DATA = "synthetic:streets?seed=0&size=64x64&train=8&val=3"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ITERATIONS = 30
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(genotype: Path, out: Path, *launcher: str, iterations: int = ITERATIONS) -> list[str]:
    settings = {
        "iterations": iterations,
        "batch_size": 4,
        "threads": 1,
        "dropout": 0.3,
        "drop_path": 0.3,
        "ema": 0.9,
        "val_every": 10,
        "checkpoint_every": 3,
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"trainer.{name}={value}")]
    return [
        *(sys.executable, *launcher, "-m", "nasseg", "train", str(genotype), "--data", DATA),
        *("--size", "64", "--out", str(out), "--resume", *sets),
    ]


def losses(out: Path) -> list[tuple[str, str, str]]:
    """(iteration, rate, loss) of the log's whole lines, as they were written."""
    if not (out / "log.csv").is_file():
        return []
    lines = [line for line in (out / "log.csv").read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(row["iteration"], row["lr"], row["loss"]) for row in csv.DictReader(lines)]


def begin(arguments: list[str]) -> subprocess.Popen[str]:
    """In a session of its own, so that a signal reaches all of it and nothing else."""
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)


def until(child: subprocess.Popen[str], out: Path, rows: int) -> None:
    """Wait for so many rows of the log."""
    for _ in range(1800):
        if len(losses(out)) >= rows or child.poll() is not None:
            return
        time.sleep(0.05)
    pytest.fail(f"no {rows} iterations within 90 seconds")


def children(child: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started."""
    found = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not found.is_file():
        pytest.skip("this system does not tell a process's children")
    return [int(process) for process in found.read_text().split()]


@pytest.fixture(scope="module")
def genotype(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genotype") / "tiny.yaml"
    TINY.save(path)
    return path


@pytest.fixture(scope="module")
def straight(genotype: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes that nothing interrupts, and what it said."""
    out = tmp_path_factory.mktemp("straight") / "Y"
    child = begin(command(genotype, out, *TORCHRUN))
    said, wrong = child.communicate(timeout=180)
    assert child.returncode == 0, wrong
    return out, said


def test_torchrun_as_typed(straight: tuple[Path, str]) -> None:
    out, said = straight
    assert "· 2 processes" in said
    assert len(re.findall(r"measured at iteration [123]0 on val, 3 images at 64x64", said)) == 1
    assert "images/s" in said
    assert [int(iteration) for iteration, _, _ in losses(out)] == list(range(1, ITERATIONS + 1))
    run = RunDir.open(out)
    assert set(run.metrics["metrics"]) == {"miou", "macc", "aacc"}
    run.load_model()


def test_killed_at_a_random_point_and_gone_on_with_is_the_same_run(straight: tuple[Path, str], genotype: Path, tmp_path: Path) -> None:
    out = tmp_path / "Y"
    at = random.SystemRandom().randrange(4, 20)
    child = begin(command(genotype, out, *TORCHRUN))
    until(child, out, at)
    # torchrun's processes have sessions of their own.
    for process in (child.pid, *children(child)):
        os.kill(process, signal.SIGKILL)
    child.communicate()
    assert at <= len(losses(out)) < ITERATIONS, "killed too late to show anything"
    again = begin(command(genotype, out, *TORCHRUN))
    _, wrong = again.communicate(timeout=180)
    assert again.returncode == 0, wrong
    assert losses(out) == losses(straight[0]), f"killed at iteration {at}"
    assert (out / "model.safetensors").read_bytes() == (straight[0] / "model.safetensors").read_bytes()


def test_sigterm_saves_and_leaves_with_0(genotype: Path, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    child = begin(command(genotype, out, iterations=4000))
    until(child, out, 2)
    child.send_signal(signal.SIGTERM)
    said, wrong = child.communicate(timeout=60)
    assert child.returncode == 0, wrong
    done = len(losses(out))
    assert f"stopped at iteration {done} of 4000; resume with: nasseg train --out '{out}' --resume" in said
    state = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert state["iteration"] == done


def test_sigterm_to_a_process_of_several_stops_all(genotype: Path, tmp_path: Path) -> None:
    out = tmp_path / "Y"
    child = begin(command(genotype, out, *TORCHRUN, iterations=4000))
    until(child, out, 2)
    os.kill(children(child)[-1], signal.SIGTERM)
    said, wrong = child.communicate(timeout=90)
    assert child.returncode == 0, wrong
    assert f"resume with: torchrun --nproc-per-node 2 -m nasseg train --out {out} --resume" in said
    assert torch.load(out / "checkpoints" / "last.pt", weights_only=True)["iteration"] == len(losses(out))


def test_what_is_wrong_is_said_once(genotype: Path, tmp_path: Path) -> None:
    arguments = [word.replace("batch_size=4", "batch_size=5") for word in command(genotype, tmp_path / "Y", *TORCHRUN)]
    child = begin(arguments)
    _, wrong = child.communicate(timeout=120)
    sentence = "nasseg: trainer: batch_size: is split evenly over 2 processes, so it must be a multiple of 2 (given 5); nearest legal: 4"
    assert wrong.count(sentence) == 1
    assert wrong.count("nasseg: ") == 1
    assert not (tmp_path / "Y").exists()


def test_on_ray_stopped_by_sigterm_and_gone_on_with(straight: tuple[Path, str], genotype: Path, tmp_path: Path) -> None:
    out = tmp_path / "Y"
    arguments = [*command(genotype, out), "--executor", "ray", "--workers", "2"]
    child = begin(arguments)
    until(child, out, 1)
    child.send_signal(signal.SIGTERM)
    said, wrong = child.communicate(timeout=240)
    assert child.returncode == 0, wrong
    assert "· 2 processes" in said
    assert f"resume with: nasseg train --out {out} --resume --executor ray --workers 2" in said
    assert len(losses(out)) < ITERATIONS
    # What the first process logs is shown by the driver, once.
    torn = out / "checkpoints" / "last.pt"
    torn.rename(torn.with_name("previous.pt"))
    torn.write_bytes(b"torn")
    again = begin(arguments)
    _, wrong = again.communicate(timeout=240)
    assert again.returncode == 0, wrong
    assert [line.partition(" (")[0] for line in wrong.splitlines()] == [f"warning: training: {torn} cannot be read and is passed over"]
    assert losses(out) == losses(straight[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Y"]


REFUSED = [
    (["--executor", "slurm"], "--executor: must be one of local, ray"),
    (["--executor", "ray", "--workers", "0"], "--workers: must be a whole number from 1"),
    (["--executor", "ray", "--gpus-per-worker", "-1"], "--gpus-per-worker: must not be below 0"),
    (["--workers", "2"], "--workers: is for --executor ray; without Ray: torchrun"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_refusals(options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(["train", "scaseg", "--backbone", "mit_b0", "--out", str(tmp_path / "Y"), *options], capsys)
    assert code == 2
    assert sentence in said
    assert list(tmp_path.iterdir()) == []


def test_ray_inside_torchrun_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, said = call(["train", "scaseg", "--executor", "ray", "--out", str(tmp_path / "Y")], capsys)
    assert code == 2
    assert "torchrun has started this process already" in said
