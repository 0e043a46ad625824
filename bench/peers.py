"""Published networks as nasseg loads them against the originals: ``python bench/peers.py [--only TEXT] [--json]``.

Each network gets random weights in its original code, is written to a file as that code writes it, and is read with
:class:`nasseg.published.network.Published`. The table has the largest difference of a logit beside the largest logit, and the share of
cells with the same class: on an image whose sides are multiples of 32 and, where the original takes it, on one whose sides are not. Needs
the dev extra (transformers, segmentation-models-pytorch). Exit code 1 if a logit differs by more than ``--tolerance``, or a cell's class
does where its two largest logits are further apart than that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nasseg.models.backbones.mit import MIT_SHAPES
from nasseg.published.network import Published

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from kits_lineage import CASES, SMALL, Case
from kits_published import MmsegSegFormer, hugging_face, image, nvlabs, smp_logits, smp_segformer

TOLERANCE = 1e-4
CLASSES = 19
MULTIPLES, OTHERS = (128, 192), (125, 187)
"""Sides that are multiples of 32, and sides that leave 29 and 27 over."""


@dataclass(frozen=True)
class Peer:
    """An original: ``save`` writes it into a folder and gives the path, ``logits`` computes it, ``any_size``: images of ``OTHERS``, too."""

    name: str
    source: str
    save: Callable[[Path], Path]
    logits: Callable[[Tensor], Tensor]
    any_size: bool


@dataclass(frozen=True)
class Figures:
    """One network at one size. ``decided`` are the cells of another class whose two largest logits are not within the tolerance."""

    name: str
    source: str
    size: tuple[int, int]
    delta: float
    largest: float
    same: float
    decided: int

    def within(self, tolerance: float) -> bool:
        return self.delta <= tolerance and self.decided == 0


def peers(only: str) -> Iterator[Peer]:
    """The originals whose name and source hold ``only``, made one at a time."""
    for name, make in (*transformers_peers(), *smp_peers(), *mmseg_peers(), *reference_peers()):
        if only in name:
            yield make()


def transformers_peers() -> Iterator[tuple[str, Callable[[], Peer]]]:
    for name, shape in MIT_SHAPES.items():
        width = 256 if name in ("mit_b0", "mit_b1") else 768

        def make(name: str = name, shape: Any = shape, width: int = width) -> Peer:
            sizes = {"depths": shape.depths, "hidden_sizes": shape.channels, "decoder_hidden_size": width}
            network: Any = hugging_face(CLASSES, **sizes)

            def save(folder: Path) -> Path:
                network.save_pretrained(folder)
                return folder

            return Peer(f"SegFormer on {name}, {width} wide", "transformers", save, lambda x: network(x).logits, True)

        yield f"transformers SegFormer {name}", make


def smp_peers() -> Iterator[tuple[str, Callable[[], Peer]]]:
    for name in MIT_SHAPES:

        def make(name: str = name, authors: bool = False) -> Peer:
            network: Any = smp_segformer(CLASSES, name)

            def save(folder: Path) -> Path:
                if not authors:
                    network.save_pretrained(folder)
                    return folder
                torch.save({"state_dict": nvlabs(network.state_dict(), CLASSES)}, folder / "segformer.pth")
                return folder / "segformer.pth"

            source = "the authors' names, smp's modules" if authors else "segmentation_models_pytorch"
            return Peer(f"SegFormer on {name}, 256 wide", source, save, partial(smp_logits, network), False)

        yield f"segmentation_models_pytorch SegFormer {name}", make
        if name == "mit_b0":
            yield f"NVlabs SegFormer {name}", partial(make, authors=True)


def mmseg_peers() -> Iterator[tuple[str, Callable[[], Peer]]]:
    def make() -> Peer:
        network = MmsegSegFormer(256, CLASSES)

        def save(folder: Path) -> Path:
            torch.save({"state_dict": network.published()}, folder / "iter_160000.pth")
            return folder / "iter_160000.pth"

        return Peer("SegFormer on mit_b0, BatchNorms, 256 wide", "mmsegmentation's names", save, network, True)

    yield "mmsegmentation SegFormer mit_b0", make


def reference_peers() -> Iterator[tuple[str, Callable[[], Peer]]]:
    """Decoders written once more in tests/references; the encoder is transformers' or smp's MiT, or our own MSCAN."""
    for name, case in CASES.items():

        def make(case: Case = case) -> Peer:
            encoder = case.encoder()
            head = case.head(SMALL, CLASSES, case.width)

            def save(folder: Path) -> Path:
                weights = {f"decode_head.{key}": value for key, value in head.state_dict().items()}
                torch.save({"state_dict": encoder.state | weights}, folder / "iter_160000.pth")
                return folder / "iter_160000.pth"

            name = f"{case.kind} on {encoder.name.partition('?')[0]}, {case.width} wide"
            return Peer(name, "tests/references", save, lambda x: head(encoder.maps(x)), case.any_size)

        yield f"references {name}", make


def measured(peer: Peer, tolerance: float) -> Iterator[Figures]:
    """The original and nasseg's reading of its file on the same images."""
    with tempfile.TemporaryDirectory() as folder:
        model = Published.open(peer.save(Path(folder))).model()
    for size in (MULTIPLES, OTHERS) if peer.any_size else (MULTIPLES,):
        x_BCHW = image(size)
        with torch.no_grad():
            theirs, ours = peer.logits(x_BCHW), model(x_BCHW)
        top = theirs.topk(2, dim=1).values
        differing = theirs.argmax(1) != ours.argmax(1)
        decided = differing & (top[:, 0] - top[:, 1] > tolerance)
        yield Figures(
            peer.name,
            peer.source,
            size,
            float((theirs - ours).abs().max()),
            float(theirs.abs().max()),
            1 - float(differing.double().mean()),
            int(decided.sum()),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose source, design or encoder holds this")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest difference of a logit")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    table = Table(box=None, pad_edge=False)
    for column in ("network", "original", "image"):
        table.add_column(column)
    for column in ("largest Δlogit", "largest logit", "same class"):
        table.add_column(column, justify="right")
    rows = []
    for peer in peers(given.only):
        for row in measured(peer, given.tolerance):
            rows.append(row)
            if given.json:
                print(json.dumps(asdict(row)), flush=True)
            mark = "" if row.within(given.tolerance) else "  too far"
            at = f"{row.size[0]}x{row.size[1]}"
            table.add_row(row.name, row.source, at, f"{row.delta:.1e}{mark}", f"{row.largest:.2f}", f"{100 * row.same:.4f} %")
    if not rows:
        sys.exit(f"no network's name holds {given.only!r}")
    if not given.json:
        Console().print(table)
    sys.exit(any(not row.within(given.tolerance) for row in rows))


if __name__ == "__main__":
    main()
