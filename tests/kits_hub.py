"""Published encoders as they lie in caches, made here: random weights under the publishers' names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIT_B0 = ((2, 2, 2, 2), (32, 64, 160, 256))
MSCAN_T = ((3, 3, 5, 2), (32, 64, 160, 256))


def mit_names(depths: tuple[int, ...], widths: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in ``nvidia/mit-b*``: Hugging Face's SegFormer with a classifier of 1000 classes."""

    def both(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    encoder = "segformer.encoder"
    for stage, (depth, width, reduction) in enumerate(zip(depths, widths, (8, 4, 2, 1), strict=True)):
        kernel, before = (7, 3) if stage == 0 else (3, widths[stage - 1])
        yield from both(f"{encoder}.patch_embeddings.{stage}.proj", width, before, kernel, kernel)
        yield from both(f"{encoder}.patch_embeddings.{stage}.layer_norm", width)
        for block in range(depth):
            at = f"{encoder}.block.{stage}.{block}"
            yield from both(f"{at}.layer_norm_1", width)
            for part in ("query", "key", "value"):
                yield from both(f"{at}.attention.self.{part}", width, width)
            if reduction > 1:
                yield from both(f"{at}.attention.self.sr", width, width, reduction, reduction)
                yield from both(f"{at}.attention.self.layer_norm", width)
            yield from both(f"{at}.attention.output.dense", width, width)
            yield from both(f"{at}.layer_norm_2", width)
            yield from both(f"{at}.mlp.dense1", 4 * width, width)
            yield from both(f"{at}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            yield from both(f"{at}.mlp.dense2", width, 4 * width)
        yield from both(f"{encoder}.layer_norm.{stage}", width)
    yield from both("classifier", 1000, widths[-1])


def mscan_names(depths: tuple[int, ...], widths: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of SegNeXt's MSCAN with mmsegmentation's plain depthwise convolution in the FFN."""

    def both(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{leaf}", (width,)
        yield f"{name}.num_batches_tracked", ()

    for stage, (depth, width, ratio) in enumerate(zip(depths, widths, (8, 8, 4, 4), strict=True), start=1):
        embed = f"patch_embed{stage}"
        if stage == 1:
            yield from both(f"{embed}.proj.0", width // 2, 3, 3, 3)
            yield from norm(f"{embed}.proj.1", width // 2)
            yield from both(f"{embed}.proj.3", width, width // 2, 3, 3)
            yield from norm(f"{embed}.proj.4", width)
        else:
            yield from both(f"{embed}.proj", width, widths[stage - 2], 3, 3)
            yield from norm(f"{embed}.norm", width)
        for block in range(depth):
            at = f"block{stage}.{block}"
            yield f"{at}.layer_scale_1", (width,)
            yield f"{at}.layer_scale_2", (width,)
            yield from norm(f"{at}.norm1", width)
            yield from norm(f"{at}.norm2", width)
            yield from both(f"{at}.attn.proj_1", width, width, 1, 1)
            yield from both(f"{at}.attn.proj_2", width, width, 1, 1)
            gate = f"{at}.attn.spatial_gating_unit"
            yield from both(f"{gate}.conv0", width, 1, 5, 5)
            for strip, length in enumerate((7, 11, 21)):
                yield from both(f"{gate}.conv{strip}_1", width, 1, 1, length)
                yield from both(f"{gate}.conv{strip}_2", width, 1, length, 1)
            yield from both(f"{gate}.conv3", width, width, 1, 1)
            yield from both(f"{at}.mlp.fc1", ratio * width, width, 1, 1)
            yield from both(f"{at}.mlp.dwconv", ratio * width, 1, 3, 3)
            yield from both(f"{at}.mlp.fc2", width, ratio * width, 1, 1)
        yield from both(f"norm{stage}", width)
    yield from both("head", 1000, widths[-1])


def drawn(names: Iterator[tuple[str, tuple[int, ...]]], seed: int = 0) -> State:
    """Random tensors of these names and shapes; counters are whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) if shape else torch.tensor(7) for name, shape in names}


def mit_b0(seed: int = 0) -> State:
    """``nvidia/mit-b0`` with random weights."""
    return drawn(mit_names(*MIT_B0), seed)


def mscan_t(seed: int = 0) -> State:
    """OpenMMLab's ``mscan_t`` with random weights."""
    return drawn(mscan_names(*MSCAN_T), seed)


SAVE: dict[str, Callable[[State, Path], None]] = {
    "model.safetensors": lambda state, path: save_file(state, path),
    "pytorch_model.bin": lambda state, path: torch.save(state, path),
}


def hub_cache(
    home: Path, state: State, *, name: str = "pytorch_model.bin", repository: str = "nvidia/mit-b0", commit: str = COMMIT
) -> Path:
    """Puts a repository into ``home`` (HF_HOME) as huggingface_hub lays it out: content under its hash in ``blobs``, a link to it in the
    snapshot of a commit, the branch's commit in ``refs``. Gives the snapshot's file."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    fresh = root / "blobs" / "incoming"
    SAVE[name](state, fresh)
    blob = fresh.rename(fresh.with_name(hashlib.sha256(fresh.read_bytes()).hexdigest()))
    link = root / "snapshots" / commit / name
    link.symlink_to(Path("..", "..", "blobs", blob.name))
    return link
