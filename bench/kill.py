"""Kill the driver of a real search with SIGKILL at random moments, give the same command again, and count what was lost.

    python bench/kill.py                      # Ray, three kills, the proxy recipe on the built-in streets
    python bench/kill.py --executor local --concurrency 2 --kills 10 --trials 20

Prints one row: told trials lost, trials trained twice, zombies, processes left, trials at the end. All but the last must be zero.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from nasseg.search.store import read_study
from nasseg.search.view import RUNNING, WAITING, StudyView


def told(view: StudyView) -> dict[int, tuple[str | None, str, tuple[float, ...] | None]]:
    """What the study has been told: by number, genotype, state and values."""
    return {t.number: (t.id, t.state, t.values) for t in view.trials if t.state not in (RUNNING, WAITING)}


def left_behind(drivers: list[int]) -> set[int]:
    """Processes of these drivers that still live: of their session, or of the Ray they started."""
    listing = subprocess.run(["ps", "-eo", "pid=,sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in listing.splitlines():
        number, session, state, command = line.split(None, 3)
        ours = int(session) in drivers or any(f"nasseg-ray-{driver}-" in command for driver in drivers)
        if ours and not state.startswith("Z"):
            found.add(int(number))
    return found


def handed_out(out: Path) -> int:
    """How often a trial was started or taken up again, by the log."""
    log = out / "search.log"
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return text.count(" started (") + text.count(" goes on, attempt ")


def twice(view: StudyView) -> int:
    """Trials trained more than once: equal keys told as trained under two numbers, or a number that ended twice in the log."""
    keys = Counter(t.key for t in view.trials if t.trained)
    log = (view.path / "search.log").read_text(encoding="utf-8")
    ends = Counter(
        line.split()[2] for line in log.splitlines() if line[20:].partition(" ")[2].startswith("trial ") and " complete: " in line
    )
    return sum(n - 1 for n in keys.values()) + sum(n - 1 for n in ends.values())


@click.command()
@click.option("--executor", default="ray", show_default=True)
@click.option("--concurrency", default=2, show_default=True)
@click.option("--kills", default=3, show_default=True)
@click.option("--trials", default=10, show_default=True)
@click.option("--iterations", default=40, show_default=True, help="Of the proxy recipe.")
@click.option("--wait", default="0:60", show_default=True, help="Seconds from a driver's first trial to its kill: LOWEST:HIGHEST.")
@click.option("--seed", default=0, show_default=True)
@click.argument("more", nargs=-1)
def main(executor: str, concurrency: int, kills: int, trials: int, iterations: int, wait: str, seed: int, more: tuple[str, ...]) -> None:
    """Kill and start again. MORE goes to nasseg search behind the other options."""
    lowest, highest = (float(text) for text in wait.split(":"))
    rng = random.Random(seed)
    drivers: list[int] = []
    with tempfile.TemporaryDirectory(prefix="nasseg-kill-") as folder:
        out = Path(folder) / "study"
        command = [
            str(Path(sys.executable).with_name("nasseg")), "search", "tiny", "--backbone", "mit_b0", "--size", "64x96",
            "--data", "synthetic?train=8&val=4&size=64x96", "--budget", "macs=62M", "--trials", str(trials), "--out", str(out),
            "--executor", executor, "--concurrency", str(concurrency), "--set", f"trainer.iterations={iterations}",
            "--set", "trainer.checkpoint_every=5", *more,
        ]  # fmt: skip
        remembered: dict[int, tuple[str | None, str, tuple[float, ...] | None]] = {}
        lost = killed = starts = 0
        started = time.monotonic()
        while True:
            starts += 1
            with open(Path(folder) / "output.txt", "ab") as output:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            drivers.append(process.pid)
            handed = handed_out(out)
            deadline = None
            while process.poll() is None and (deadline is None or time.monotonic() < deadline):
                # The clock runs from the first trial this driver hands out: a machine may be slow to start.
                if killed < kills and deadline is None and handed_out(out) > handed:
                    deadline = time.monotonic() + rng.uniform(lowest, highest)
                time.sleep(0.05)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            if (out / "study.yaml").is_file():
                view = read_study(out)
                remembered |= told(view)
                running = [t.number for t in view.trials if t.state in (RUNNING, WAITING)]
                print(f"kill {killed}: {sum(t.trained for t in view.trials)} told, {running} running or queued", flush=True)
            else:
                print(f"kill {killed}: before anything was written", flush=True)
        if process.returncode:
            sys.exit((Path(folder) / "output.txt").read_text(encoding="utf-8"))
        view = read_study(out)
        final = told(view)
        lost = sum(final.get(number) != content for number, content in remembered.items())
        zombies = sum(t.state in (RUNNING, WAITING) for t in view.trials if t.attempt)
        deadline = time.monotonic() + 90
        while (left := left_behind(drivers)) and time.monotonic() < deadline:
            time.sleep(1)
        table = Table(
            "executor", "kills", "starts", "told lost", "trained twice", "zombies", "processes left", "trained", "wanted", "seconds"
        )
        seconds = f"{time.monotonic() - started:.0f}"
        trained = sum(t.trained for t in view.trials)
        table.add_row(*map(str, (executor, killed, starts, lost, twice(view), zombies, len(left), trained, trials, seconds)))
        Console(width=140).print(table)
        resumed = [t.number for t in view.trials if t.attempt > 1]
        print(f"trials that went on after a kill: {resumed}")
        sys.exit(1 if lost or twice(view) or zombies or trained != trials else 0)


if __name__ == "__main__":
    main()
