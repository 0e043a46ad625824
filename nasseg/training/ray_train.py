"""Training in several processes on Ray: on this machine, or on the nodes of a cluster. Ray starts and joins them; the run's folder tells.

All nodes see the run's folder under the same path. Beside it lie, while it is trained, ``.NAME.stop`` (the driver asks for a checkpoint and
the end), ``.NAME.logs`` (what the first process logged, a JSON list a line), ``.NAME.result`` or ``.NAME.failed`` (what it came to).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nasseg.errors import NassegError, RunFailed, TrainingFailed
from nasseg.files import read_json_or_none, write_atomic
from nasseg.log import forwarded, relay
from nasseg.training.curves import read_log
from nasseg.training.distributed import World, speaks, standing
from nasseg.training.rundir import LOG, RunDir
from nasseg.training.trial import Result

POLL = 0.5
"""Seconds between two looks at the folder."""

SWITCHES = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def fit(
    run: RunDir,
    *,
    workers: int,
    gpus: float,
    storage: Path,
    report: Callable[[int, Mapping[str, float]], bool],
) -> Result:
    """Train ``run`` in ``workers`` processes of the Ray that is joined, each with ``gpus``; ``report`` hears of every row of its log.

    ``storage`` is a folder for Ray's own records. Raises what the processes raised; :class:`TrainingFailed` where one was lost.
    """
    os.environ.update(SWITCHES)
    # Ray is heavy, and most runs do without.
    from ray import train  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    path = run.path.resolve()
    stop, done, failed, logs = beside(path)
    for left in (stop, done, failed, logs):
        left.unlink(missing_ok=True)
    needs: dict[str, float] = {"CPU": 1.0}
    if gpus:
        needs["GPU"] = gpus
    trainer = TorchTrainer(
        work,
        train_loop_config={"run": str(path), "workers": workers},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=needs),
        run_config=train.RunConfig(name=path.name, storage_path=str(storage)),
    )
    ended: list[Exception] = []

    def wait() -> None:
        try:
            trainer.fit()
        except Exception as error:
            ended.append(error)

    try:
        # Not in the main thread, where Ray would take Ctrl-C over.
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        told = logged = 0
        while True:
            waiting.join(POLL)
            logged = relay_lines(logs, logged)
            for row in read_log(path / LOG)[told:]:
                told += 1
                if report(int(row["iteration"]), row):
                    stop.touch()
            if report(0, {}):
                stop.touch()
            if not waiting.is_alive():
                break
        relay_lines(logs, logged)
        return _outcome(done, failed, ended)
    finally:
        for left in (stop, done, failed, logs):
            left.unlink(missing_ok=True)


def work(config: Mapping[str, Any]) -> None:
    """What each process does."""
    # Only a process that Ray has started comes here.
    from ray import train  # noqa: PLC0415
    from ray.train.torch import get_device  # noqa: PLC0415

    path = Path(config["run"])
    stop, done, failed, logs = beside(path)
    context, device = train.get_context(), get_device()
    assert isinstance(device, torch.device)
    launcher = f"nasseg train --executor ray --workers {config['workers']}"
    here = World(context.get_world_rank(), context.get_world_size(), device if device.type == "cuda" else None, launcher)
    looked = time.monotonic()

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        nonlocal looked
        if not here.first or time.monotonic() - looked < POLL:
            return False
        looked = time.monotonic()
        return stop.exists()

    def send(logger: str, level: int, text: str) -> None:
        if here.first:
            with open(logs, "a", encoding="utf-8") as file:
                file.write(json.dumps([logger, level, text]) + "\n")

    logging.captureWarnings(True)
    try:
        with standing(here), forwarded(send):
            result = RunDir.open(path).run(report)
    except NassegError as error:
        if speaks(here, error):
            write_atomic(failed, json.dumps({"said": str(error), "exit_code": error.exit_code}))
        raise
    if here.first:
        write_atomic(done, json.dumps(result.to_dict()))


def beside(path: Path) -> tuple[Path, Path, Path, Path]:
    """The files ``.NAME.stop``, ``.NAME.result``, ``.NAME.failed``, ``.NAME.logs`` beside a run's folder."""
    stop, done, failed, logs = (path.with_name(f".{path.name}.{what}") for what in ("stop", "result", "failed", "logs"))
    return stop, done, failed, logs


def relay_lines(logs: Path, start: int) -> int:
    """Log here what the first process has logged since byte ``start``; the byte behind the last whole line."""
    if not logs.is_file():
        return start
    with open(logs, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break
            relay("training", *json.loads(line))
            start += len(line)
    return start


def _outcome(done: Path, failed: Path, ended: list[Exception]) -> Result:
    said = read_json_or_none(failed)
    if said is not None:
        raise (RunFailed if said["exit_code"] == RunFailed.exit_code else NassegError)(said["said"])
    found = read_json_or_none(done)
    if found is None:
        reason = str(ended[0]).strip().splitlines()[0] if ended else "it left nothing behind"
        raise TrainingFailed(f"a process of the run was lost ({reason})")
    return Result.from_dict(found)
