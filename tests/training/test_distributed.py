"""Two processes are one: losses, weights, checkpoints; and what goes wrong in one of them ends both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kits_share
import pytest
import torch
from kits_share import Net, make, trained
from kits_trainer import Told
from kits_world import together

from nasseg.errors import ConfigError, RunFailed, TrainingFailed
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.cross_norm import norm_across
from nasseg.training.distributed import ALONE, OwnFailure, PeerLost, World, joined, own_device, peer_lost, speaks, standing, torchrun, world

pytestmark = pytest.mark.xdist_group("processes")

ALIKE: list[dict[str, Any]] = [
    {},
    {"accumulation": 2},
    {"amp": "bf16"},
    {"loss": "boundary"},
]
"""Settings under which two processes are compared with one; bf16 rounds sums of other parts otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def told(folder: Path) -> list[dict[str, Any]]:
    """What two processes came to, by rank."""
    trained(ALONE, folder / "from one", 4, False, {})
    random = {"dropout": 0.4}
    runs: list[tuple[Path | None, int | None, bool, dict[str, Any]]] = [
        *((None, None, False, options) for options in ALIKE),
        (None, None, False, random),
        (folder / "stopped", 5, False, random),
        (folder / "stopped", None, True, random),
        (folder / "from two", 4, False, {}),
        (folder / "from one", None, True, {}),
    ]
    return together(2, kits_share.session, runs)


