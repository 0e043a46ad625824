"""Several processes that train one network together: which one this is, and what they tell each other.

Each process (rank) computes its share of every batch. Numbers of control (counts, losses, flags) go through the CPU, gradients through the
device. What one process alone finds wrong is told to all, so that all end in the same place with the same sentence, said once.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nasseg.errors import ConfigError, NassegError, Problem, RunFailed
from nasseg.training.device import resolve_device, seed_everything

Found = TypeVar("Found")

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others: longer than any one of them reads or writes alone."""

LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "ProcessGroup", "store->get")
"""Words of torch's errors where another process has gone."""


class OwnFailure(RunFailed):
    """What ended this process and not the others, which cannot know it: it says so itself, whatever its rank."""


class PeerLost(RunFailed):
    """Another process has gone. That one has said why, or its launcher does."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run: ``rank`` of ``ranks``, this one's CUDA ``device`` (None: the CPU), the command line that started them."""

    rank: int = 0
    ranks: int = 1
    device: torch.device | None = None
    launcher: str = "nasseg"

    @property
    def first(self) -> bool:
        """Whether this process writes, logs and reports for all."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """This process's images of a batch; raises :class:`ConfigError` where they cannot be split evenly."""
        if batch_size % self.ranks:
            nearest = max(self.ranks, round(batch_size / self.ranks) * self.ranks)
            rule = f"is split evenly over {self.ranks} processes, so it must be a multiple of {self.ranks}"
            raise ConfigError(Problem("trainer", "batch_size", rule, batch_size, nearest))
        return batch_size // self.ranks

    def place(self, name: str) -> torch.device:
        """The device of a run whose ``device`` setting is ``name``; :class:`ConfigError` for one that is not there."""
        if self.ranks == 1 or name == "cpu" or (self.device is None and not name.startswith("cuda:")):
            return resolve_device(name)
        if self.device is None or name.startswith("cuda:"):
            rule = f"each of {self.ranks} processes has a device of its own"
            raise ConfigError(Problem("trainer", "device", rule, name, "cpu" if self.device is None else "cuda"))
        return self.device

    def seed(self, seed: int) -> None:
        """After the weights were drawn alike: random numbers of its own for every process but the first."""
        if not self.first:
            seed_everything(int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each. Changes ``values``."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(flag) if self.ranks == 1 else bool(self.sum(torch.tensor([float(flag)])).item())

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank. Plain data, not tensors of a device."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def agree(self, error: NassegError | None = None) -> None:
        """Raise in all processes what one of them found wrong (the lowest rank's, where several did); all call this at the same point."""
        if self.any(error is not None):
            raise next(found for found in self.gather(error) if found is not None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block in which a process may find something wrong on its own: afterwards all agree. There is no collective inside."""
        found: NassegError | None = None
        try:
            yield
        except NassegError as error:
            found = error
        self.agree(found)

    def lead(self, act: Callable[[], Found]) -> Found | None:
        """``act`` in the first process alone, the others wait for it; what it raises is raised in all. None in the others."""
        made: Found | None = None
        with self.together():
            if self.first:
                made = act()
        return made


ALONE = World()

_standing: list[World] = [ALONE]


def world() -> World:
    """The processes this one trains with: those of the innermost :func:`joined` or :func:`standing` block, else itself alone."""
    return _standing[-1]


@contextlib.contextmanager
def standing(made: World) -> Iterator[World]:
    """Inside the block this process is one of ``made``, whose process group exists."""
    _standing.append(made)
    try:
        yield made
    finally:
        _standing.pop()


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes torchrun started beside this one; alone where it was not started by torchrun, or as the only one.

    gloo on CPUs, NCCL on CUDA devices, where local rank r takes device r. Raises :class:`ConfigError` where there are too few of them.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield ALONE
        return
    made = World(int(os.environ["RANK"]), ranks, own_device(int(os.environ.get("LOCAL_RANK", "0"))), torchrun(ranks))
    dist.init_process_group("gloo" if made.device is None else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    with standing(made):
        yield made
    # Not where an error leaves: a group that has lost a member would wait for it.
    dist.destroy_process_group()


def own_device(local_rank: int) -> torch.device | None:
    """The CUDA device of a process by its number on this machine; None where there are none."""
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(Problem("torchrun", "--nproc-per-node", "one process for each CUDA device at most", local_rank + 1, count))
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def torchrun(ranks: int) -> str:
    """The beginning of a command line that starts as many processes again."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    nodes = [] if local == ranks else ["--nnodes", str(ranks // local)]
    return shlex.join(["torchrun", *nodes, "--nproc-per-node", str(local), "-m", "nasseg"])


def speaks(here: World, error: NassegError) -> bool:
    """Whether this process is the one to say what ended the run: the first, or the one that failed alone."""
    return isinstance(error, OwnFailure) or (here.first and not (isinstance(error, PeerLost) and here.ranks > 1))


def peer_lost(error: BaseException) -> bool:
    """Whether an error says that another process has gone."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)
