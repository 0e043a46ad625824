"""Data as people have them, found out and opened: ``open_data("path/to/folder?holdout=drive3_*")``, ``open_data("ade20k:PATH")``.

A kind before the colon names the layout; a folder alone is looked at. People's own folders come in three shapes
(:mod:`nasseg.data.folders`); public data sets lie as their archives unpack. Each layout is one class, see :mod:`nasseg.data.tree`.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasseg.data.ade20k import Ade20k
from nasseg.data.camvid import CamVid
from nasseg.data.cityscapes import Cityscapes
from nasseg.data.classes import Classes, classes_of
from nasseg.data.coco_stuff import CocoStuff
from nasseg.data.dataset import DataSet, FileSplit, Pair, Split
from nasseg.data.folders import LAYOUTS
from nasseg.data.hf import HuggingFace
from nasseg.data.mmseg import Mmseg
from nasseg.data.shards import open_shards
from nasseg.data.spec import KEYS, DataSpec, parse_relabel, parse_spec
from nasseg.data.synthetic import open_synthetic
from nasseg.data.table import PathTable
from nasseg.data.tree import Layout, Table, Tree, invert, listed, need_folder
from nasseg.data.ultralytics import Ultralytics
from nasseg.data.voc import Voc
from nasseg.errors import DataError, nearest
from nasseg.files import digest

log = logging.getLogger(__name__)

NAMED: Mapping[str, Layout] = {
    layout.kind: layout
    for layout in (Ade20k(), Cityscapes(), CocoStuff(), Voc(), CamVid(), Mmseg(), Ultralytics(), PathTable(), HuggingFace())
}
"""Layouts that have a kind of their own."""


def open_data(spec: str) -> DataSet:
    """The data set a string names. Raises DataError, one sentence that names the file or setting, the rule and what to do."""
    parsed = parse_spec(spec)
    if parsed.kind == "synthetic":
        return open_synthetic(parsed)
    if parsed.kind == "shards":
        return open_shards(parsed, _hold_out)
    try:
        return _open_tree(*read_tree(parsed))
    except OSError as error:
        raise DataError(f"{error.filename or parsed.place}: cannot be read ({error.strerror})") from error


def find_tree(root: Path) -> Tree:
    """Which layout a folder has, and its files; nothing is opened. DataError where there is none, with what was looked for."""
    return read_tree(DataSpec("folder", str(root)))[1]


def read_tree(spec: DataSpec) -> tuple[DataSpec, Tree]:
    """The files a spec names, and the spec with the kind that was found. Raises DataError."""
    found = recognise(spec) if spec.kind == "folder" else NAMED[spec.kind]
    if found.kind == spec.kind:
        return spec, found.read(spec)
    unknown = [key for key in spec.query if key not in KEYS[found.kind]]
    if unknown:
        raise DataError(
            f"{spec.place}: looks like {found.name}, whose classes and labels are its own: leave {listed(unknown)} out "
            f"({found.kind}:PATH knows {', '.join(KEYS[found.kind])})"
        )
    log.info("%s looks like %s (%s); %s:PATH says so", spec.place, found.name, found.shape, found.kind)
    named = DataSpec(found.kind, spec.place, spec.query)
    return named, found.read(named)


def recognise(spec: DataSpec) -> Layout:
    """The one layout a folder looks like. DataError for none, with what was looked for, and for several."""
    root = need_folder(spec)
    named = [layout for layout in NAMED.values() if layout.fits(root)]
    if len(named) > 1:
        kinds = " and ".join(f"{layout.name} ({layout.kind}:PATH)" for layout in named)
        raise DataError(f"{root}: looks like {kinds}; say which")
    found = next(iter([*named, *(layout for layout in LAYOUTS if layout.fits(root))]), None)
    if found is not None:
        return found
    looked = "; ".join(layout.shape for layout in LAYOUTS)
    held = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    content = f"it holds {listed(held)}" if held else "it is empty"
    raise DataError(f"{root}: no known layout ({content}); looked for {looked}; and for public data sets, which nasseg data info describes")


def original_labels(spec: str) -> tuple[int, ...]:
    """The label that masks of a kind of data (``ade20k``, ``cityscapes``, …) or a data string have for each class.

    Raises DataError where there is none but the class's own number.
    """
    layout = NAMED.get(spec)
    if layout is not None and layout.facts is not None:
        return layout.facts.originals
    if re.fullmatch(r"[\w-]+", spec) and not Path(spec).exists():
        named = ", ".join(kind for kind, known in NAMED.items() if known.facts is not None)
        close = nearest(spec, NAMED)
        raise DataError(f"{spec}: no data set of that name; known are {named}, or a data string{f'; nearest: {close}' if close else ''}")
    found = open_data(spec).original_labels
    if found is None:
        raise DataError(f"{spec}: its masks hold class numbers already; original labels differ for ade20k, cityscapes and coco-stuff")
    return found


def holdout_ids(ids: Sequence[str], patterns: str, spec: str) -> list[str]:
    """The ids one of the globs (by comma) fits, on the whole id or its last part. DataError where a glob fits none or all are taken."""
    taken: set[str] = set()
    for pattern in patterns.split(","):
        fits = {id_ for id_ in ids if fnmatch.fnmatchcase(id_, pattern) or fnmatch.fnmatchcase(id_.rsplit("/", 1)[-1], pattern)}
        if not fits:
            raise DataError(f"{spec}: holdout {pattern!r} fits none of the {len(ids)} train images, which are named like {listed(ids)}")
        taken |= fits
    if len(taken) == len(ids):
        raise DataError(f"{spec}: holdout takes all {len(ids)} train images; leave some to train on")
    return [id_ for id_ in ids if id_ in taken]


def relabelling(spec: DataSpec) -> Table | None:
    """What ``?relabel=`` says."""
    return parse_relabel(spec.query["relabel"], str(spec)) if "relabel" in spec.query else None


def _open_tree(spec: DataSpec, tree: Tree) -> DataSet:
    for needed in ("train", "val"):
        if needed not in tree.splits:
            raise DataError(tree.missing(needed))
    usable = {}
    for name, files in tree.splits.items():
        if name == "test" and not files.masks:
            continue  # a test split without masks can be predicted on, not learnt from or measured
        for problem in files.problems():
            raise DataError(problem)
        usable[name] = [Pair.of(id_, files.images[id_], files.masks[id_]) for id_ in files.paired]
    relabel = relabelling(spec)
    tables = {name: relabel if tree.splits[name].table is None else tree.splits[name].table for name in usable}
    classes = tree.classes
    if classes is None:
        pairs = [pair for pairs in usable.values() for pair in pairs]
        place = Path(spec.place)
        classes = classes_of(place if place.is_dir() else place.parent, pairs, spec.query.get("classes"), relabel, str(spec))
    count = len(classes.names)
    splits: dict[str, Split] = {
        name: FileSplit(name, pairs, count, tables[name], tree.splits[name].colours) for name, pairs in usable.items()
    }
    if "holdout" in spec.query:
        splits.update(_hold_out(splits["train"], spec))
    return DataSet(
        name=classes.title or tree.root.name,
        spec=str(spec),
        classes=classes.names,
        palette=classes.palette,
        splits=splits,
        fingerprint=_fingerprint(classes, relabel, splits, tree),
        classes_from=classes.origin,
        original_labels=tree.originals or invert(relabel, count),
    )


def _hold_out(train: Split, spec: DataSpec) -> dict[str, Split]:
    taken = set(holdout_ids(train.ids, spec.query["holdout"], str(spec)))
    kept = [index for index, id_ in enumerate(train.ids) if id_ not in taken]
    held = [index for index, id_ in enumerate(train.ids) if id_ in taken]
    return {"train": train.subset(kept, "train"), "holdout": train.subset(held, "holdout")}


def _fingerprint(classes: Classes, relabel: Table | None, splits: Mapping[str, Split], tree: Tree) -> str:
    content = {
        name: [[pair.id, *pair.stamp[:2]] for pair in split.pairs]  # sizes in bytes, not times: a copy is the same set
        for name, split in splits.items()
        if isinstance(split, FileSplit)
    }
    fixed = {name: files.table for name, files in tree.splits.items() if files.table is not None}
    return digest({"classes": classes.names, "relabel": relabel, "splits": content} | ({"tables": fixed} if fixed else {}))
