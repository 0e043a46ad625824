from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from nasseg.errors import StudyError
from nasseg.search import cluster
from nasseg.search.candidate import Recipe
from nasseg.search.cluster import ENVIRONMENT, check_room, run_ray, short_folder, slots, sweep_folders
from nasseg.search.resources import Resources
from tests.kits_store import ODD, check_odd, complete, diary_of, make_study, odd_space

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

from nasseg.search.searcher import LOGS, PROGRESS, RESULT, LostWorkers, StudySearcher, TrialRunner  # noqa: E402  # after Ray's switches


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def recipe(diary: Path, **settings: object) -> Recipe:
    return Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:FakeTrainer", settings={"diary": str(diary), **settings})


def searcher_of(folder: Path, **more: Any) -> tuple[StudySearcher, list[Any]]:
    told: list[Any] = []
    study, _ = make_study(folder, **more)
    return StudySearcher(study, lambda *progress: told.append(progress)), told


def test_on_ray_no_candidate_over_budget_becomes_a_trial_and_lost_workers_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary = tmp_path / "diary"
    suggested: list[Any] = []
    real = StudySearcher.suggest

    def suggest(self: StudySearcher, trial_id: str) -> Any:
        suggested.append(real(self, trial_id))
        return suggested[-1]

    monkeypatch.setattr(StudySearcher, "suggest", suggest)
    study, events = make_study(
        tmp_path / "out", budget="macs=100M", trials=6, recipe=recipe(diary, crash="exit_once"), sampler="random", seed=10
    )
    lost: list[int] = []
    resources = Resources(concurrency=2, cpus=0.5)
    run_ray(study, resources=resources, progress=lambda *told: None, lost=lambda number, why: lost.append(number))

    assert study.completed == 6
    assert study.rejected > 0
    configs = [config for config in suggested if isinstance(config, dict)]
    assert len(configs) == 6
    assert suggested[-1] == "FINISHED"
    by_id = {t.id: t for t in study.view().trials if t.trained}
    assert len(by_id) == 6
    assert all(trial.cost["macs"] <= 100e6 for trial in by_id.values())
    entries = diary_of(diary)
    assert sorted(Counter(e["id"] for e in entries if e["step"] == "end").values()) == [1] * 6
    fragile = sorted(t.number for t in by_id.values() if t.genotype["stage4"]["ffn"] == 0 and t.genotype["stage4"]["lpm"] == "none")
    assert fragile
    assert sorted(lost) == fragile
    for number in fragile:
        assert [e["step"] for e in entries if e["trial"] == str(number)] == [0, 1, 1, 2, "end"]
    assert not list(Path(short_folder() or "/tmp").glob(f"{cluster.PREFIX}{os.getpid()}-*"))
    assert [event.kind for event in events].count("complete") == 6


def test_what_no_recipe_should_return_is_its_trials_failure_on_ray(tmp_path: Path) -> None:
    # A recipe that ends its process costs Ray a worker: the test above has that.
    kinds = len(ODD) - 1
    odd = Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:OddTrainer")
    study, _ = make_study(tmp_path, space=odd_space(kinds), trials=100, recipe=odd)
    run_ray(study, resources=Resources(concurrency=2, cpus=0.5), progress=lambda *told: None, lost=lambda *told: None)
    check_odd(study, kinds)


