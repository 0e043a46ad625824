"""The card of a bundle, its ``README.md``: what the network is, what it costs, how well it does, how that was measured, how to use it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm

from nasseg.cost.cost import PARTS, Cost
from nasseg.export.onnx_file import OPSET
from nasseg.export.parity import LOGIT_TOLERANCE, MIOU_TOLERANCE, Parity
from nasseg.export.preprocessing import Preprocessing
from nasseg.genes.genotype import Genotype
from nasseg.metric import label_and_split
from nasseg.models.backbones.pretrained import origin_of
from nasseg.models.backbones.registry import parse_name
from nasseg.models.folding import Folding
from nasseg.training.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of how a network came about; anything may be unknown.

    ``metrics`` by name in percent, ``per_class`` IoU in percent, ``protocol`` how they were measured, ``iteration`` when; ``settings`` of
    the ``trainer`` on ``data`` (its spec) with ``seed``; ``weights`` a local file the backbone started from, ``pretrained`` whether from
    timm's hub (None: not known); ``environment`` versions and device of the training. ``origin`` names whose network it is, where it was
    read from others' files and not trained here.
    """

    trainer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    seed: int | None = None
    iteration: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    pretrained: bool | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None


def card(
    genotype: Genotype,
    preprocessing: Preprocessing,
    cost: Cost,
    facts: Facts,
    parity: Parity,
    folding: Folding,
    versions: Mapping[str, Any],
) -> str:
    """The text. ``folding`` is what the ONNX file and the program fold, ``versions`` are those of the export."""
    sections = [
        _head(genotype, preprocessing, cost),
        _accuracy(preprocessing, facts),
        _use(preprocessing, parity),
        _files(preprocessing, folding, strips=any(genes is not None and genes.rank == 1 for genes in genotype.stages)),
        _cost(genotype, cost),
        _training(facts),
        _parity(parity),
        _limits(genotype, preprocessing, facts),
        f"Written by nasseg {versions.get('nasseg')} on {datetime.datetime.now(datetime.UTC):%Y-%m-%d} with "
        + ", ".join(f"{name} {versions[name]}" for name in versions if name != "nasseg")
        + ".",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def licence_note(backbone: str, pretrained: bool | None, weights: str | None) -> str:
    """What is known of the licence of the backbone's initial weights."""
    architecture, _ = parse_name(backbone)
    if weights is not None:
        return f"The backbone started from the weights file `{Path(weights).name}`: its licence, not known to nasseg, applies here too."
    if pretrained is None:
        return "What the backbone's weights started from, and its licence, is not known to nasseg."
    if not pretrained:
        return "The backbone was trained from scratch: no one else's weights are in here."
    origin = origin_of(architecture)
    if origin is not None:
        return f"The backbone started from published weights ({origin.name}), licence {origin.licence}."
    config = timm.get_pretrained_cfg(architecture)
    licence = getattr(config, "license", None)
    source = getattr(config, "hf_hub_id", None) or getattr(config, "url", None)
    named = f"The backbone started from timm's weights of `{architecture}`" + (f" ({source})" if source else "")
    return f"{named}, licence {licence}." if licence else f"{named}, for which timm names no licence."


def without_folders(spec: str) -> str:
    """``camvid:/home/me/camvid?holdout=x`` as ``camvid:…/camvid?holdout=x``: a card does not tell how a machine is laid out."""
    return re.sub(r"(^|:)(?:[^?:]*/)([^?/]+)/?", r"\1…/\2", spec, count=1)


def _head(genotype: Genotype, p: Preprocessing, cost: Cost) -> str:
    height, width = p.size
    return "\n".join(
        [
            f"# Segmentation of {_few(p.classes)}",
            "",
            f"A semantic-segmentation network: RGB image in, one of {p.num_classes} classes per pixel out. "
            f"Decoder found or chosen with nasseg, on the backbone `{genotype.backbone}`.",
            "",
            *_table(
                ("", ""),
                [
                    ("classes", ", ".join(p.classes)),
                    ("image size", f"{height}x{width} (height x width) in the exported files, to which images are resized"),
                    ("measured on", f"{_seen(p.evaluation)}"),
                    ("parameters", _count(cost.params)),
                    ("MACs", f"{_count(cost.macs)} for one image"),
                    ("decoder", f"`{genotype.short()}`"),
                    ("id", f"`{genotype.id}`"),
                ],
            ),
        ]
    )


def _seen(protocol: Protocol | None) -> str:
    """How images reached the network when it was measured, in words."""
    if protocol is None:
        return "not known"
    size = _plain(protocol.size)
    text = f"images stretched to {size}" if not protocol.keep_ratio else f"the largest that fits {size}, aspect kept"
    if protocol.size_divisor > 1:
        text += f", sides rounded up to multiples of {protocol.size_divisor}"
    text += ", padded to multiples of " + str(protocol.pad_multiple) if protocol.pad_multiple > 1 else ", not padded"
    if protocol.crop is not None and protocol.stride is not None:
        text += f"; windows of {_plain(protocol.crop)} every {_plain(protocol.stride)}"
    return text + (f"; scales {_plain(protocol.scales)}" if protocol.scales != (1.0,) else "") + ("; mirrored too" if protocol.flip else "")


def _accuracy(p: Preprocessing, facts: Facts) -> str:
    if not facts.metrics:
        return "## Accuracy\n\nNot known: the network was exported without measurements."
    rows = []
    for name, value in facts.metrics.items():
        label, split = label_and_split(name)
        rows.append((label, split or str(facts.protocol.get("split", "val")), f"{value:.2f} %"))
    protocol = "; ".join(f"{key} {_plain(value)}" for key, value in facts.protocol.items())
    lines = ["## Accuracy", "", *_table(("measure", "split", "value"), rows), ""]
    if facts.per_class:
        per_class = [(name, f"{facts.per_class[name]:.2f} %" if name in facts.per_class else "no pixels") for name in p.classes]
        lines += [*_table(("class", "IoU"), per_class), ""]
    lines.append(
        f"Protocol: {protocol or 'not recorded'}." + (f" Weights of iteration {facts.iteration}." if facts.iteration is not None else "")
    )
    lines.append("Intersection and union are summed over the whole split; classes without a pixel in truth and prediction are left out.")
    return "\n".join(lines)


def _use(p: Preprocessing, parity: Parity) -> str:
    return f"""## Use

With ONNX Runtime alone, in this folder:

```python
{onnxruntime_example()}
```

{_as_measured(p, parity)}

With nasseg, on images of any size (`nasseg predict . IMAGE… --out DIR` draws them as they were measured):

```python
import nasseg
import torch

model = nasseg.load_bundle(".")
x = torch.zeros(1, {p.in_chans}, {p.size[0]}, {p.size[1]})  # normalised images
with torch.inference_mode():
    mask = model.predict(x).argmax(1)
```

With torch alone: `torch.export.load("model.pt2").module()` is the same function, for batches of {p.size[0]}x{p.size[1]} images."""


def _as_measured(p: Preprocessing, parity: Parity) -> str:
    """Whether the ONNX Runtime example sees images as the accuracy was measured, and what it reaches where it does not."""
    size = f"{p.size[0]}x{p.size[1]}"
    if p.evaluation is None:
        return f"That stretches every image to {size}; how the network was measured is not known."
    stretched = Protocol(size=p.size, pad_multiple=p.pad_multiple)
    if p.evaluation == stretched:
        return f"That stretches every image to {size}, which is how the accuracy above was measured."
    found = ""
    if parity.miou is not None and p.evaluation.at(p.size) == stretched:
        found = f": so measured, the module has {parity.miou:.2f} % mIoU over {parity.images} images of the validation split"
    return (
        f"That stretches every image to {size}, the one size the exported files take. The accuracy above was measured otherwise "
        f"(see its protocol), and holds for `nasseg eval .` and `nasseg predict .`{found}."
    )


def onnxruntime_example() -> str:
    """From ``image.png`` to ``mask.png`` with the files of a bundle, numpy, Pillow and ONNX Runtime."""
    return """\
import json
from pathlib import Path
import numpy as np
import onnxruntime
from PIL import Image

p = json.loads(Path("preprocessing.json").read_text())
session = onnxruntime.InferenceSession("model.onnx")
image = Image.open("image.png").convert("RGB")
pixels = np.asarray(image.resize(p["size"][::-1], Image.Resampling.BILINEAR))
x = ((pixels * p["scale"] - p["mean"]) / p["std"]).transpose(2, 0, 1)[None].astype(np.float32)
logits = session.run(["logits"], {"image": x})[0][0]

# The logits of each class are enlarged to the image first, then the largest wins: class numbers cannot be enlarged as finely.
best = np.full(image.size[::-1], -np.inf, dtype=np.float32)
mask = np.zeros(image.size[::-1], dtype=np.uint8)
for number, plane in enumerate(logits):
    enlarged = Image.fromarray(plane).resize(image.size, Image.Resampling.BILINEAR, box=(0, 0, *p["image_cells"][::-1]))
    mask[np.asarray(enlarged) > best] = number
    best = np.maximum(best, enlarged)
Image.fromarray(mask).save("mask.png")"""


def _files(p: Preprocessing, folding: Folding, *, strips: bool) -> str:
    size, logits = f"{p.size[0]}, {p.size[1]}", f"{p.logits_size[0]}, {p.logits_size[1]}"
    return "\n".join(
        [
            "## Files",
            "",
            *_table(
                ("file", "what it is"),
                [
                    ("`genotype.yaml`", "the network's structure, every gene"),
                    ("`model.safetensors`", "its weights, float32"),
                    (
                        "`model.onnx`",
                        f"opset {OPSET}: `image` (batch, {p.in_chans}, {size}) to `logits` (batch, {p.num_classes}, {logits}), any batch",
                    ),
                    ("`model.pt2`", "the same as a `torch.export` program"),
                    ("`preprocessing.json`", "normalisation, sizes, class names and colours"),
                ],
            ),
            "",
            f"In the ONNX file and the program: {folding}. The weights in `model.safetensors` are as they were trained."
            + (" Strips of attention stand there in their exact form; the module interpolates them within 1e-4." if strips else ""),
        ]
    )


def _cost(genotype: Genotype, cost: Cost) -> str:
    rows = []
    for name in PARTS:
        part = cost.parts[name]
        if part.params or part.macs:
            rows.append((name, f"{part.params:,}", f"{part.macs:,}", f"{100 * part.macs / max(1, cost.macs):.1f} %"))
    rows.append(("**all**", f"{cost.params:,}", f"{cost.macs:,}", "100.0 %"))
    return "\n".join(
        [
            "## Cost",
            "",
            f"One image of {cost.size[0]}x{cost.size[1]}, {cost.classes} classes; convolutions, linear layers and matrix products. "
            f"As fvcore counts: {_count(cost.macs_fvcore)}.",
            "",
            *_table(("part", "parameters", "MACs", "share"), rows),
        ]
    )


def _training(facts: Facts) -> str:
    if facts.origin is not None:
        return f"## Training\n\nNot trained with nasseg: {facts.origin}."
    if facts.trainer is None and not facts.settings and facts.data is None:
        return "## Training\n\nNot known: the network was exported from Python without its history."
    rows = [("trainer", facts.trainer), ("data", None if facts.data is None else without_folders(facts.data)), ("seed", facts.seed)]
    rows += [(name, value) for name, value in facts.settings.items()]
    shown = [(name, f"`{_plain(value)}`") for name, value in rows if value is not None]
    ran = "; ".join(f"{name} {value}" for name, value in facts.environment.items() if value is not None)
    return "\n".join(["## Training", "", *_table(("setting", "value"), shown), *(["", f"Trained with: {ran}."] if ran else [])])


def _parity(parity: Parity) -> str:
    rows = []
    for one in parity.agreements:
        miou = "not measured" if one.miou is None or parity.miou is None else f"{one.miou:.3f} % ({one.miou - parity.miou:+.3f})"
        rows.append((one.name, f"{one.delta:.2g}", f"{one.relative:.1g}", f"{one.same:.3f} %", miou))
    measured = (
        f"mIoU of the module over {parity.images} images of the validation split: {parity.miou:.3f} %."
        if parity.miou is not None
        else "mIoU was not compared: the data were not at hand."
    )
    return "\n".join(
        [
            "## Agreement of the files",
            "",
            f"Each file against the trained module, before this bundle was written; logits on {parity.pictures}. {measured} "
            f"Allowed: {LOGIT_TOLERANCE:g} of the largest logit, {MIOU_TOLERANCE:g} points of mIoU.",
            "",
            *_table(("file", "largest logit difference", "of the largest logit", "cells of equal class", "mIoU"), rows),
        ]
    )


def _limits(genotype: Genotype, p: Preprocessing, facts: Facts) -> str:
    assert genotype.backbone is not None
    lines = [
        "## Limits and licence",
        "",
        "- It knows its classes only: anything else in a picture is given one of them.",
        "- Its numbers hold for images like those it was measured on.",
        "- Things much smaller or larger than in its training are found less well.",
        f"- ONNX and program files take images of {p.size[0]}x{p.size[1]} only; the module takes any.",
        "- "
        + (
            f"The weights are others' ({facts.origin}): their licence, not known to nasseg, applies."
            if facts.origin is not None
            else licence_note(genotype.backbone, facts.pretrained, facts.weights)
        ),
        "- The licence of the training images may bind how the weights are used.",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


def _few(names: Sequence[str]) -> str:
    """``road, sky and 9 more``."""
    if len(names) <= 3:
        return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more classes"


def _count(number: int) -> str:
    """``1.93 G``, ``4.91 M``, ``812 k``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _plain(value: Any) -> str:
    """A setting as one would type it: sizes as HxW, words for booleans."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value)) if len(value) == 2 and all(type(v) is int for v in value) else ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
