"""Time of a cost call: ``python bench/cost.py [--json]``.

For every published design, microseconds of the decoder's arithmetic and of ``nasseg.cost`` with its backbone remembered, in the best of
several batches; then seconds of the whole command when the backbone has to be counted and when it is remembered on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

import nasseg
from nasseg.cost.macs import decoder_cost
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.costing import backbone_facts

BACKBONE, SIZE, CLASSES = "mit_b0", (512, 512), 150
LIMIT = 100.0
"""Microseconds that the decoder's arithmetic may take."""


def microseconds(call: Callable[[], object], batch: int = 200, batches: int = 25) -> float:
    """Of one call, in the fastest batch."""
    best = float("inf")
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(batch):
            call()
        best = min(best, (time.perf_counter() - start) / batch)
    return best * 1e6


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure() -> dict[str, dict[str, float]]:
    """All figures: ``decoder`` and ``network`` in µs by preset, ``once`` in seconds."""
    arguments = ["cost", "scaseg", "--backbone", BACKBONE, "--size", "512x512", "--classes", str(CLASSES), "--json"]
    command = [sys.executable, "-c", "from nasseg.cli.main import run; run()", *arguments]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NASSEG_CACHE"] = cache
        first = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        second = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        read = seconds(lambda: backbone_facts(BACKBONE, SIZE))
        channels, _ = backbone_facts(BACKBONE, SIZE)
        networks = {name: preset(name, BACKBONE) for name in PRESETS}
        decoder = {name: microseconds(lambda g=g: decoder_cost(g, channels, SIZE, CLASSES)) for name, g in networks.items()}
        network = {name: microseconds(lambda g=g: nasseg.cost(g, size=SIZE, num_classes=CLASSES)) for name, g in networks.items()}
    return {
        "decoder": decoder,
        "network": network,
        "once": {"command, first time": first, "command, again": second, "backbone read back": read},
    }


def main() -> int:
    """Print the figures; 1 if a decoder takes longer than :data:`LIMIT`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    given = parser.parse_args()
    figures = measure()
    slow = [name for name, value in figures["decoder"].items() if value > LIMIT]
    if given.json:
        print(json.dumps({**figures, "slow": slow}))
        return int(bool(slow))
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("design")
    table.add_column("decoder_cost µs", justify="right")
    table.add_column("nasseg.cost µs", justify="right")
    for name in figures["decoder"]:
        table.add_row(name, f"{figures['decoder'][name]:.1f}", f"{figures['network'][name]:.1f}")
    console.print(table)
    for name, value in figures["once"].items():
        console.print(f"{name}: {value:.3f} s")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
