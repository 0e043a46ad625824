"""Runs a study on Ray: on this machine, or on a cluster that is joined. Ray Tune schedules; the study decides.

Every start is a fresh ``Tuner``: Tune's own snapshots lag behind the study by seconds, so restoring one runs finished trials again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasseg.cores import PASSIVE_WAIT
from nasseg.errors import StudyError
from nasseg.search.driver import alive
from nasseg.search.interrupts import deferred
from nasseg.search.resources import Resources
from nasseg.search.study import Study

ENVIRONMENT = {
    **PASSIVE_WAIT,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Ray's switches: no statistics sent, no output of its own, no working folder of its own, no snapshots; no stack traces
of C++ for a signal; Ctrl-C is ours."""

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory: a trial's configuration and result are kilobytes."""

TOKEN_HINT = "; a cluster that asks for a token wants RAY_AUTH_MODE=token, and the token in ~/.ray/auth_token"

PREFIX = "nasseg-ray-"
STALE_SECONDS = 120


def run_ray(
    study: Study, *, resources: Resources, progress: Callable[[int, int, Mapping[str, float]], None], lost: Callable[[int, str], None]
) -> None:
    """Run the study to its end on Ray.

    Ctrl-C (KeyboardInterrupt) ends it within seconds: the workers go with Ray, running trials stay running in the journal and go on from
    their checkpoints next time. Raises :class:`StudyError` where a cluster cannot be joined or holds less than one trial needs.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray reads its switches when it is imported, and takes seconds to.
    import ray  # noqa: PLC0415
    from ray import tune  # noqa: PLC0415

    from nasseg.search.searcher import LostWorkers, StudySearcher, TrialRunner  # noqa: PLC0415

    with session(ray, resources) as folder:
        each = {"cpus": resources.cpus / resources.processes, "gpus": resources.gpus / resources.processes}
        check_room(node_resources(ray), **each, count=resources.processes, what="processes of one trial")
        evicted_workers_are_lost()
        searcher = StudySearcher(study, progress, resources.processes, resources.timeout)
        tuner = tune.Tuner(
            tune.with_resources(TrialRunner, bundles(tune, resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=resources.concurrency, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(folder / "tune"),
                # How often is enough is decided by LostWorkers, which knows of progress.
                failure_config=tune.FailureConfig(max_failures=-1),
                # Tune would look for a checkpoint of its own under the driver's storage_path, on the node of the trial, and fail it.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[LostWorkers(searcher, lost)],
                verbose=0,
            ),
        )
        tuner.fit()


def evicted_workers_are_lost() -> None:
    """Let Tune treat a worker that Ray's memory monitor has killed as any lost worker.

    Tune (Ray 2.60) knows the death of an actor and an error of its task; for everything else, ``OutOfMemoryError`` of the monitor among it,
    it raises RuntimeError out of the whole run.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager  # noqa: PLC0415  # Ray is loaded by its executor alone
    from ray.exceptions import RayActorError, RayError, RayTaskError  # noqa: PLC0415

    handle = RayActorManager._actor_task_failed
    if getattr(handle, "of_nasseg", False):
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            reason = str(exception).strip().splitlines()[0] if str(exception).strip() else type(exception).__name__
            exception = RayActorError(error_msg=reason)
        handle(self, tracked_actor_task, exception)

    failed.of_nasseg = True  # type: ignore[attr-defined]
    RayActorManager._actor_task_failed = failed


def bundles(tune: Any, resources: Resources) -> Any:
    """What Tune reserves for a trial: one bundle, or an empty one for the trial's actor and one for each of its processes."""
    needs: dict[str, float] = {"CPU": resources.cpus / resources.processes}
    if resources.gpus:
        needs["GPU"] = resources.gpus / resources.processes
    return tune.PlacementGroupFactory([needs] if resources.processes == 1 else [{}, *[needs] * resources.processes])


@contextlib.contextmanager
def session(ray: Any, resources: Resources) -> Iterator[Path]:
    """A Ray session and a short temporary folder for it and for Tune's records; both are gone afterwards."""
    sweep_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=short_folder()))
    try:
        # Half a session cannot be shut down, so a signal takes effect when there is a whole one.
        with deferred() as switch:
            begin(ray, resources, folder)
        if switch.signal is not None:
            signal.raise_signal(switch.signal)
        for name in ("ray", "ray.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield folder
    finally:
        with deferred():
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def begin(ray: Any, resources: Resources, folder: Path) -> None:
    """``ray.init``. It replaces the handler of SIGTERM by one that exits; leaving :func:`deferred` puts the caller's back."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if resources.address is None:
            # As many as are asked for: CPUs are a currency here, and a trial may want more than the machine's share of one.
            count = os.cpu_count() or 1
            wanted = int(max(count, -(-resources.concurrency * resources.cpus // 1)))
            ray.init(num_cpus=wanted, include_dashboard=False, object_store_memory=OBJECT_STORE, _temp_dir=str(folder / "r"), **quiet)
            return
        knock(resources.address)
        ray.init(address=resources.address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
    except SystemExit as error:
        raise KeyboardInterrupt from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if resources.address is None:
            raise
        reason = str(error).strip().splitlines()[0]
        raise StudyError(f"the Ray cluster at {resources.address} cannot be joined: {reason}{TOKEN_HINT}") from error


def knock(address: str) -> None:
    """Raise :class:`StudyError` at once if nobody listens at ``host:port``: Ray itself would try for many minutes, deaf to Ctrl-C."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"the Ray cluster at {address} cannot be joined: {getattr(error, 'strerror', None) or error}") from error


def node_resources(ray: Any) -> list[Mapping[str, float]]:
    """CPUs, GPUs and the like of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def slots(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many requests of this size fit at once. One request lies on one node: nodes are counted one by one, not their sum."""
    room = [(node.get("CPU", 0.0) // cpus, node.get("GPU", 0.0) // gpus if gpus else math.inf) for node in nodes]
    return sum(int(min(pair)) for pair in room)


def check_room(nodes: Sequence[Mapping[str, float]], *, cpus: float, gpus: float, count: int = 1, what: str = "trials") -> None:
    """Refuse a request that can never be placed: Ray would wait for ever.

    Args:
        nodes: resources of each node, as :func:`node_resources` gives them.
        cpus: CPUs of one request.
        gpus: GPUs of one request.
        count: how many of them must be placed at the same time.
        what: what the requests are called in the message; one trial is the usual one.

    Raises:
        StudyError: fewer than ``count`` fit; says what the largest node has.
    """
    room = slots(nodes, cpus, gpus)
    if room >= count:
        return
    wanted = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0) if gpus else 0.0, node.get("CPU", 0.0)), default={})
    there = f"{largest.get('CPU', 0.0):g} CPU and {largest.get('GPU', 0.0):g} GPU"
    of = "Ray's node" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes"
    many = (
        f"{count} {what} ask for {wanted} each, and there is room for {room}" if count > 1 else f"one trial asks for {wanted} on one node"
    )
    raise StudyError(f"{many}; {of} has {there}")


def short_folder() -> str | None:
    """Where temporary folders may lie so that Ray's sockets keep within a path of 107 bytes; None for the system's own choice."""
    return "/tmp" if len(tempfile.gettempdir()) > 30 and os.access("/tmp", os.W_OK) else None


def sweep_folders() -> None:
    """Drop the temporary folders of drivers that were killed; Ray's last processes outlive those by a minute."""
    for path in Path(short_folder() or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = path.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if process.isdigit() and not alive(int(process)) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
