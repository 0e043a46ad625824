"""Whole networks before and after the fast decoder, with one set of weights: ``python bench/models.py [--before REV]``.

``before`` is the code of another revision, taken out of git into a folder of its own and run there by a process that imports nothing else;
``after`` is the code of this folder. Both load the same state dict (names must match to the last one) and read the same image. They run in
turn, three calls each of which the first is not counted, and the fastest of the repeats counts, so a busy machine slows both. The C
allocator keeps its pages on both sides.

``eval`` is one image under ``inference_mode``. ``train`` is forward and backward of the cross entropy on the logits' own grid, without
optimizer: two images up to 512×512, one above
(``--train-large``). ``decoder`` is the same with the backbone's maps held fixed. ``Δ`` is the largest difference
of a logit and, in training, of a gradient relative to that tensor's largest. ``memory`` is the peak over what was resident with the network
loaded: of the process on a CPU, of the allocator on CUDA.

Weights: ``--weights FOLDER`` is looked through for ``BACKBONE.safetensors``, otherwise the backbone starts at random. Then BatchNorm
statistics are set from images, and the decoder's queries and keys are scaled by 8 each: at initialisation every softmax is uniform,
which no trained network's is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import nasseg

# Only what the revision before has as well may be imported here: its process runs this file too.
from nasseg.genes.presets import preset
from nasseg.models.segmenter import build

HERE = Path(__file__).resolve().parents[1]
BEFORE = "72cd955"
"""The last revision whose decoder computes its formulas as they are written."""
TREES = ("nasseg", "trainers", "search_spaces")
TOLERANCE = 1e-4
SHARPEN = 8.0
KEEP = str(2**30)
TARGETS = {(512, 512): 2.0, (1024, 2048): 3.0}
"""How many times faster the decoder has to be on a CPU, by size, in eval."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One row of the table, as both processes are given it."""

    preset: str
    backbone: str
    height: int
    width: int
    classes: int
    mode: str
    device: str
    dtype: str
    threads: int
    weights: str

    @property
    def large(self) -> bool:
        """Whether the image is larger than a crop that networks are usually trained on."""
        return self.height * self.width > 512 * 512

    @property
    def batch(self) -> int:
        """Images of a call."""
        return 2 if self.mode == "train" and not self.large else 1


# In the process of one revision


