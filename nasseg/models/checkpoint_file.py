"""Weights files of others, read as data: tensors, and what lies beside them. No code of the file's choosing runs.

A PyTorch checkpoint is a pickle. It is read by ``torch.load(weights_only=True)``, which builds tensors and plain containers and refuses
every other class, but for those of :data:`STAND_INS` and numpy's numbers and arrays: training frameworks put them beside the weights. A
class of ``STAND_INS`` is never imported; a stand-in of ours without behaviour takes its place.
"""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nasseg.errors import WeightsError

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
ENDINGS = (SAFETENSORS, *PICKLED)
_INNER = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts put the tensors, averaged ones first
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # DistributedDataParallel, torch.compile, Lightning


@dataclass(frozen=True)
class Contents:
    """What a weights file holds: tensors by name, and the plain data that stood beside them at the top of a checkpoint (``meta``, …)."""

    tensors: dict[str, Tensor]
    beside: Mapping[str, Any] = field(default_factory=dict)


class Blank:
    """Stands for an object nobody reads: takes any arguments and any state, and keeps nothing."""

    def __new__(cls, *args: Any) -> Blank:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Settings:
    """Stands for a dictionary class of a configuration library: what is made of it is an ordinary ``OrderedDict``."""

    def __new__(cls, *args: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict(*args)


class Attributes:
    """Stands for an object with attributes alone, such as ``argparse.Namespace``."""


class PathText:
    """Stands for a path: its parts, joined by slashes."""

    def __new__(cls, *parts: Any) -> str:  # type: ignore[misc]
        return "/".join(str(part) for part in parts)


class EmptyArray:
    """Stands for numpy's function that begins an array; the array's state, which follows in the file, gives it type, shape and numbers."""

    def __new__(cls, *args: Any) -> np.ndarray[Any, Any]:  # type: ignore[misc]
        return np.ndarray((0,), dtype=np.int8)


class Number:
    """Stands for numpy's function that makes a number of a type and its bytes."""

    def __new__(cls, dtype: np.dtype[Any], data: Any) -> Any:
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=dtype)[0]


STAND_INS: dict[str, type] = {
    # mmengine's message_hub: the curves of the training.
    "mmengine.logging.history_buffer.HistoryBuffer": Blank,
    # How an early HistoryBuffer names its own methods. Nothing is looked up.
    "builtins.getattr": Blank,
    "mmengine.config.config.ConfigDict": Settings,
    "mmcv.utils.config.ConfigDict": Settings,
    "addict.addict.Dict": Settings,
    "argparse.Namespace": Attributes,
    "pathlib.PosixPath": PathText,
    "pathlib.WindowsPath": PathText,
    "numpy.core.multiarray._reconstruct": EmptyArray,
    "numpy._core.multiarray._reconstruct": EmptyArray,
    "numpy.core.multiarray.scalar": Number,
    "numpy._core.multiarray.scalar": Number,
}
"""The classes and functions that a checkpoint may name beside torch's own, and what is put in their place."""


def _allowed() -> list[type]:
    """For torch's list of safe classes, which goes by module and name: each stand-in under the name it is called by."""
    made = []
    for whole, kind in STAND_INS.items():
        module, _, name = whole.rpartition(".")
        made.append(type(name, (kind,), {"__module__": module}))
    types: list[Any] = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    return [*made, np.ndarray, np.dtype, *(kind for kind in types if issubclass(kind.type, np.number | np.bool_))]


ALLOWED = _allowed()


def read_checkpoint(path: str | Path) -> Contents:
    """The tensors of a ``.safetensors`` file or of a PyTorch checkpoint, and what a checkpoint holds beside them.

    A checkpoint's ``state_dict`` (or ``model``, averaged weights first) is taken; wrappers' prefixes are stripped. Raises
    :class:`WeightsError` for a file that cannot be read, and for a checkpoint with classes that are on no list, naming them and the
    command that makes a file without them.
    """
    file = Path(path)
    if not file.exists():
        raise WeightsError(f"{path}: no such weights file")
    if file.is_dir():
        inside = sorted(child.name for child in file.iterdir() if child.suffix in ENDINGS)
        hint = f", such as {inside[0]}" if inside else ""
        raise WeightsError(f"{path}: is a folder; name a weights file in it{hint}")
    if file.suffix == SAFETENSORS:
        try:
            content: Any = load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not readable as safetensors: {error}") from error
    elif file.suffix in PICKLED:
        content = _unpickled(file)
    else:
        ending = file.suffix or "no ending"
        raise WeightsError(f"{path}: weights are read from files that end in {', '.join(ENDINGS)}, not in {ending}")
    return _unwrapped(content, path)


def _unpickled(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():  # type: ignore[arg-type]
            # torch warns of a pickle protocol it does not write, and then reads it or says what it cannot.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(file, str(error))) from error
    except Exception as error:  # the file decides what the reader is made to do, and so what it fails with
        lines = str(error).splitlines() or [type(error).__name__]
        raise WeightsError(f"{file}: not readable as a PyTorch checkpoint: {lines[0]}") from error


def _refusal(file: Path, said: str) -> str:
    """One sentence for a pickle that wants more than data: which class, and how to get the tensors out where the file is trusted."""
    named = re.search(r"GLOBAL (\S+)", said)
    what = f"names {named[1]}" if named else "needs code to be rebuilt"
    code = (
        "import torch; from safetensors.torch import save_file; "
        f'c = torch.load({json.dumps(str(file))}, map_location="cpu", weights_only=False); '
        f'save_file({{k: v.contiguous() for k, v in c.get("state_dict", c).items()}}, {json.dumps(str(file.with_suffix(SAFETENSORS)))})'
    )
    return (
        f"{file}: holds more than tensors: it {what}, and loading that could run foreign code; where you trust the file, take its tensors "
        f"out in the environment it was written in: python -c {shlex.quote(code)}"
    )


def _unwrapped(content: Any, path: str | Path) -> Contents:
    beside: Mapping[str, Any] = {}
    for inner in _INNER:
        if isinstance(content, Mapping) and isinstance(content.get(inner), Mapping):
            beside = {str(key): value for key, value in content.items() if key not in _INNER}
            content = content[inner]
            break
    found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        raise WeightsError(f"{path}: holds no named tensors")
    for wrapper in (*_WRAPPERS, *_WRAPPERS):
        if all(key.startswith(wrapper) for key in found):
            found = {key.removeprefix(wrapper): value for key, value in found.items()}
    return Contents(found, beside)
