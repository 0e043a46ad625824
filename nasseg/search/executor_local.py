"""Runs a study on this machine without Ray: in this process for one trial at a time, in spawned processes for more."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from nasseg.cores import wait_passively
from nasseg.log import forwarded, relay
from nasseg.search.candidate import Proposal
from nasseg.search.study import Study
from nasseg.search.worker import LOST, Losses, Stopped, execute, timed_out
from nasseg.training.trial import Result, Trial

Progress = Callable[[int, int, Mapping[str, float]], None]
"""``progress(number, iteration, metrics)`` of a running trial."""

TIMEOUT_SECONDS = 0.5
"""How often trials that may not run for ever are looked at."""

PROGRESS_SECONDS = 0.25
"""A worker sends no more than one progress message in this time."""


def run_local(
    study: Study, *, concurrency: int, progress: Progress, lost: Callable[[int, str], None], timeout: float | None = None
) -> None:
    """Run the study to its end. ``lost(number, why)`` is called when a worker went away and its trial is tried again.

    ``timeout``: seconds a trial may take; a process of its own is ended then, so even one trial at a time runs in one.

    Ctrl-C (KeyboardInterrupt) ends it at once: running trials stay running in the journal and go on from their checkpoints next time.
    """
    if concurrency == 1 and timeout is None:
        run_here(study, progress)
        return
    pool = Pool(concurrency, timeout)
    try:
        pool.run(study, progress, lost)
    finally:
        pool.stop()


def run_here(study: Study, progress: Progress) -> None:
    """One trial after the other, in this process."""
    while (proposal := study.propose()) is not None:
        number = proposal.number

        def report(iteration: int, metrics: Mapping[str, float], number: int = number) -> bool:
            progress(number, iteration, metrics)
            return False

        study.tell(number, execute(proposal.trial, report).result)


@dataclass
class Worker:
    """One process and what it runs."""

    process: Any
    pipe: connection.Connection
    proposal: Proposal | None = None
    started: float = 0.0


@dataclass
class Pool:
    """Long-lived worker processes, started when first needed. One that dies (killed, out of memory, crash) is replaced."""

    size: int
    timeout: float | None = None
    workers: list[Worker] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)

    def run(self, study: Study, progress: Progress, lost: Callable[[int, str], None]) -> None:
        """Keep every worker busy until nothing is left to propose and nothing runs."""
        again: list[Proposal] = []
        while True:
            while self.idle() is not None:
                proposal = again.pop() if again else study.propose()
                if proposal is None:
                    break
                self.give(proposal)
            busy = [worker for worker in self.workers if worker.proposal is not None]
            if not busy:
                return
            for ready in connection.wait([worker.pipe for worker in busy], None if self.timeout is None else TIMEOUT_SECONDS):
                worker = next(w for w in busy if w.pipe is ready)
                assert worker.proposal is not None
                number = worker.proposal.number
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    why = self.bury(worker)
                    if self.losses.count(worker.proposal) >= LOST:
                        study.fail(number, f"its worker was lost {LOST} times without progress; the last {why}", lost=True)
                    else:
                        lost(number, why)
                        again.append(worker.proposal)
                    continue
                if kind == "progress":
                    progress(number, *content)
                elif kind == "log":
                    relay(f"trial {number}", *content)
                else:
                    worker.proposal = None
                    study.tell(number, Result.from_dict(content))
            self.end_late(study)

    def end_late(self, study: Study) -> None:
        """End the processes whose trial has run for too long."""
        for worker in [w for w in self.workers if w.proposal is not None]:
            seconds = time.monotonic() - worker.started
            if self.timeout is not None and seconds > self.timeout and worker.proposal is not None:
                worker.process.kill()
                self.bury(worker)
                study.tell(worker.proposal.number, timed_out(self.timeout, seconds))

    def idle(self) -> Worker | None:
        """A worker without a trial, a new one where the pool is not full, None where all are busy."""
        free = next((worker for worker in self.workers if worker.proposal is None), None)
        if free is None and len(self.workers) < self.size:
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            process = context.Process(
                target=serve, args=(there, max(1, (os.cpu_count() or 1) // self.size)), daemon=False, name="nasseg-trial"
            )
            process.start()
            there.close()
            free = Worker(process, here)
            self.workers.append(free)
        return free

    def give(self, proposal: Proposal) -> None:
        """Hand a trial to an idle worker."""
        worker = self.idle()
        assert worker is not None
        worker.proposal, worker.started = proposal, time.monotonic()
        try:
            worker.pipe.send(proposal.trial.to_dict())
        except OSError:
            # Died while idle: reading from its pipe will find out.
            return

    def bury(self, worker: Worker) -> str:
        """Take a dead worker out of the pool; why it died, in words."""
        worker.pipe.close()
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        self.workers.remove(worker)
        code = worker.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"was killed by {name}" + (", out of memory perhaps" if name == "SIGKILL" else "")
        return f"ended with exit code {code}"

    def stop(self) -> None:
        """End every worker, busy or not, within seconds."""
        for worker in self.workers:
            worker.process.terminate()
        deadline = time.monotonic() + 3
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.workers.clear()


def serve(pipe: connection.Connection, threads: int) -> None:
    """A worker's life: take a trial, run it, send the result, until the driver is gone."""
    # Ctrl-C goes to the whole process group; the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    wait_passively()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=leave_with, args=(parent.sentinel,), daemon=True).start()
    logging.captureWarnings(True)
    sending = threading.Lock()

    def send(kind: str, content: object) -> None:
        with sending:
            pipe.send((kind, content))

    def send_log(logger: str, level: int, text: str) -> None:
        with contextlib.suppress(OSError):
            send("log", (logger, level, text))

    try:
        with forwarded(send_log):
            while True:
                trial = Trial.from_dict(pipe.recv())
                send("done", execute(trial, reporter(send)).result.to_dict())
    except (EOFError, OSError, Stopped):
        return


def leave_with(sentinel: int) -> None:
    """End this process as soon as its parent is gone: a killed driver leaves no worker training on."""
    connection.wait([sentinel])
    os._exit(1)


def reporter(send: Callable[[str, object], None]) -> Callable[[int, Mapping[str, float]], bool]:
    """A report that sends at most one message every quarter of a second."""
    last = 0.0

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            try:
                send("progress", (iteration, dict(metrics)))
            except OSError as error:
                raise Stopped from error
        return False

    return report
