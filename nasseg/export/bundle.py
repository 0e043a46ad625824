"""A bundle: one folder with everything that leaves the house. Written whole or not at all, checked before it is moved into place."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import nasseg
from nasseg.data.dataset import Split
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, DataError, ExportFailed, NassegError
from nasseg.export.card import Facts, card
from nasseg.export.onnx_file import load_onnx, write_onnx
from nasseg.export.parity import Parity, compare
from nasseg.export.place import beside, check_target, move
from nasseg.export.predict import module_forward
from nasseg.export.preprocessing import Preprocessing
from nasseg.export.program import first_line, load_program, trace, write_program
from nasseg.files import write_atomic
from nasseg.genes.genotype import Genotype
from nasseg.models.costing import cost
from nasseg.models.folding import Folding
from nasseg.models.segmenter import SegModel, build
from nasseg.training.rundir import RunDir
from nasseg.training.windows import Forward

FILES = GENOTYPE, WEIGHTS, PREPROCESSING, ONNX, PROGRAM, CARD = (
    "genotype.yaml", "model.safetensors", "preprocessing.json", "model.onnx", "model.pt2", "README.md",
)  # fmt: skip
"""The files of a bundle."""
ESSENTIAL = (GENOTYPE, WEIGHTS, PREPROCESSING)
"""A folder that holds these is a bundle; the others are made from them."""
IMAGES = 32
"""Images of the validation split that mIoU is compared on, unless told otherwise."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written: where, its files with their sizes in bytes, how far they agree with the module, and what the ONNX file and
    the program fold."""

    path: Path
    files: tuple[tuple[str, int], ...]
    parity: Parity
    folding: Folding


def export_model(
    model: SegModel,
    out: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing,
    facts: Facts | None = None,
    split: Split | None = None,
    images: int = IMAGES,
    force: bool = False,
    say: Say = lambda line: None,
) -> Exported:
    """Write a bundle of a trained network.

    The files are made in a folder beside ``out``, read back and compared with ``model`` (:mod:`nasseg.export.parity`; mIoU on ``images``
    images of ``split``, where given), and only then moved into place. ``out`` must not exist, be empty, or, with ``force``, be a bundle,
    which is replaced. ``say`` hears what is being done.

    Raises :class:`ExportFailed` where a file cannot be made or does not compute what the module computes, :class:`BundleError` for an
    ``out`` that cannot be used and for a preprocessing that does not fit the network. Nothing is left behind then.
    """
    _fits(model, preprocessing)
    target = Path(out)
    check_target(target, needed=ESSENTIAL, known=FILES, force=force)
    module = copy.deepcopy(model).cpu().float().eval()
    genotype, size, in_chans = model.genotype, preprocessing.size, preprocessing.in_chans
    with beside(target) as folder:
        genotype.save(folder / GENOTYPE)
        preprocessing.save(folder / PREPROCESSING)
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / WEIGHTS)
        say(f"writing {PROGRAM}")
        with _making(PROGRAM):
            traced = trace(module, size, in_chans)
            write_program(traced.program, folder / PROGRAM)
        say(f"writing {ONNX}")
        with _making(ONNX):
            write_onnx(traced.program, folder / ONNX, preprocessing.to_dict())
        say("comparing the files with the module")
        files: dict[str, Forward] = {
            ONNX: load_onnx(folder),
            PROGRAM: load_program(folder),
            WEIGHTS: module_forward(load_bundle(folder)),
        }
        parity = compare(module_forward(module), files, preprocessing, split, images)
        parity.check()
        counted = cost(genotype, size=size, num_classes=preprocessing.num_classes, in_chans=in_chans)
        versions = {"nasseg": nasseg.__version__, **{name: version(name) for name in ("torch", "onnx", "onnxruntime", "timm")}}
        write_atomic(folder / CARD, card(genotype, preprocessing, counted, facts or Facts(), parity, traced.folding, versions))
        move(folder, target)
    return Exported(
        target, tuple((name, (target / name).stat().st_size) for name in sorted(p.name for p in target.iterdir())), parity, traced.folding
    )


def export_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | None = None,
    images: int = IMAGES,
    force: bool = False,
    say: Say = lambda line: None,
) -> Exported:
    """Write the bundle of a training run: its kept weights, its numbers, its history.

    ``data`` is where the run's data lie now, if they have moved. Where they are not at hand and ``data`` is not given, mIoU is not
    compared and the card says so. Raises what :func:`export_model` raises, :class:`BundleError` for a folder that is no finished run, and
    :class:`nasseg.errors.DataError` for ``data`` that cannot be read or has other classes.
    """
    check_target(Path(out), needed=ESSENTIAL, known=FILES, force=force)
    folder = RunDir.open(run)
    measured = folder.metrics
    model = folder.load_model()
    split = _validation(folder, data, say) if images > 0 else None
    known = folder.facts
    preprocessing = run_preprocessing(folder, model, None if split is None else typical_size(split))
    facts = Facts(
        trainer=known["trainer"],
        settings=known["settings"],
        data=known["data"],
        seed=known["seed"],
        iteration=measured.get("iteration"),
        metrics=measured.get("metrics", {}),
        per_class=measured.get("per_class", {}),
        protocol=measured.get("protocol", {}),
        weights=known.get("weights"),
        pretrained=bool(known.get("pretrained", False)),
        environment=known.get("environment", {}),
    )
    return export_model(model, out, preprocessing=preprocessing, facts=facts, split=split, images=images, force=force, say=say)


def run_preprocessing(run: RunDir, model: SegModel, image_size: tuple[int, int] | None = None) -> Preprocessing:
    """What a training run says of pixels and classes; ``model`` is its network."""
    known = run.facts
    return Preprocessing(
        classes=run.classes,
        palette=tuple((int(red), int(green), int(blue)) for red, green, blue in known["palette"]),
        size=run.size,
        mean=tuple(float(v) for v in known["mean"]),
        std=tuple(float(v) for v in known["std"]),
        stride=model.stride,
        in_chans=int(known["in_chans"]),
        image_size=image_size,
        pad_multiple=model.pad_multiple,
        evaluation=run.protocol,
    )


def _validation(run: RunDir, data: str | None, say: Say) -> Split | None:
    """The run's validation split, or None where its data are not where they were."""
    try:
        opened = open_data(data or str(run.facts["data"]))
        if opened.classes != run.classes:
            raise DataError(f"{opened.spec}: its {opened.num_classes} classes are not the run's {len(run.classes)}")
        return opened.split("val")
    except NassegError as error:
        if data is not None:
            raise
        say(f"mIoU is not compared, the run's data are not at hand ({error}); --data says where they are")
        return None