def test_ctrl_c_on_ray_ends_within_seconds_and_the_trials_go_on_later(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    study, _ = make_study(tmp_path / "out", trials=3, recipe=recipe(diary, sleep=0.2, steps=200))
    pressed: list[float] = []

    def press() -> None:
        deadline = time.monotonic() + 120
        while not diary_of(diary) and time.monotonic() < deadline:
            time.sleep(0.1)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_ray(study, resources=Resources(), progress=lambda *told: None, lost=lambda *told: None)
    thread.join()
    assert time.monotonic() - pressed[0] < 30
    assert list(study.running) == [0]
    study.close()
    again, events = make_study(tmp_path / "out", trials=3, recipe=recipe(diary))
    assert again.propose() is not None
    assert events[0].kind == "resumed"


def test_searcher_hands_out_and_takes_back(tmp_path: Path) -> None:
    searcher, told = searcher_of(tmp_path, trials=3)
    configs = [searcher.suggest(f"t{k}") for k in range(3)]
    assert searcher.suggest("t3") == "FINISHED"
    numbers = [searcher.number(f"t{k}") for k in range(3)]
    assert numbers == searcher.suggested
    assert searcher.number("other") is None
    genotype = searcher.proposals["t0"].trial.genotype
    assert configs[0]["trial"] == searcher.proposals["t0"].trial.to_dict()  # type: ignore[index]
    searcher.on_trial_result("t0", {PROGRESS: '[4, {"loss": 0.5}]'})
    searcher.on_trial_result("t0", {PROGRESS: ""})
    searcher.on_trial_result("gone", {PROGRESS: '[4, {"loss": 0.5}]'})
    assert told == [(numbers[0], 4, {"loss": 0.5})]
    searcher.on_trial_complete("t0", {RESULT: complete(genotype).to_json()})
    searcher.on_trial_complete("t1", error=True)
    searcher.on_trial_complete("t2", {PROGRESS: ""})
    searcher.on_trial_complete("t2", {PROGRESS: ""})
    assert (searcher.study.completed, searcher.study.failed) == (1, 2)
    reasons = {t.reason for t in searcher.study.view().trials if t.state == "failed"}
    assert reasons == {"its worker was lost"}


def test_searcher_relays_what_workers_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    searcher, _ = searcher_of(tmp_path, trials=1)
    searcher.suggest("t0")
    number = searcher.number("t0")
    searcher.on_trial_result("t0", {PROGRESS: "", LOGS: '[["nasseg.fake", 30, "odd"], ["py.warnings", 40, "100% wrong"]]'})
    searcher.on_trial_result("gone", {PROGRESS: "", LOGS: '[["nasseg.fake", 30, "too late"]]'})
    searcher.on_trial_complete("t0", {RESULT: complete(searcher.proposals["t0"].trial.genotype).to_json(), LOGS: '[["a", 30, "last"]]'})
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("nasseg.fake", 30, f"trial {number}: odd"),
        ("py.warnings", 40, f"trial {number}: 100% wrong"),
        ("a", 30, f"trial {number}: last"),
    ]


def test_searcher_and_callback_pickle_without_the_study(tmp_path: Path) -> None:
    searcher, _ = searcher_of(tmp_path, trials=1)
    callback = LostWorkers(searcher, lambda *told: None)
    assert pickle.loads(pickle.dumps(searcher)).__dict__ == {}
    assert pickle.loads(pickle.dumps(callback)).__dict__ == {}
    searcher.save(str(tmp_path / "state.pkl"))
    assert (tmp_path / "state.pkl").read_text() == "{}"
    with pytest.raises(NotImplementedError, match="goes on from its study"):
        searcher.restore(str(tmp_path / "state.pkl"))


def runner_of(folder: Path, **more: Any) -> tuple[TrialRunner, dict[str, Any]]:
    searcher, _ = searcher_of(folder, **more)
    config = searcher.suggest("t0")
    assert isinstance(config, dict)
    runner = TrialRunner.__new__(TrialRunner)
    runner.setup(config)
    return runner, config


def test_runner_gathers_progress_and_ends_with_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasseg.search.searcher.STEP_SECONDS", 0.05)
    runner, config = runner_of(tmp_path, trials=1, recipe=recipe(tmp_path / "diary", sleep=0.08, warn="odd"))
    steps = [runner.step()]
    while not steps[-1].get("done"):
        steps.append(runner.step())
    assert '"status": "complete"' in steps[-1][RESULT]
    assert any(step.get(PROGRESS) for step in steps[:-1])
    assert [record for step in steps for record in json.loads(step.get(LOGS, "[]"))] == [["nasseg.fake", 30, "odd"]]
    assert runner.reset_config(config) is True
    # The attempt had finished: it is read, not run again.
    assert runner.step()[RESULT] == steps[-1][RESULT]
    runner.save_checkpoint("")


