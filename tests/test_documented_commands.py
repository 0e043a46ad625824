"""Every command that the documentation shows works: parsed by the real parser and run, up to where data, weights or hours would be needed.

Each is run by nasseg itself in a folder that holds the studies, runs, weights and caches its words name, with a tiny data set in place of
the data named, and stops where training, measuring, exporting or drawing would begin. Verbs that need nothing (cost, presets, space,
trainers, backbones, data) run to their end. Words in capitals are filled by what the option wants.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import huggingface_hub
import numpy as np
import pytest
from kits_documents import ROOT, Shown, of_file, shown_commands, shown_files
from PIL import Image
from torch.distributed.run import get_args_parser

import nasseg.cli.eval
from nasseg.cli import main
from nasseg.cli.eval import Measured
from nasseg.data.spec import parse_spec
from nasseg.errors import NassegError
from nasseg.genes.presets import preset
from nasseg.models.backbones.pretrained import ORIGINS, Download, HubRepository
from nasseg.search.store import is_study
from nasseg.training.rundir import RUN
from tests.published.test_network import configured, saved

CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*(?:x[A-Z])?")
CLASSES = ["soil", "crop", "weed"]
TINY = ["--data", "synthetic?train=2&val=1&size=64x96", "--size", "64x96", "--backbone", "mit_b0"]

FAKE = ["--trainer", "tests.kits_store:FakeTrainer", "--executor", "local", "--trials", "1"]

FILLED = {
    "backbone": "mit_b0",
    "bundle": "bundle",
    "classes": "11",
    "genotype": "csap",
    "images": "image.png",
    "name": "proxy",
    "original_labels": "ade20k",
    "out": "out",
    "path": "runs/Y",
    "results": "results/X",
    "run": "runs/Y",
    "size": "96x128",
    "space": "tiny",
    "target": "csap",
    "trials": "2",
}
"""What stands for a word in capitals, and for what a command leaves out, by the name of the parameter."""
WANTED = {"search": ("backbone", "data"), "train": ("target", "backbone", "data"), "cost": ("backbone",), "predict": ("images",)}
"""What a verb needs although its parser lets it be left out."""
NAMED_DATA = "ade20k"
TARGETS = ("bundle", "genotype", "path", "run", "target")
PUBLISHED = re.compile(r"\.pth$|-finetuned-")
"""What the pages call published networks."""

OWN_RECIPE = """
from nasseg.metric import Metric
from nasseg.trainers.proxy import Proxy
from nasseg.training.trainer import Recipe

class Mine(Proxy):
    metrics = (*Recipe.metrics, Metric("blob_recall"))
