"""Tiny trees in the shapes of public data sets; labels are drawn from what the sets' own masks hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kits_data import SIZE, image, save

Draw = Callable[[int], np.ndarray]


def labels(*numbers: int) -> Draw:
    """Masks that hold exactly these numbers, in a different order for each sample."""

    def draw(seed: int) -> np.ndarray:
        out = np.resize(np.asarray(numbers, dtype=np.uint8), SIZE[0] * SIZE[1])
        return np.random.default_rng(seed).permutation(out).reshape(SIZE)

    return draw


def ade20k(root: Path, draw: Draw) -> Path:
    for at, (split, short, ids) in enumerate((("training", "train", (1, 2, 3)), ("validation", "val", (1, 2)))):
        for number in ids:
            name = f"ADE_{short}_{number:08}"
            save(root / f"images/{split}/{name}.jpg", image(10 * at + number))
            save(root / f"annotations/{split}/{name}.png", draw(10 * at + number))
    return root


def cityscapes(root: Path, draw: Draw, ends: Sequence[str] = ("labelIds",)) -> Path:
    for at, (split, ids) in enumerate(
        (("train", ("aachen/aachen_000000_000019", "ulm/ulm_000001_000019")), ("val", ("lindau/lindau_0_1",)))
    ):
        for number, id_ in enumerate(ids):
            save(root / f"leftImg8bit/{split}/{id_}_leftImg8bit.png", image(10 * at + number))
            for end in ends:
                save(root / f"gtFine/{split}/{id_}_gtFine_{end}.png", draw(10 * at + number))
            save(root / f"gtFine/{split}/{id_}_gtFine_instanceIds.png", draw(10 * at + number))
            save(root / f"gtFine/{split}/{id_}_gtFine_color.png", image(number))
    save(root / "leftImg8bit/test/bonn/bonn_0_0_leftImg8bit.png", image(5))
    return root


def coco_stuff(root: Path, draw: Draw, end: str = ".png", images: str = "images", maps: str = "annotations") -> Path:
    for at, (split, ids) in enumerate((("train", (9, 25)), ("val", (139,)))):
        for number in ids:
            save(root / images / f"{split}2017/{number:012}.jpg", image(10 * at + number))
            save(root / maps / f"{split}2017/{number:012}{end}", draw(10 * at + number))
    return root


def voc(root: Path, draw: Draw, aug: Sequence[str] = ()) -> Path:
    lists = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
    for id_ in (*lists["train"], *lists["val"], *aug, "2007_999999"):
        seed = int(id_[-2:])
        save(root / f"JPEGImages/{id_}.jpg", image(seed))
        if id_ not in aug:
            save(root / f"SegmentationClass/{id_}.png", draw(seed))
    for id_ in aug:
        save(root / f"SegmentationClassAug/{id_}.png", draw(int(id_[-2:])))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name, ids in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids) + "\n")
    if aug:
        lines = [f"/JPEGImages/{id_}.jpg /SegmentationClassAug/{id_}.png" for id_ in (*lists["train"], *aug)]
        (root / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(lines))
    return root


def painted(numbers: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """A mask of numbers as RGB."""
    return np.asarray(colours, dtype=np.uint8)[numbers]


def arrow_split(folder: Path, rows: Sequence[Mapping[str, Any]], files: int = 1, **schema: Any) -> Path:
    """One split as ``save_to_disk`` writes it."""
    folder.mkdir(parents=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = pa.schema([(name, schema.get(name, struct)) for name in rows[0]])
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        part = rows[number::files]
        table = pa.table({key: [row[key] for row in part] for key in rows[0]}, schema=columns)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": folder.name}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {name: {"_type": "Image"} for name in rows[0]}}))
    return folder
