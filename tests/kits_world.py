"""Several processes for a test: gloo on this machine, met through a file, so that no port is taken."""

from __future__ import annotations

import io
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from nasseg.training.distributed import World, standing


def together(ranks: int, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``act(world, *arguments)`` in ``ranks`` new processes; what each gave back, by rank. ``act`` is a function of a test module or kit.

    Raises what the lowest rank raised, as text.
    """
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_one, args=(rank, ranks, f"{folder}/meet", pipes[rank][1], act, arguments)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        answers = [receiver.recv() if receiver.poll(180) else (False, "no answer within three minutes") for receiver, _ in pipes]
        for process in processes:
            process.join(30)
            if process.is_alive():
                process.kill()
    wrong = [str(answer) for right, answer in answers if not right]
    if wrong:
        raise AssertionError(wrong[0])
    return [torch.load(io.BytesIO(answer), weights_only=True) for _, answer in answers]


def _one(rank: int, ranks: int, meet: str, answer: Connection, act: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=Path(meet).as_uri(), rank=rank, world_size=ranks)
        with standing(World(rank, ranks)) as world:
            found = io.BytesIO()
            torch.save(act(world, *arguments), found)
            answer.send((True, found.getvalue()))
        dist.destroy_process_group()
    except BaseException:
        answer.send((False, traceback.format_exc()))