def close(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = 2e-6) -> None:
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=tolerance)
    for part in ("model", "ema"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=10 * tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("number", range(len(ALIKE)))
def test_two_processes_have_the_losses_and_the_weights_of_one(told: list[dict[str, Any]], number: int) -> None:
    """Masks have very different shares of 255, classes different weights, images different brightness: nothing is the mean of means."""
    one = trained(ALONE, None, None, False, ALIKE[number])
    close(told[0]["runs"][number], one, 2e-3 if "amp" in ALIKE[number] else 2e-6)


def test_both_processes_have_the_same_bits(told: list[dict[str, Any]]) -> None:
    for first, second in zip(told[0]["runs"], told[1]["runs"], strict=True):
        assert first["losses"] == second["losses"]
        for name, value in first["model"].items():
            assert torch.equal(value, second["model"][name]), name


def test_goes_on_bit_for_bit_with_each_processs_random_numbers(told: list[dict[str, Any]]) -> None:
    straight, before, after = (told[0]["runs"][len(ALIKE) + k] for k in range(3))
    assert len(before["losses"]) == 5
    assert before["losses"] + after["losses"] == straight["losses"]
    for name, value in straight["model"].items():
        assert torch.equal(value, after["model"][name]), name


def test_the_first_process_writes(folder: Path, told: list[dict[str, Any]]) -> None:
    assert sorted(path.name for path in (folder / "stopped").rglob("*")) == [
        "checkpoints",
        "last.pt",
        "metrics.json",
        "model.safetensors",
        "previous.pt",
    ]
    randoms = load_checkpoint(folder / "stopped")["randoms"]
    assert len(randoms) == 2
    assert not torch.equal(randoms[0]["torch"], randoms[1]["torch"])


def test_a_checkpoint_moves_from_two_processes_to_one(folder: Path, told: list[dict[str, Any]]) -> None:
    one = trained(ALONE, None, None, False, {})
    moved = trained(ALONE, folder / "from two", None, True, {})
    assert moved["losses"] == pytest.approx(one["losses"][4:], rel=2e-6)
    torch.testing.assert_close(moved["ema"], one["ema"], rtol=2e-5, atol=1e-5)


def test_a_checkpoint_moves_from_one_process_to_two(told: list[dict[str, Any]]) -> None:
    one = trained(ALONE, None, None, False, {})
    moved = told[0]["runs"][len(ALIKE) + 4]
    assert moved["losses"] == pytest.approx(one["losses"][4:], rel=2e-6)
    torch.testing.assert_close(moved["ema"], one["ema"], rtol=2e-5, atol=1e-5)


def test_what_one_process_cannot_read_is_said_by_both(told: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        found = told[rank]["refusals"]
        assert (found["unreadable"], found["before"]) == ("DataError: b.png: cannot be read", 2)
        assert found["lead"] == "ConfigError: --out: no (given 0)"
        assert found["apart"].startswith("TrainingFailed: the processes do not go on from the same checkpoint")
    assert [told[rank]["refusals"]["led"] for rank in (0, 1)] == [7, None]
    assert told[1]["refusals"]["any"] == [True, False]
    assert told[1]["refusals"]["gathered"] == [0, 1]


def test_one_process_short_of_memory_makes_both_take_smaller_parts(told: list[dict[str, Any]]) -> None:
    """Found out before the first step; the losses are those of whole batches."""
    whole = Told()
    make(ALONE, model=kits_share.Full(4), ema=0.0).run(whole)
    for rank in (0, 1):
        losses, parts, sizes = told[rank]["refusals"]["halved"]
        assert losses == pytest.approx(whole.losses, rel=2e-6)
        assert parts == 2
        assert sizes == ([1] if rank else [1, 2])
        assert told[rank]["refusals"]["none fits"] == (
            "TrainingFailed: out of memory at iteration 1 with one image at a time in each process"
        )


def test_a_stop_of_one_process_stops_both_at_the_same_iteration(told: list[dict[str, Any]]) -> None:
    assert [told[rank]["refusals"]["stopped"] for rank in (0, 1)] == [3, 3]


def test_without_sync_bn_statistics_are_each_ones_own_share(told: list[dict[str, Any]]) -> None:
    together_ = told[0]["runs"][0]["model"]["backbone.1.running_mean"]
    first, second = (told[rank]["refusals"]["own statistics"] for rank in (0, 1))
    assert torch.equal(first["head.weight"], second["head.weight"])
    assert not torch.allclose(first["backbone.1.running_mean"], together_, rtol=1e-3)


def test_a_batch_is_split_evenly_or_refused_with_the_nearest_that_can_be() -> None:
    assert World(1, 4).share(8) == 2
    assert ALONE.share(7) == 7
    for batch_size, nearest in ((7, 8), (1, 4), (5, 4)):
        with pytest.raises(ConfigError, match=rf"batch_size: is split evenly over 4 processes.*nearest legal: {nearest}$"):
            World(0, 4).share(batch_size)


def test_alone_nothing_is_asked_of_others() -> None:
    assert world() is ALONE
    assert (ALONE.any(True), ALONE.any(False), ALONE.gather(3), ALONE.lead(lambda: 4)) == (True, False, [3], 4)
    assert ALONE.sum(torch.ones(2)).tolist() == [1.0, 1.0]
    with pytest.raises(TrainingFailed, match="it is so"):
        ALONE.agree(TrainingFailed("it is so"))
    with standing(World(1, 2)) as here:
        assert world() is here
    assert world() is ALONE


def test_devices_of_several_processes() -> None:
    assert ALONE.place("cpu") == World(0, 2).place("auto") == World(1, 2).place("cpu") == torch.device("cpu")
    mine = World(1, 2, torch.device("cuda", 1))
    assert mine.place("auto") == mine.place("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="each of 2 processes has a device of its own"):
        mine.place("cuda:0")
    with pytest.raises(ConfigError, match="each of 2 processes has a device of its own"):
        World(0, 2).place("cuda:1")


def test_a_process_for_each_device_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"one process for each CUDA device at most .given 3.; nearest legal: 2"):
        own_device(2)


def test_started_alone_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with joined() as here:
        assert here is ALONE


def test_how_to_start_as_many_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert torchrun(4) == "torchrun --nproc-per-node 4 -m nasseg"
    assert torchrun(8) == "torchrun --nnodes 2 --nproc-per-node 4 -m nasseg"


def test_who_says_what_went_wrong() -> None:
    first, second = World(0, 2), World(1, 2)
    assert [speaks(here, TrainingFailed("x")) for here in (ALONE, first, second)] == [True, True, False]
    assert [speaks(here, OwnFailure("x")) for here in (first, second)] == [True, True]
    assert [speaks(here, PeerLost("x")) for here in (first, second)] == [False, False]
    assert PeerLost.exit_code == OwnFailure.exit_code == RunFailed.exit_code == 1
    assert peer_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3"))
    assert not peer_lost(RuntimeError("shapes cannot be multiplied"))


def test_a_strange_norm_is_refused() -> None:
    class Strange(torch.nn.BatchNorm2d):
        pass

    net = Net()
    net.backbone[3] = Strange(8)
    with pytest.raises(ConfigError, match=r"sync_bn: Strange cannot take its statistics over processes .given True.; nearest legal: False"):
        norm_across(net, torch.device("cpu"))
