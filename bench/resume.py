"""Kills a training of two processes and goes on: ``python bench/resume.py [--kills 3] [--ranks 2] [--data SPEC]``.

The data are packed into Parquet shards first. One run goes through; a second one, the same command, is ended with SIGKILL (torchrun and
all its processes) when its log has reached a random iteration, and given again with ``--resume``, as often as ``--kills`` says. Printed:
where it was killed, and whether every loss, learning rate and measured number of the two logs and the weights they leave are equal to the
last digit. Exit code 1 where they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

NASSEG = ["-m", "nasseg"]
WAIT = 0.2
"""Seconds between two looks at a log."""


def launched(ranks: int, arguments: list[str], text: Path) -> subprocess.Popen[bytes]:
    """The command a user types, its words in a file."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *NASSEG] if ranks > 1 else NASSEG
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with text.open("ab") as words:
        return subprocess.Popen([sys.executable, *start, *arguments], stdout=words, stderr=subprocess.STDOUT, env=environment)


def rows(run: Path) -> list[dict[str, str]]:
    """The whole lines of a run's log, without the seconds."""
    log = run / "log.csv"
    if not log.is_file():
        return []
    with log.open(encoding="utf-8", newline="") as file:
        timed = ("seconds", "images_per_second")
        return [{key: value for key, value in row.items() if key not in timed} for row in csv.DictReader(file) if row.get("loss")]


def ended(process: subprocess.Popen[bytes], text: Path) -> None:
    """Wait for the end of a run that is to succeed."""
    if process.wait():
        raise SystemExit(f"a run ended with exit code {process.returncode}:\n{text.read_text(encoding='utf-8')[-2000:]}")


def family(pid: int) -> list[int]:
    """A process and all below it (Linux): torchrun gives each process it starts a session of its own, so a group's signal misses them."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def killed(process: subprocess.Popen[bytes], run: Path, at: int) -> int:
    """SIGKILL to the launcher and all its processes when the log holds iteration ``at``; the last iteration it holds then."""
    while len(rows(run)) < at:
        if process.poll() is not None:
            raise SystemExit(f"the run ended (exit code {process.returncode}) before iteration {at}")
        time.sleep(WAIT)
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(rows(run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:streets?train=24&val=4&size=64x96")
    parser.add_argument("--preset", default="csap")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--size", default="64x96")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        shards, through, interrupted, text = (Path(folder, name) for name in ("shards", "through", "interrupted", "words.txt"))
        ended(launched(1, ["data", "pack", "--data", options.data, "--out", str(shards), "--rows-per-group", "4"], text), text)
        settings = {
            "iterations": options.iterations,
            "val_every": options.iterations // 2,
            "checkpoint_every": options.checkpoint_every,
            "batch_size": options.batch,
            "threads": 1,
        }
        command = ["train", options.preset, "--data", f"shards:{shards}", "--backbone", options.backbone, "--size", options.size]
        for name, value in settings.items():
            command += ["--set", f"trainer.{name}={value}"]
        console.print(f"{options.ranks} processes, {options.iterations} iterations, a checkpoint every {options.checkpoint_every}")
        ended(launched(options.ranks, [*command, "--out", str(through)], text), text)
        moments = sorted(draw.sample(range(2, options.iterations - 1), options.kills))
        for at in moments:
            had = killed(launched(options.ranks, [*command, "--out", str(interrupted), "--resume"], text), interrupted, at)
            console.print(f"killed at iteration {had}")
        ended(launched(options.ranks, [*command, "--out", str(interrupted), "--resume"], text), text)
        one, other = rows(through), rows(interrupted)
        differing = [a["iteration"] for a, b in zip(one, other, strict=False) if a != b]
        weights = (through / "model.safetensors").read_bytes() == (interrupted / "model.safetensors").read_bytes()
        equal = len(one) == len(other) == options.iterations and not differing and weights
        console.print(f"log lines {len(one)} and {len(other)}, differing {differing or 'none'}; weights {'equal' if weights else 'DIFFER'}")
        return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