def load_bundle(path: str | os.PathLike[str]) -> SegModel:
    """The network of a bundle, in eval mode, on the CPU, with ``.preprocessing``, the content of ``preprocessing.json``.

    Nothing is downloaded and nothing is unpickled. Raises :class:`BundleError` for a missing or damaged file, a newer format, and weights
    that do not fit the genotype.
    """
    folder = bundle_folder(path)
    preprocessing = Preprocessing.load(folder / PREPROCESSING)
    try:
        genotype = Genotype.load(folder / GENOTYPE)
        model = build(genotype, preprocessing.num_classes, in_chans=preprocessing.in_chans, pad_multiple=preprocessing.pad_multiple)
    except ConfigError as error:
        raise BundleError(f"{folder}: its genotype cannot be built: {error}") from error
    load_weights(model, folder / WEIGHTS)
    _fits(model, preprocessing)
    model.preprocessing = preprocessing.to_dict()
    return model.eval()


def bundle_predictor(path: str | os.PathLike[str], *, onnx: bool = False, device: str = "cpu") -> tuple[Forward, Preprocessing]:
    """A bundle as a function from normalised images to logits (CPU tensors), and what to feed it: for ``evaluate`` and ``predict``.

    The logits stand for whole cells: :func:`nasseg.training.evaluate.covering` makes them cover an image of any size. ``onnx`` runs
    ``model.onnx`` in ONNX Runtime on the CPU instead of the module on ``device``: it takes images of one size. Raises :class:`BundleError`.
    """
    folder = bundle_folder(path)
    preprocessing = Preprocessing.load(folder / PREPROCESSING)
    return (load_onnx(folder) if onnx else module_forward(load_bundle(folder), device)), preprocessing


def bundle_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, if it is a bundle's; :class:`BundleError` that says what it is instead, or what is missing."""
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"{folder}: {'not a folder; a bundle is one' if folder.exists() else 'no such folder'}")
    missing = [name for name in ESSENTIAL if not (folder / name).is_file()]
    if missing and (folder / "run.yaml").is_file():
        raise BundleError(f"{folder}: a training run, not a bundle; make one with: nasseg export {folder} --out BUNDLE")
    if missing:
        raise BundleError(f"{folder}: not a bundle, or not a whole one: {', '.join(missing)} missing")
    return folder


def load_weights(model: SegModel, path: Path) -> None:
    """Fill a network from a safetensors file; :class:`BundleError` that counts what does not fit."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path}: not readable as safetensors: {error}") from error
    expected = model.state_dict()
    problems = []
    for kind, names in (
        ("missing", [name for name in expected if name not in tensors]),
        ("unknown", [name for name in tensors if name not in expected]),
        ("of another shape", [name for name in expected if name in tensors and expected[name].shape != tensors[name].shape]),
    ):
        if names:
            problems.append(f"{len(names)} {kind} (first {names[0]})")
    if problems:
        raise BundleError(f"{path}: the weights do not fit the genotype beside them: of {len(expected)} tensors {', '.join(problems)}")
    model.load_state_dict(tensors)


def typical_size(split: Split, sample: int = 16) -> tuple[int, int]:
    """Median height and width of a split's images, from ``sample`` of them."""
    chosen = sorted({round(v) for v in np.linspace(0, len(split) - 1, min(sample, len(split)))})
    sizes = np.array([split[i].image.shape[:2] for i in chosen])
    height, width = np.median(sizes, axis=0)
    return int(height), int(width)


def _fits(model: SegModel, preprocessing: Preprocessing) -> None:
    given = {"classes": preprocessing.num_classes, "stride": preprocessing.stride, "pad_multiple": preprocessing.pad_multiple}
    owned = {"classes": model.num_classes, "stride": model.stride, "pad_multiple": model.pad_multiple}
    wrong = [f"{given[name]} {name}, the network has {owned[name]}" for name in given if given[name] != owned[name]]
    if wrong:
        raise BundleError(f"preprocessing does not fit the network: {'; '.join(wrong)}")


@contextlib.contextmanager
def _making(name: str) -> Iterator[None]:
    """An exporter's failure as :class:`ExportFailed`; a full disk stays an ``OSError``."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # exporters raise errors of many kinds, all of which mean the same here
        raise ExportFailed(f"{name} could not be made: {type(error).__name__}: {first_line(error)}") from error
