"""Checkpoints of others: what stands beside the tensors is read as data, and what would need code is refused unrun."""

from __future__ import annotations

import argparse
import io
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nasseg.errors import WeightsError
from nasseg.models.checkpoint_file import STAND_INS, read_checkpoint

TENSORS = {"a": torch.arange(3.0)}


class Elsewhere:
    """Classes of packages that are not installed, importable while a checkpoint is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    def define(self, whole: str, base: type = object, **members: Any) -> type:
        module_name, _, name = whole.rpartition(".")
        made = type(name, (base,), {"__module__": module_name, **members})
        module = types.ModuleType(module_name)
        setattr(module, name, made)
        parts = module_name.split(".")
        for end in range(1, len(parts)):
            self.patch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        self.patch.setitem(sys.modules, module_name, module)
        return made


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return Elsewhere(monkeypatch)


def saved(path: Path, content: Any, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    torch.save(content, path)
    if monkeypatch is not None:
        monkeypatch.undo()  # the packages are gone when the file is read
    return path


def test_an_mmengine_checkpoint_with_its_message_hub(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    history = elsewhere.define("mmengine.logging.history_buffer.HistoryBuffer", maximum=lambda self: None)
    buffer = history()
    buffer.__dict__.update(
        max_length=1_000_000,
        _log_history=np.array([1.5, 0.25]),
        _count_history=np.array([1, 1]),
        # As early versions write it: a reference to a method of the class, by way of getattr.
        _statistics_methods={"maximum": Method(history, "maximum")},
    )
    hub = {
        "log_scalars": OrderedDict([("train/loss", buffer)]),
        "runtime_info": OrderedDict(iter=160000),
        "resumed_keys": {"train/loss": True},
    }
    meta = {
        "cfg": "model = dict(type='EncoderDecoder')",
        "dataset_meta": {"classes": ("wall", "sky"), "palette": np.array([[1, 2, 3], [4, 5, 6]])},
    }
    path = saved(tmp_path / "iter_160000.pth", {"meta": meta, "state_dict": TENSORS, "message_hub": hub}, monkeypatch)
    found = read_checkpoint(path)
    assert torch.equal(found.tensors["a"], TENSORS["a"])
    assert found.beside["meta"]["cfg"] == meta["cfg"]
    assert found.beside["meta"]["dataset_meta"]["palette"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.beside["message_hub"]["runtime_info"] == {"iter": 160000}
    assert "mmengine" not in sys.modules


class Method:
    """Pickled as Python pickles a method: ``getattr(owner, name)``."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize("name", ["mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict", "addict.addict.Dict"])
def test_a_dictionary_class_becomes_a_dictionary(name: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = elsewhere.define(name, dict)
    if "mmengine" in name:  # which writes itself as a call with an ordinary dictionary

        def reduced(self: Any, protocol: int) -> tuple[Any, ...]:
            return type(self), (dict(self),)

        plain.__reduce_ex__ = reduced  # type: ignore[method-assign]
    path = saved(tmp_path / "x.pth", {"state_dict": TENSORS, "cfg": plain(lr=0.1, model=plain(depth=3))}, monkeypatch)
    assert read_checkpoint(path).beside["cfg"] == {"lr": 0.1, "model": {"depth": 3}}


def test_numbers_paths_and_command_lines(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, out=PosixPath("runs/a")),
        "best": np.float64(51.5),
        "seen": np.array([True, False]),
        "epoch": np.int64(7),
    }
    found = read_checkpoint(saved(tmp_path / "x.pth", {"model": TENSORS, **beside})).beside
    assert vars(found["args"]) == {"lr": 0.1, "out": "runs/a"}
    assert (found["best"], found["epoch"], found["seen"].tolist()) == (51.5, 7, [True, False])


def test_names_of_numpy_1_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "new.pth", {"state_dict": TENSORS, "x": np.arange(3), "y": np.float32(2.5)})
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core" in old.read_bytes()
    found = read_checkpoint(old).beside
    assert (found["x"].tolist(), found["y"]) == ([0, 1, 2], 2.5)


