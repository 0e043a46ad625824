from __future__ import annotations

from pathlib import Path

from nasseg.search.checkpoints import FrontCheckpoints


def trained(folder: Path, number: int) -> str:
    weights = folder / "work" / str(number) / "attempt-1" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text(f"weights {number}")
    return str(weights)


def test_weights_of_the_front_are_kept_and_the_work_goes(tmp_path: Path) -> None:
    keeper = FrontCheckpoints(tmp_path)
    keeper.settle(1, trained(tmp_path, 1), True)
    keeper.settle(2, trained(tmp_path, 2), False)
    keeper.settle(3, None, True)
    assert keeper.path(1) == tmp_path / "checkpoints" / "1" / "model.safetensors"
    assert keeper.path(1).read_text() == "weights 1"  # type: ignore[union-attr]
    assert keeper.path(2) is keeper.path(3) is None
    assert list((tmp_path / "work").iterdir()) == []
    keeper.settle(1, str(tmp_path / "work" / "1" / "attempt-1" / "model.safetensors"), True)
    assert keeper.path(1) is not None
    keeper.settle(4, trained(tmp_path, 4), True)
    keeper.prune([4])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_sweep_keeps_what_runs(tmp_path: Path) -> None:
    keeper = FrontCheckpoints(tmp_path)
    keeper.sweep([])
    trained(tmp_path, 1)
    trained(tmp_path, 2)
    keeper.sweep([2])
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["2"]
    keeper.sweep([])
    assert not (tmp_path / "work").exists()