def test_runner_that_is_stopped_leaves_at_its_next_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasseg.search.searcher.STEP_SECONDS", 0.05)
    runner, _ = runner_of(tmp_path, trials=1, recipe=recipe(tmp_path / "diary", sleep=0.1, steps=1000))
    runner.step()
    runner.cleanup()
    assert runner.thread is not None
    runner.thread.join(10)
    assert not runner.thread.is_alive()
    left = []
    with contextlib.suppress(queue.Empty):
        while True:
            left.append(runner.messages.get_nowait())
    assert not any(RESULT in message for message in left)


def test_runner_with_a_trial_that_does_not_end_is_not_used_again(tmp_path: Path) -> None:
    runner, config = runner_of(tmp_path, trials=1)
    runner.thread = SimpleNamespace(join=lambda timeout: None, is_alive=lambda: True)  # type: ignore[assignment]
    assert runner.reset_config(config) is False


def test_a_node_with_another_version_fails_its_trials(tmp_path: Path) -> None:
    runner, config = runner_of(tmp_path, trials=1)
    runner.begin({**config, "version": "0.0.0"})
    assert "the search runs 0.0.0" in runner.step()[RESULT]


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    runner, config = runner_of(tmp_path, trials=1)
    (tmp_path / "file").write_text("")
    runner.begin({**config, "trial": {**config["trial"], "workdir": str(tmp_path / "file" / "0")}})
    assert "NotADirectoryError" in runner.step()[RESULT]


def test_room_is_counted_node_by_node() -> None:
    two = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}, {"memory": 1.0}]
    assert [slots(two, cpus, gpus) for cpus, gpus in ((1, 0), (0.5, 0.25), (2, 1), (1, 2), (3, 0))] == [4, 8, 2, 0, 0]
    check_room(two, cpus=2, gpus=1)
    check_room(two, cpus=1, gpus=1, count=2)
    with pytest.raises(StudyError, match=r"^one trial asks for 1 CPU and 2 GPU on one node; the largest of 3 nodes has 2 CPU and 1 GPU$"):
        check_room(two, cpus=1, gpus=2)
    with pytest.raises(StudyError, match=r"^one trial asks for 4 CPU on one node; Ray's node has 2 CPU and 0 GPU$"):
        check_room([{"CPU": 2.0}], cpus=4, gpus=0)
    with pytest.raises(StudyError, match=r"^3 processes ask for 1 CPU and 1 GPU each, and there is room for 2; the largest of 3 nodes"):
        check_room(two, cpus=1, gpus=1, count=3, what="processes")


def test_an_address_nobody_answers_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def init(**options: Any) -> None:
        given.update(options)
        raise ConnectionError("no answer\nsecond line")

    monkeypatch.setattr("ray.init", init)
    study, _ = make_study(tmp_path, trials=1)

    def join(address: str) -> None:
        run_ray(study, resources=Resources(address=address), progress=lambda *told: None, lost=lambda *told: None)

    # Nobody listens at port 1: refused before Ray is asked.
    with pytest.raises(StudyError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be joined: Connection refused"):
        join("127.0.0.1:1")
    assert given == {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StudyError, match=rf"the Ray cluster at {address} cannot be joined: no answer; a cluster that asks for a token"):
            join(address)
    assert given["address"] == address
    assert given["runtime_env"] == {"env_vars": ENVIRONMENT}
    assert "num_cpus" not in given


def test_folders_of_killed_drivers_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "short_folder", lambda: str(tmp_path))
    for name, age in (("999999999-a", 1000), ("999999998-b", 0), (f"{os.getpid()}-c", 1000), ("x-d", 1000)):
        folder = tmp_path / f"{cluster.PREFIX}{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    sweep_folders()
    assert sorted(path.name.removeprefix(cluster.PREFIX)[-1] for path in tmp_path.iterdir()) == ["b", "c", "d"]


def test_short_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/tmp/short")
    assert short_folder() is None
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/var/folders/" + "x" * 40)
    assert short_folder() == "/tmp"