def test_the_list_is_not_left_with_torch(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(saved(tmp_path / "x.pth", {"state_dict": TENSORS, "n": np.float64(1)}))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("key", ["module.a", "model.a", "model.module.a", "_orig_mod.module.a"])
def test_wrappers_are_taken_off(key: str, tmp_path: Path) -> None:
    assert read_checkpoint(saved(tmp_path / "x.pth", {"state_dict": {key: TENSORS["a"]}})).tensors.keys() == {"a"}


class Payload:
    """A pickle that asks for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def hostile(kind: str, witness: Path) -> bytes:
    """A pickle that would write ``witness`` if it were let."""
    code = f"open({str(witness)!r}, 'w').close()"
    if kind == "os.system":
        import os  # noqa: PLC0415

        return pickle.dumps({"state_dict": Payload(os.system, f"touch {witness}")}, protocol=2)
    if kind == "eval":
        return pickle.dumps(Payload(eval, code), protocol=2)
    if kind == "exec by a later protocol":
        return pickle.dumps(Payload(exec, code), protocol=4)
    if kind == "subprocess":
        return pickle.dumps(Payload(subprocess.check_output, ["touch", str(witness)]), protocol=2)
    assert kind == "getattr to builtins"
    # getattr is on the list: what it gives must be nothing that can be called.
    return b"cbuiltins\ngetattr\n(cnumpy\nndarray\nX\x08\x00\x00\x00__init__tR(X%c\x00\x00\x00%stR." % (len(code), code.encode())


PAYLOADS = {
    "os.system": "names posix.system",
    "eval": "names eval",
    "exec by a later protocol": "needs code to be rebuilt",
    "subprocess": r"names \w+.check_output",
    "getattr to builtins": "needs code to be rebuilt",
}


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_hostile_file_is_refused_and_nothing_runs(kind: str, form: str, tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.pth"
    content = hostile(kind, witness)
    if form == "zip":
        torch.save({"a": torch.zeros(1)}, path)
        with zipfile.ZipFile(path) as source:
            parts = {name: source.read(name) for name in source.namelist()}
        with zipfile.ZipFile(path, "w") as target:
            for name, data in parts.items():
                target.writestr(name, content if name.endswith("data.pkl") else data)
    else:
        magic = io.BytesIO()
        torch.save({"a": torch.zeros(1)}, magic, _use_new_zipfile_serialization=False)
        magic.seek(0)
        # The file begins with a magic number, a protocol and the system's facts, each a pickle of its own; then comes the content.
        head = io.BytesIO(magic.getvalue())
        for _ in range(3):
            pickle.load(head)
        path.write_bytes(magic.getvalue()[: head.tell()] + content)
    with pytest.raises(
        WeightsError, match=f"evil.pth: holds more than tensors: it {PAYLOADS[kind]}, and loading that could run foreign code"
    ):
        read_checkpoint(path)
    assert not witness.exists()


def test_the_sentence_names_the_class_and_a_command_that_works(elsewhere: Elsewhere, tmp_path: Path) -> None:
    made = elsewhere.define("somebody.models.Network")
    path = saved(tmp_path / "it's.pth", {"state_dict": TENSORS, "extra": made()})
    with pytest.raises(
        WeightsError, match=r"holds more than tensors: it names somebody.models.Network, .* where you trust the file"
    ) as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)
    command = str(refused.value).partition("python -c ")[2]
    # Where the class can be imported, the command takes the tensors out.
    package = tmp_path / "somebody"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text("class Network: pass\n")
    subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True, env={"PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert torch.equal(load_file(tmp_path / "it's.safetensors")["a"], TENSORS["a"])
    assert torch.equal(read_checkpoint(tmp_path / "it's.safetensors").tensors["a"], TENSORS["a"])


def test_every_stand_in_is_without_behaviour() -> None:
    # What a stand-in makes out of hostile arguments is data.
    for kind in set(STAND_INS.values()):
        assert kind.__module__ == "nasseg.models.checkpoint_file"
        assert not {"__call__", "__getattr__", "__getattribute__", "__reduce__"} & set(vars(kind))
