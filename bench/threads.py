"""How threads that wait cost on a busy machine: ``python bench/threads.py [--load 2] [--threads 2] [--rounds 3] [--seconds 6]``.

Seconds of one training iteration (forward, cross-entropy, backward, AdamW; ``--preset`` on ``--backbone``, ``--batch`` images of
``--size``, float32, CPU) for each way in which the OpenMP threads behind PyTorch wait for each other at the end of every parallel loop:

* *active*: they spin (``OMP_WAIT_POLICY=active``; what libgomp does for a while where nothing is set);
* *passive*: they sleep (``OMP_WAIT_POLICY=passive``, which ``nasseg`` sets where nothing else is said);

and with one thread, where nobody waits. ``--load N`` starts N processes that compute without end, as other users of the machine would. The
policy is read when the library is loaded, so each measurement is a process of its own; the ways take turns, ``--rounds`` times. Printed are
the median of an iteration over all rounds, and the machine's load average before and after.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

WARM_UP = 3


def iterations(options: argparse.Namespace, threads: int) -> list[float]:
    """Seconds of each training iteration within ``--seconds``, in this process."""
    # Loaded here: the parent starts processes that read OpenMP's settings at this moment.
    import torch  # noqa: PLC0415

    import nasseg  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    height, width = (int(side) for side in options.size.split("x"))
    model = nasseg.build(nasseg.preset(options.preset, backbone=options.backbone), num_classes=11).train()
    model = model.to(memory_format=torch.channels_last)
    x_BCHW = torch.randn(options.batch, 3, height, width).to(memory_format=torch.channels_last)
    y_BHW = torch.randint(0, 11, (options.batch, height, width))
    optimizer = torch.optim.AdamW(model.parameters())
    taken: list[float] = []
    end = 0.0
    while len(taken) < WARM_UP + 1 or time.perf_counter() < end:
        if len(taken) == WARM_UP:
            end = time.perf_counter() + options.seconds
        begin = time.perf_counter()
        logits = torch.nn.functional.interpolate(model(x_BCHW), size=(height, width), mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, y_BHW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - begin)
    return taken[WARM_UP:]


def busy() -> None:
    """Compute until somebody ends the process."""
    while True:
        sum(range(100_000))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of the process that trains")
    parser.add_argument("--load", type=int, default=0, help="processes that compute beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--preset", default="csap")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--size", default="96x128")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(*iterations(options, options.child))
        return
    ways = {"active": (options.threads, "active"), "passive": (options.threads, "passive"), "one thread": (1, "passive")}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    before = os.getloadavg()[0]
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(options.load)]
    for other in others:
        other.start()
    try:
        for _ in range(options.rounds):
            for name, (threads, policy) in ways.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--child", str(threads)]
                environment = {**os.environ, "OMP_WAIT_POLICY": policy}
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                taken[name] += [float(word) for word in ran.stdout.split()]
    finally:
        for other in others:
            other.terminate()
    print(
        f"{options.preset} on {options.backbone}, {options.batch} images of {options.size}, {options.threads} threads on "
        f"{len(os.sched_getaffinity(0))} cores beside {options.load} busy processes; load average {before:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after"
    )
    for name, values in taken.items():
        print(f"{name:>10}: {statistics.median(values) * 1e3:7.0f} ms an iteration (median of {len(values)})")


if __name__ == "__main__":
    main()
