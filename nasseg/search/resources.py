"""Where trials run, and what each may use."""

from __future__ import annotations

from dataclasses import dataclass

from nasseg.errors import ConfigError, Problem, nearest

EXECUTORS = ("ray", "local")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where trials run and what each may use; none of it changes a result, so all of it may change when a study goes on.

    ``concurrency`` trials run at a time, each with ``cpus`` and ``gpus`` (fractions share one). A trial runs in ``workers`` processes that
    train together, each with an equal part of its CPUs and GPUs; None is one process for each GPU. ``address`` joins a Ray cluster; its
    nodes must see ``out`` and the data under the same paths. A trial that runs for more than ``timeout`` seconds fails.
    """

    executor: str = "ray"
    concurrency: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    workers: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        if self.workers is not None and self.workers < 1:
            problems.append(Problem("", "--workers-per-trial", "must be a whole number from 1", self.workers, 1))
        elif self.workers is not None and self.gpus > 0 and self.workers != max(1, self.gpus):
            rule = f"a process uses one GPU, no more and no less, so {self.gpus:g} GPUs a trial want {max(1, self.gpus):g}"
            problems.append(Problem("", "--workers-per-trial", rule, self.workers, max(1, int(self.gpus))))
        if self.timeout is not None and self.timeout <= 0:
            problems.append(Problem("", "--trial-timeout", "must be above 0 seconds", self.timeout, 600))
        if self.executor == "local" and self.processes > 1:
            problems.append(Problem("", "--workers-per-trial", "several processes a trial need --executor ray", self.processes, 1))
        if self.executor not in EXECUTORS:
            known = ", ".join(EXECUTORS)
            problems.append(Problem("", "--executor", f"must be one of {known}", self.executor, nearest(self.executor, EXECUTORS)))
        if self.concurrency < 1:
            problems.append(Problem("", "--concurrency", "must be a whole number from 1", self.concurrency, 1))
        if self.cpus <= 0:
            problems.append(Problem("", "--cpus-per-trial", "must be above 0", self.cpus, 1))
        if self.gpus < 0:
            problems.append(Problem("", "--gpus-per-trial", "must not be below 0", self.gpus, 0))
        if self.gpus > 1 and self.gpus % 1:
            problems.append(
                Problem("", "--gpus-per-trial", "is a share of one GPU, or a whole number of them", self.gpus, round(self.gpus))
            )
        if self.address is not None and self.executor != "ray":
            problems.append(Problem("", "--address", "joins a Ray cluster, which the local executor does not use", self.address))
        if self.address is not None and self.address.startswith("ray://"):
            problems.append(Problem("", "--address", "is host:port of the cluster's head, or auto; ray:// is not", self.address, "auto"))
        if problems:
            raise ConfigError(problems)

    @property
    def processes(self) -> int:
        """Processes that train one trial together."""
        return self.workers or (int(self.gpus) if self.gpus > 1 else 1)