def images(case: Case, batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Coarse patches under fine noise: (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse_B3hw = torch.randn(batch, 3, size[0] // 32, size[1] // 32, generator=generator)
    x_B3HW = F.interpolate(coarse_B3hw, size=size, mode="nearest") + 0.3 * torch.randn(batch, 3, *size, generator=generator)
    return x_B3HW.to(case.device)


class Runner:
    """The network of one revision, and what is asked of it."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(case.threads)
        self.case = case
        self.model = build(preset(case.preset, case.backbone), case.classes)
        self.model.load_state_dict(torch.load(case.weights, weights_only=True), strict=True)
        self.model.to(case.device).train(case.mode == "train")
        self.x_B3HW = images(case, case.batch, (case.height, case.width))
        self.features: list[Tensor] | None = None

    def answer(self, asked: str) -> Any:
        """``memory``, ``whole``, ``decoder`` (seconds), or the path of a file to write logits and gradients to."""
        if asked == "memory":
            return self.memory()
        if asked == "whole":
            return self.seconds(lambda: self.model(self.x_B3HW))
        if asked == "decoder":
            return self.seconds(self.decode)
        self.model.zero_grad(set_to_none=True)
        logits = self.call(lambda: self.model(self.x_B3HW))
        gradients = {name: p.grad.cpu() for name, p in self.model.named_parameters() if p.grad is not None}
        torch.save({"logits": logits.detach().float().cpu(), "gradients": gradients}, asked)
        return asked

    def call(self, forward: Callable[[], Tensor]) -> Tensor:
        """One pass in the case's mode."""
        cast = torch.autocast(self.case.device, DTYPES[self.case.dtype], enabled=self.case.dtype != "float32")
        if self.case.mode == "eval":
            with torch.inference_mode(), cast:
                return forward()
        with cast:
            logits_BKHW = forward()
        target_BHW = torch.arange(logits_BKHW[:, 0].numel(), device=logits_BKHW.device).reshape(logits_BKHW[:, 0].shape) % self.case.classes
        F.cross_entropy(logits_BKHW.float(), target_BHW).backward()
        return logits_BKHW

    def decode(self) -> Tensor:
        """Logits from fixed maps; in training they take a gradient, as the backbone's do."""
        if self.features is None:
            cast = torch.autocast(self.case.device, DTYPES[self.case.dtype], enabled=self.case.dtype != "float32")
            with torch.no_grad(), cast:
                self.features = [m.detach() for m in self.model.backbone(self.x_B3HW)]
        wanted = self.case.mode == "train"
        logits: Tensor = self.model.decoder([m.detach().requires_grad_(wanted) for m in self.features])
        return logits

    def seconds(self, forward: Callable[[], Tensor]) -> float:
        """Of the faster of two calls, after one that fills caches the other process has emptied."""
        times = []
        for _ in range(3):
            self.model.zero_grad(set_to_none=True)
            synchronize(self.case.device)
            start = time.perf_counter()
            self.call(forward)
            synchronize(self.case.device)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    def memory(self) -> int:
        """Bytes at the peak of the first call, over those before it."""
        if self.case.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            self.call(lambda: self.model(self.x_B3HW))
            return torch.cuda.max_memory_allocated() - held
        held = resident("VmRSS")
        self.call(lambda: self.model(self.x_B3HW))
        return resident("VmHWM") - held


def synchronize(device: str) -> None:
    """Wait for what runs on an accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def resident(field: str) -> int:
    """Bytes of a line of this process's status, as Linux tells them: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def serve() -> None:
    """Answer the questions on standard input, one JSON value a line."""
    runner = Runner(Case(**json.loads(sys.stdin.readline())))
    print(json.dumps(str(Path(nasseg.__file__).resolve().parents[1])), flush=True)
    for line in sys.stdin:
        print(json.dumps(runner.answer(line.strip())), flush=True)


# In the process that compares


@contextlib.contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The packages of a revision in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "tree.tar")
        subprocess.run(["git", "archive", "--output", str(archive), revision, *TREES], cwd=HERE, check=True)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="tar")
        yield Path(folder)


class Side:
    """A process with the network of one tree."""

    def __init__(self, tree: Path, case: Case) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            # Fresh pages are dear on virtual machines and drown the rest, so the C allocator keeps them (PyTorch's CPU tuning guide).
            env={**os.environ, "PYTHONPATH": str(tree), "MALLOC_TRIM_THRESHOLD_": KEEP, "MALLOC_MMAP_THRESHOLD_": KEEP},
        )
        imported = self.ask(json.dumps(asdict(case)))
        assert imported == str(tree.resolve()), f"the process of {tree} imported {imported}"

    def ask(self, line: str) -> Any:
        """One question, one answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a process of {self.process.args} ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End it and wait."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def store_weights(case: Case, folder: Path | None) -> None:
    """The state dict that both sides load."""
    torch.manual_seed(0)
    file = folder / f"{case.backbone}.safetensors" if folder else None
    model = build(preset(case.preset, case.backbone), case.classes, weights=str(file) if file and file.is_file() else None)
    for name, parameter in model.decoder.named_parameters():
        if name.endswith(("attention.query.weight", "attention.key.weight")):
            parameter.data.mul_(SHARPEN)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and (m in set(model.decoder.modules()) or not file)]
    for norm in norms:
        norm.momentum = 0.5
    with torch.no_grad():
        model.train()
        for seed in range(4):
            model(images(case, 2, (128, 128), seed))
    torch.save(model.state_dict(), case.weights)


def compared(before: Path, case: Case, repeats: int, seconds: float) -> dict[str, float]:
    """The figures of a row."""
    sides = [Side(before, case), Side(HERE, case)]
    try:
        memory = [side.ask("memory") for side in sides]
        best: dict[str, list[float]] = {}
        for what in ("whole", "decoder"):
            for side in sides:
                side.ask(what)
            best[what] = [float("inf")] * 2
            start = time.perf_counter()
            for done in range(repeats):
                if done and time.perf_counter() - start > seconds:
                    break
                best[what] = [min(so_far, side.ask(what)) for so_far, side in zip(best[what], sides, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            old, new = (torch.load(side.ask(str(Path(folder, f"{i}.pt"))), weights_only=True) for i, side in enumerate(sides))
    finally:
        for side in sides:
            side.close()
    assert old["gradients"].keys() == new["gradients"].keys()
    of_gradients = [float((new["gradients"][name] - g).abs().max() / g.abs().max().clamp_min(1e-6)) for name, g in old["gradients"].items()]
    return {
        "delta": float((new["logits"] - old["logits"]).abs().max()),
        "largest": float(old["logits"].abs().max()),
        "gradients": max(of_gradients, default=0.0),
        "model_before": best["whole"][0],
        "model_after": best["whole"][1],
        "decoder_before": best["decoder"][0],
        "decoder_after": best["decoder"][1],
        "memory_before": memory[0],
        "memory_after": memory[1],
    }


def row(case: Case, f: dict[str, float]) -> list[str]:
    """The cells of a row."""
    return [
        case.preset,
        case.backbone,
        f"{case.height}x{case.width}",
        str(case.classes),
        f"{case.mode} {case.batch}",
        f"{f['delta']:.1e} / {f['largest']:.1f}",
        f"{f['gradients']:.1e}" if case.mode == "train" else "",
        f"{1e3 * f['model_after']:.0f}",
        f"{f['model_before'] / f['model_after']:.2f}",
        f"{1e3 * f['decoder_after']:.1f}",
        f"{f['decoder_before'] / f['decoder_after']:.2f}",
        f"{f['memory_after'] / 2**20:.0f}",
        f"{f['memory_before'] / max(f['memory_after'], 1):.2f}",
    ]


def missed(case: Case, f: dict[str, float]) -> list[str]:
    """Targets that a row does not meet, in words."""
    where = f"{case.preset} on {case.backbone}, {case.height}x{case.width}, {case.mode}"
    out = []
    if case.dtype == "float32" and f["delta"] > TOLERANCE:
        out.append(f"{where}: logits differ by {f['delta']:.1e}, more than {TOLERANCE}")
    due = TARGETS.get((case.height, case.width))
    got = f["decoder_before"] / f["decoder_after"]
    if due is not None and case.mode == "eval" and case.device == "cpu" and got < due:
        out.append(f"{where}: the decoder is {got:.2f} times as fast, not {due:.0f}")
    return out


def parse_size(text: str) -> tuple[int, int, int]:
    """``HxW:K`` → (H, W, K)."""
    size, _, classes = text.partition(":")
    height, _, width = size.partition("x")
    return int(height), int(width), int(classes or 19)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, metavar="REV", help="revision to compare with (%(default)s)")
    parser.add_argument("--presets", nargs="+", default=["scaseg", "csap"])
    parser.add_argument("--backbones", nargs="+", default=["mit_b0"])
    parser.add_argument("--sizes", nargs="+", type=parse_size, metavar="HxW:CLASSES", default=[(512, 512, 150), (1024, 2048, 19)])
    parser.add_argument("--modes", nargs="+", choices=["eval", "train"], default=["eval", "train"])
    parser.add_argument("--train-large", action="store_true", help="training steps above 512x512 as well: minutes and 8 GiB a row")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each side, at most (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="after so long no further repeat begins (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="other than float32: autocast")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="published weights, BACKBONE.safetensors each")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    device = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else "CPU"
    if not given.json:
        console.print(
            f"before {given.before}, PyTorch {torch.__version__}, {device}, {given.threads} threads, {given.dtype}; × is before/after"
        )
    table = Table(box=None, pad_edge=False)
    for name in ("preset", "backbone", "size", "K", "mode", "Δ logit / largest", "Δ grad", "model ms", "×", "decoder ms", "×", "MiB", "×"):
        table.add_column(name, justify="left" if name in ("preset", "backbone", "mode") else "right", no_wrap=True)
    problems: list[str] = []
    with tree_of(given.before) as before:
        for height, width, classes in given.sizes:
            for name in given.presets:
                for backbone in given.backbones:
                    for mode in given.modes:
                        case = Case(
                            *(name, backbone, height, width, classes, mode, given.device, given.dtype, given.threads),
                            weights=str(before / "weights.pt"),
                        )
                        if mode == "train" and case.large and not given.train_large:
                            continue
                        store_weights(case, given.weights)
                        figures = compared(before, case, given.repeats, given.seconds)
                        problems += missed(case, figures)
                        table.add_row(*row(case, figures))
                        if given.json:
                            print(json.dumps({**asdict(case), **figures}), flush=True)
    if not given.json:
        console.print(table)
        for problem in problems:
            console.print(f"missed: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
