from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nasseg.cli import main, options
from nasseg.errors import ConfigError, TrainingFailed


def test_every_verb_has_its_file() -> None:
    files = Path(main.__file__).parent.glob("*.py")
    assert {path.stem for path in files if re.search(r"^(def command\(|command\b.*=)", path.read_text(), re.MULTILINE)} == set(main.VERBS)


def test_help_lists_every_verb_and_loads_no_torch() -> None:
    code = "import sys\nfrom nasseg.cli.main import run\ntry:\n    run(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for verb, words in main.VERBS.items():
        assert verb in ran.stdout
        assert words in ran.stdout


@pytest.mark.parametrize(
    ("raised", "code", "printed"),
    [
        (ConfigError([]), 2, "nasseg: "),
        (TrainingFailed("loss is nan at iteration 3"), 1, "nasseg: loss is nan at iteration 3"),
        (KeyboardInterrupt(), 130, "nasseg: interrupted"),
    ],
)
def test_errors_become_a_sentence_and_a_code(
    raised: BaseException, code: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise raised

    monkeypatch.setattr(main.main, "main", broken)
    with pytest.raises(SystemExit) as stop:
        main.run([])
    assert stop.value.code == code
    assert printed in capsys.readouterr().err


def test_unknown_verb_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run(["serch"])
    assert stop.value.code == 2
    assert "serch" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("360x480", (360, 480)), ("1024X2048", (1024, 2048)), ((3, 4), (3, 4))])
def test_sizes(text: object, size: tuple[int, int]) -> None:
    assert options.SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0x5", "12x", "a", "-3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="a size is HEIGHTxWIDTH in pixels"):
        options.SIZE.convert(text, None, None)


def test_sets() -> None:
    sets = options.parse_sets(["stage3.lpm=se", "trainer.lr=1e-3", "train.loss=ohem", "stage2.inputs=[1, 2]", "rank=full"])
    assert options.split_sets(sets) == ({"stage3.lpm": "se", "stage2.inputs": [1, 2], "rank": "full"}, {"lr": 1e-3, "loss": "ohem"})
    with pytest.raises(ConfigError, match=r"wants key=value \(given 'lpm'\); nearest legal: lpm=value\n.*wants key=value") as error:
        options.parse_sets(["lpm", "=3"])
    assert len(error.value.problems) == 2
