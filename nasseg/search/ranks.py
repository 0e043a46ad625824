"""One trial in several processes on Ray: the ranks of a trial's own placement group, joined by torch.distributed.

The Tune actor of a trial holds no resources; each bundle of its placement group holds one rank. Ranks train
together as the processes of ``nasseg train --executor ray`` do (:mod:`nasseg.training.distributed`): each computes its share of a batch, so
that the result is that of one process with the whole batch. The actors are kept for the next trial. Only :mod:`nasseg.search.searcher` uses
this module, inside the actor of a trial.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nasseg.search.candidate import finite, unfinite
from nasseg.search.worker import LostProcess, attempt
from nasseg.training.distributed import TIMEOUT, PeerLost, World, standing
from nasseg.training.trial import Report, Result, Trial

POLL_SECONDS = 0.25
"""How long the trial's actor waits for a rank before it passes progress on."""

GRACE_SECONDS = 10.0
"""How long the other ranks may take to end after one of them has failed alone."""


class Rank:
    """One process of a trial. ``run`` takes one thread of the actor, ``progress`` and ``address`` the other."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[tuple[int, dict[str, float]]] = queue.SimpleQueue()

    def address(self) -> tuple[str, int]:
        """A host and a free port of this node, for the ranks to meet at."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind(("", 0))
            return host, int(free.getsockname()[1])

    def progress(self) -> list[tuple[int, dict[str, float]]]:
        """What was reported since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.messages.get_nowait())
        return found

    def run(self, trial: Mapping[str, Any], rank: int, ranks: int, master: tuple[str, int], cuda: bool) -> str:
        """Train as ``rank`` of ``ranks``; the result as JSON text, None in place of a result where another rank was lost."""
        device = torch.device("cuda", 0) if cuda else None
        if device is not None:
            torch.cuda.set_device(device)
        made = Trial.from_dict(trial)
        own = Path(made.workdir) if made.workdir is not None and rank == 0 else None
        dist.init_process_group(
            "gloo" if device is None else "cpu:gloo,cuda:nccl",
            init_method=f"tcp://{master[0]}:{master[1]}",
            rank=rank,
            world_size=ranks,
            timeout=TIMEOUT,
        )

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            if rank == 0:
                self.messages.put((iteration, {name: float(value) for name, value in metrics.items()}))
            return False

        with standing(World(rank, ranks, device, f"nasseg search --workers-per-trial {ranks}")):
            try:
                result = attempt(made if rank == 0 else replace(made, workdir=None), report, own, passed_on=(PeerLost,))
            except PeerLost:
                return json.dumps(None)
        # Not after a failure: a group that has lost a member would wait for it. The actors of a failed trial are ended.
        if result.status == Result.COMPLETE:
            dist.destroy_process_group()
        return json.dumps(finite(result.to_dict()))


class RankGroup:
    """The ranks of one trial's placement group.

    Args:
        workers: how many processes, one to each bundle.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.actors: list[Any] = []
        self.cuda = False

    def start(self) -> None:
        """Make sure that every rank has its process."""
        if self.actors:
            return
        group = ray.util.get_current_placement_group()
        # Ray leaves the empty bundle of the trial's actor out of the group it makes.
        for bundle in range(self.workers):
            needs = group.bundle_specs[bundle]
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
            options = {"num_cpus": needs.get("CPU", 0), "num_gpus": needs.get("GPU", 0), "scheduling_strategy": where}
            self.actors.append(ray.remote(Rank).options(max_concurrency=2, **options).remote())
        self.cuda = group.bundle_specs[0].get("GPU", 0) > 0

    def stop(self) -> None:
        """End every rank's process."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def train(self, trial: Trial, report: Report, own: Path | None) -> Result:
        """Train one trial in all ranks.

        Args:
            trial: with the attempt's folder and the checkpoint it starts from.
            report: called with the first rank's progress; what it raises ends the ranks.
            own: the attempt's folder (the first rank writes into it).

        Returns:
            The first rank's result, or that of the rank that failed alone.

        Raises:
            LostProcess: a process went away.
        """
        self.start()
        try:
            master = ray.get(self.actors[0].address.remote())
            runs = [actor.run.remote(trial.to_dict(), rank, self.workers, master, self.cuda) for rank, actor in enumerate(self.actors)]
            results = self._wait(runs, report)
        except RayActorError as error:
            self.stop()
            raise LostProcess(f"a process of the trial was lost ({str(error).strip().splitlines()[0]})") from error
        except BaseException:
            self.stop()
            raise
        failed = next((result for result in results if result is not None and result.status == Result.FAILED), None)
        if failed is not None or None in results:
            self.stop()
        if failed is not None:
            return failed
        if results[0] is None or None in results:
            raise LostProcess("a process of the trial was lost")
        return results[0]

    def _wait(self, runs: list[Any], report: Report) -> list[Result | None]:
        """Results by rank. After one rank has failed, those that do not end soon are given up (None)."""
        left, deadline = list(runs), float("inf")
        while left and time.monotonic() < deadline:
            done, left = ray.wait(left, num_returns=len(left), timeout=POLL_SECONDS)
            for iteration, metrics in ray.get(self.actors[0].progress.remote()):
                report(iteration, metrics)
            report(0, {})
            ended = [_result(text) for text in ray.get(done)]
            if any(result is None or result.status == Result.FAILED for result in ended):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        return [None if run in left else _result(ray.get(run)) for run in runs]


def _result(text: str) -> Result | None:
    content = json.loads(text)
    return None if content is None else Result.from_dict(unfinite(content))
