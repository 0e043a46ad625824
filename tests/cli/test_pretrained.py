"""``--pretrained`` with a backbone of ours, as a user types it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from kits_hub import COMMIT, hub_cache, mit_b0

from nasseg.cli.main import run
from nasseg.files import read_yaml

DATA = ["--data", "synthetic?train=2&val=1&size=64x96", "--size", "64x96", "--backbone", "mit_b0", "--pretrained"]
SHORT = [word for field in ("iterations=1", "batch_size=2", "threads=1", "ema=0.0") for word in ("--set", f"trainer.{field}")]
FAKE = ["--trainer", "tests.kits_store:FakeTrainer", "--executor", "local", "--trials", "1"]
SOURCE = f"nvidia/mit-b0@{COMMIT}/pytorch_model.bin"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HOME, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hf"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def other_weights(path: Path) -> str:
    """Replaces what the cache holds."""
    torch.save(mit_b0(seed=1), path.resolve())
    return digest(path)


def test_a_run_says_which_weights_it_started_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The environment of a machine without a network, read by huggingface_hub itself.
    path, out = hub_cache(tmp_path / "hf", mit_b0()), tmp_path / "Y"
    command = [sys.executable, "-m", "nasseg", "train", "segformer", *DATA, *SHORT, "--out", str(out)]
    offline = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    facts = read_yaml(out / "run.yaml")
    first = digest(path)
    assert (facts["weights"], facts["pretrained"]) == (None, True)
    assert facts["pretrained_weights"] == {"digest": {"mit_b0": first}, "source": {"mit_b0": SOURCE}}
    state = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert state["identity"]["pretrained_weights"] == first

    second = other_weights(path)
    ran = subprocess.run([*command, "--resume"], env=offline, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    said = f"holds another run: pretrained_weights {{'mit_b0': '{first}'}} there, {{'mit_b0': '{second}'}} here; give another --out"
    assert said in ran.stderr


def test_a_study_says_which_weights_its_trials_start_from(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = hub_cache(home, mit_b0()), tmp_path / "first"
    command = ["search", "tiny", *DATA, *FAKE, "--out", str(out)]
    run(command)
    config = read_yaml(out / "study.yaml")
    first = digest(path)
    assert config["pretrained"] is True
    assert config["pretrained_weights"] == {"digest": {"mit_b0": first}, "source": {"mit_b0": SOURCE}}
    # The same content at another commit is the same study.
    path.parent.rename(path.parent.with_name("f" * 40))
    (path.parents[2] / "refs" / "main").write_text("f" * 40)
    run(command)
    second = other_weights(path.parent.with_name("f" * 40) / path.name)
    said = refused(capsys, *command)
    assert f"belongs to another study; it differs in pretrained_weights.digest.mit_b0: {first} → {second}. " in said


@pytest.mark.parametrize(
    "command", [["train", "segformer", *SHORT], ["search", "tiny", *FAKE], ["search", "tiny", *FAKE, "--dry-run"]], ids=lambda c: c[-1]
)
def test_offline_is_one_sentence_and_writes_nothing(
    command: list[str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *command, *DATA, "--out", str(tmp_path / "out"))
    assert said == (
        "nasseg: mit_b0: its published weights (nvidia/mit-b0 on the Hugging Face Hub) are not in the cache "
        f"{home / 'hub'} and could not be fetched (HF_HUB_OFFLINE is set); "
        "fill that folder where there is a network, or give a file with --weights FILE\n"
    )
    assert list(tmp_path.iterdir()) == []