"""


class ReachedError(Exception):
    """The command has come to where it would compute."""


def unique() -> dict[str, tuple[list[str], bool]]:
    """Each reading of each command once, under the first place that shows it."""
    seen: dict[tuple[tuple[str, ...], bool], str] = {}
    for shown in shown_commands():
        for words, partial in shown.variants():
            seen.setdefault((tuple(words), partial), shown.place)
    return {f"{place}: {' '.join(words)}{' …' if partial else ''}": (list(words), partial) for (words, partial), place in seen.items()}


COMMANDS = unique()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one trial."""
    out = tmp_path_factory.mktemp("documents") / "study"
    with contextlib.redirect_stdout(io.StringIO()):
        main.run(["search", "tiny", *TINY, *FAKE, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small images, with the classes that the pages speak of."""
    folder = tmp_path_factory.mktemp("documents") / "data"
    random = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for name, values, channels in (("images", 256, (3,)), ("masks", len(CLASSES), ())):
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, values, (64, 96, *channels), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published network of three classes."""
    return saved(tmp_path_factory.mktemp("documents"), **configured("crop_size = (64, 96)"))


class World:
    """The folder a command runs in, and what is put into it as the command names it."""

    def __init__(self, folder: Path, study: Path, data: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.study = study
        self.network = network
        self.data = data
        self.patch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        (folder / "mine.py").write_text(OWN_RECIPE)
        for page in (ROOT / "docs" / "recipes.md", ROOT / "search_spaces" / "README.md"):
            for name, text in shown_files(page).items():
                (folder / name).write_text(text)
        preset("csap", "mit_b0").save(folder / "GENOTYPE.yaml")
        self.caches()
        self.stops()

    def caches(self) -> None:
        """Files that pass for the published weights: nothing reads their content before a network is built."""
        self.patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(self.folder / "hf"))
        self.patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        self.patch.setenv("TORCH_HOME", str(self.folder / "torch"))
        for origin in ORIGINS.values():
            if isinstance(origin, HubRepository):
                root = self.folder / "hf" / f"models--{origin.repository.replace('/', '--')}"
                self.write(root / "refs" / "main", "0" * 40)
                self.write(root / "snapshots" / ("0" * 40) / "pytorch_model.bin", "weights")
            elif isinstance(origin, Download):
                self.write(origin.cache / origin.url.rpartition("/")[2], "weights")

    def stops(self) -> None:
        """Where computing begins."""

        def reached(*_: Any, **__: Any) -> None:
            raise ReachedError

        for name in ("search.describe_plan", "train.train", "export.export_run", "predict.bundle_predictor"):
            self.patch.setattr(f"nasseg.cli.{name}", reached)
        for name in ("export.export_published", "predict.published_predictor"):
            self.patch.setattr(f"nasseg.cli.{name}", reached)

        def run_in_place_of(path: str, *, onnx: bool, size: tuple[int, int] | None) -> Measured:
            self.run_at("measured")
            return replace(read("measured", onnx=False), load=reached)

        read = nasseg.cli.eval.read
        self.patch.setattr(nasseg.cli.eval, "read", run_in_place_of)
        self.patch.setattr("nasseg.cli.backbones.suggested", lambda: ("mit_b0", "resnet18"))

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, words: list[str], partial: bool) -> None:
        """Run a ``nasseg`` command given by its words from the verb on."""
        verb, command, rest = found(words)
        # A verb that is only mentioned exists; what would be filled in says nothing of the text.
        if partial and not rest:
            return
        given, named = self.given(verb, command, rest)
        if partial:
            given += self.missing(verb, command, named)
        if verb == "train" and named.get("resume") and "target" not in named:
            self.run_at(named["out"])
        if verb == "search" and "dry_run" not in named:
            given.append("--dry-run")
        with contextlib.suppress(ReachedError), contextlib.redirect_stdout(io.StringIO()):
            main.main.main(args=[*verb.split(), *given], prog_name="nasseg", standalone_mode=False)

    def given(self, verb: str, command: click.Command, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """The words with their values made usable, and the last value of each parameter by name (flags: their option)."""
        options = {name: p for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
        places = [p for p in command.params if isinstance(p, click.Argument)]
        out: list[str] = []
        named: dict[str, str] = {}
        rest = iter(words)
        for word in rest:
            parameter: click.Parameter | None = options.get(word)
            if parameter is None and not word.startswith("-") and places:
                parameter = places[0] if places[0].nargs == -1 else places.pop(0)
                value: str | None = word
            elif isinstance(parameter, click.Option) and not parameter.is_flag:
                out.append(word)
                value = next(rest, None)
            else:
                out.append(word)
                value = None
            if parameter is not None:
                filled = None if value is None else self.value(verb, str(parameter.name), value)
                out += [] if filled is None else [filled]
                named[str(parameter.name)] = filled or word
        return out, named

    def missing(self, verb: str, command: click.Command, named: dict[str, str]) -> list[str]:
        """What a command that leaves something out needs."""
        if verb == "train" and "resume" in named and "target" not in named:
            return []
        more: list[str] = []
        for parameter in command.params:
            name = str(parameter.name)
            if name not in named and (parameter.required or name in WANTED.get(verb, ())):
                value = self.value(verb, name, name.upper())
                more += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
        return more

    def value(self, verb: str, name: str, given: str) -> str:
        """A usable value for a parameter; what it names is put where it is looked for."""
        filled = CAPITALS.fullmatch(given) is not None
        if name == "data":
            return self.data_for(verb, given, filled)
        if filled and verb == "backbones":
            return FILLED["backbone"]
        value = FILLED.get(name, "1") if filled else given
        if name == "results" or re.fullmatch(r"\S+:(best|\d+)", value):
            self.place(self.study, value.partition(":")[0], is_study)
        elif name in TARGETS and PUBLISHED.search(value):
            self.network_at(value)
        elif name == "weights":
            self.write(self.folder / value, "weights")
        elif name == "sets" and value.startswith("trainer.distill="):
            self.run_at(value.partition("=")[2])
        return value

    def data_for(self, verb: str, given: str, filled: bool) -> str:
        """The data set at hand, after a look at what a data string says of its kind and settings."""
        if verb == "data info":
            return NAMED_DATA if given == "NAME" else str(self.data) if filled else given
        if not filled and given.startswith("synthetic") and verb != "eval":
            return given
        if not filled:
            parse_spec(given)
        return str(self.data)

    def network_at(self, where: str) -> None:
        """A published network, a file or a folder, at the place a command names."""
        target = self.folder / where
        if target.exists():
            return
        if target.suffix == ".pth":
            shutil.copy(self.network, target)
            return
        target.mkdir()
        shutil.copy(self.network, target / "pytorch_model.bin")
        (target / "config.json").write_text(json.dumps({"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}))

    def place(self, source: Path, where: str, there: Any) -> None:
        target = self.folder / where
        if not there(target):
            shutil.copytree(source, target)

    def run_at(self, where: str) -> None:
        """A run's folder, begun and with weights, at the place a command names."""
        target = self.folder / where
        if (target / RUN).is_file():
            return
        with contextlib.suppress(ReachedError):
            main.main.main(
                args=["train", "csap", "--backbone", "mit_b0", "--data", str(self.data), "--out", str(target)],
                prog_name="nasseg",
                standalone_mode=False,
            )
        self.write(target / "model.safetensors", "weights")


def found(words: list[str]) -> tuple[str, click.Command, list[str]]:
    """The verb, its command, and the words behind it. Raises click's error for a verb that does not exist."""
    command: click.Command = main.main
    context = click.Context(main.main, info_name="nasseg")
    names: list[str] = []
    rest = list(words)
    while isinstance(command, click.Group) and rest and not (names and command.invoke_without_command and rest[0].startswith("-")):
        name, below, rest = command.resolve_command(context, rest)
        assert below is not None
        names.append(str(name))
        command = below
    return " ".join(names), command, rest


@pytest.fixture
def world(tmp_path: Path, study: Path, data: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, study, data, network, monkeypatch)


def run_shown(words: list[str], partial: bool, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of whatever kind."""
    program, rest = words[0], words[1:]
    if program == "torchrun":
        options = get_args_parser().parse_args(rest if "-m" in rest else [*rest, "-m", "nasseg"])
        assert options.training_script == "nasseg"
        if options.training_script_args:
            world.run(options.training_script_args, partial)
    elif program == "make":
        assert re.search(rf"^{re.escape(rest[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {rest[0]} in the Makefile"
    elif program == "python" and rest[0] != "-m":
        run_bench(rest, monkeypatch)
    else:
        world.run(rest[2:] if program == "python" else rest, partial)


def run_bench(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of ``bench/`` up to where its options are read, by its own parser."""

    def parse(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        raise ReachedError

    def invoke(self: click.Command, context: click.Context) -> None:
        raise ReachedError

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(click.Command, "invoke", invoke)
    monkeypatch.setattr(sys, "argv", [words[0], *("1" if word == "N" else "96x128" if word == "HxW" else word for word in words[1:])])
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), str(ROOT), *sys.path])
    with pytest.raises(ReachedError):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.parametrize("shown", COMMANDS, ids=[f"{number} {shown.partition(': ')[0]}" for number, shown in enumerate(COMMANDS)])
def test_a_documented_command_works(shown: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    words, partial = COMMANDS[shown]
    try:
        run_shown(words, partial, world, monkeypatch)
    except (NassegError, click.ClickException) as error:
        pytest.fail(f"{shown}\n{error.format_message() if isinstance(error, click.ClickException) else error}")
    except SystemExit as error:
        pytest.fail(f"{shown}: ended with {error.code}")


def test_nothing_is_overlooked() -> None:
    verbs = {words[1] for words, _ in COMMANDS.values() if words[0] == "nasseg" and len(words) > 1}
    assert set(main.VERBS) <= verbs
    benches = {words[1] for words, _ in COMMANDS.values() if words[0] == "python"}
    # The others are modules that these import.
    commands = [path for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert benches == {f"bench/{path.name}" for path in commands}
    shown = {shown.place for shown in shown_commands()}
    spaces = {path.relative_to(ROOT).as_posix() for folder in ("search_spaces", "trainers") for path in (ROOT / folder).rglob("*.yaml")}
    assert sorted(spaces - shown) == []


PAGE = """
```sh
$ nasseg space stats tiny --size 8x8 \\
    --classes 3   # remark
torchrun --nproc-per-node 2 -m nasseg train X
nasseg show|train results/X [--json]  what it does
```
Prose with `nasseg cost --effective` and ``not this``, `nasseg.load`, and `nasseg train … --out
X`.
```python
nasseg space in_python
```
"""


def test_what_is_read_of_a_page() -> None:
    read = list(of_file("page.md", PAGE))
    assert [(one.text, one.mentioned) for one in read] == [
        ("nasseg space stats tiny --size 8x8 --classes 3   # remark", False),
        ("torchrun --nproc-per-node 2 -m nasseg train X", False),
        ("nasseg show|train results/X [--json]  what it does", False),
        ("nasseg cost --effective", True),
        ("nasseg train … --out X", True),
    ]
    assert list(read[0].variants()) == [(["nasseg", "space", "stats", "tiny", "--size", "8x8", "--classes", "3"], False)]
    assert [" ".join(words) for words, _ in read[2].variants()] == [
        "nasseg show results/X",
        "nasseg train results/X",
        "nasseg show results/X --json",
        "nasseg train results/X --json",
    ]
    assert list(read[4].variants()) == [(["nasseg", "train", "--out", "X"], True)]


def test_what_is_read_of_other_files() -> None:
    assert [one.text for one in of_file("a.yaml", "# nasseg show a \\\n#   --json\nkey: 1  # nasseg show b\n")] == ["nasseg show a --json"]
    assert [one.text for one in of_file("a.sh", 'say nasseg train "$out/search:best" \\\n  --out "$out/run"\n')] == [
        "nasseg train demo/search:best --out demo/run"
    ]
    source = '"""Text.\n\n    nasseg show x\n\nand ``nasseg show`` too."""\n'
    assert [(one.text, one.mentioned) for one in of_file("a.py", source)] == [("nasseg show x", False), ("nasseg show", True)]


WRONG = [
    ("nasseg serch tiny", "No such command"),
    ("nasseg space stat tiny", "No such command"),
    ("nasseg cost csap --backbone mit_b0 --size 64 --clases 3", "No such option"),
    ("nasseg cost csap --backbone mit_b0 --size 64", "Missing option '--classes'"),
    ("nasseg cost csapp --backbone mit_b0 --size 64 --classes 3", "neither a genotype file nor a published design"),
    ("nasseg cost csap --backbone mit_b9 --size 64 --classes 3", "unknown backbone"),
    ("nasseg search tinny --data D --backbone mit_b0 --size 64 --trials 2 --out results/X", "no such space"),
    ("nasseg search tiny --data D --backbone mit_b0 --budget flops=1G --size 64 --trials 2 --out results/X", "no such bound"),
    ("nasseg search tiny --data D --backbone mit_b0 --budget macs=1K --size 64 --trials 2 --out results/X", "fits this bound"),
    ("nasseg search tiny --data D --backbone mit_b0 --size 64 --trials 2 --objective fps --out results/X", "fps"),
    ("nasseg search tiny --data camvod:PATH --backbone mit_b0 --size 64 --trials 2 --out results/X", "unknown kind of data"),
    ("nasseg search tiny --data voc:PATH?augment=x --backbone mit_b0 --size 64 --trials 2 --out results/X", "unknown setting"),
    ("nasseg train csap --backbone mit_b0 --data D --schedule ade20k-170k --out runs/X", "ade20k-170k"),
    ("nasseg train csap --backbone mit_b0 --data D --set trainer.iteration=3 --out runs/X", "no such setting"),
    ("nasseg train csap --backbone mit_b0 --data D --trainer ful --out runs/X", "no such recipe"),
    ("nasseg train csap --backbone mit_b0 --data D --seed 1 --seed 2 --out runs/X", "takes one value"),
    ("nasseg train csap --backbone mit_b0 --data D --weights w.pth --pretrained --out runs/X", "give one of them"),
    ("nasseg trainers show proxi", "no such recipe"),
    ("nasseg eval runs/Y --mode slid", "must be one of"),
    ("torchrun --nprocs 2 -m nasseg train csap", "unrecognized"),
    ("python bench/cost.py --jsn", "unrecognized"),
    ("make tests", "no target tests"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_a_wrong_command_is_noticed(
    text: str, words: str, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ((given, partial),) = Shown("here", text).variants()
    with pytest.raises((NassegError, click.ClickException, SystemExit, AssertionError)) as error:
        run_shown(given, partial, world, monkeypatch)
    said = error.value.format_message() if isinstance(error.value, click.ClickException) else str(error.value)
    assert words in said + capfd.readouterr().err


def test_published_weights_without_a_cache_are_noticed(world: World) -> None:
    shutil.rmtree(world.folder / "hf")
    words = "train segformer --backbone mit_b0 --pretrained --data ade20k:PATH --schedule ade20k-160k --out runs/ade20k"
    with pytest.raises(NassegError, match="nvidia/mit-b0 on the Hugging Face Hub"):
        world.run(words.split(), partial=False)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's variables are not set: its commands run here as one process."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
