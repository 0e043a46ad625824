"""mmsegmentation's generic data set: a folder of images, one of masks, suffixes, and a list of names for each split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.folders import SPLITS
from nasseg.data.images import Source
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Layout, SplitFiles, Tree, fold, need_folder, read_list
from nasseg.errors import DataError


class Mmseg(Layout):
    """``img_dir`` and ``ann_dir``; ``?train=train.txt&val=val.txt`` name images without suffix, else the split's folders are taken.

    ``img_suffix`` and ``seg_map_suffix`` are what names end in, as in mmsegmentation's configuration. A listed name is looked for in
    ``img_dir`` and then in ``img_dir/SPLIT``.
    """

    kind: ClassVar[str] = "mmseg"
    name = "mmsegmentation with lists"
    shape = "img_dir and ann_dir, with ?train=train.txt&val=val.txt (names without suffix) or a folder a split"

    def fits(self, root: Path) -> bool:
        """Never of itself: with folders for splits it is the layout ``mmsegmentation``, and lists have to be named."""
        return False

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        images, masks = root / spec.query.get("img_dir", "img_dir"), root / spec.query.get("ann_dir", "ann_dir")
        for key, folder in (("img_dir", images), ("ann_dir", masks)):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder; ?{key}= names the one in {root}")
        end = (spec.query.get("img_suffix", ""), spec.query.get("seg_map_suffix", ""))
        splits: dict[str, SplitFiles] = {}
        for name, folder_names in SPLITS.items():
            there = [n for n in folder_names if (images / n).is_dir()]
            if name in spec.query:
                splits[name] = _listed_files(name, root / spec.query[name], images, masks, *end)
            elif there:
                splits[name] = fold(name, images / there[0], masks / there[0], *end)
        return Tree(root, self, splits, lambda split: images / split)


def _listed_files(name: str, file: Path, image_dir: Path, mask_dir: Path, image_end: str, mask_end: str) -> SplitFiles:
    ends = (image_end,) if image_end else (".jpg", ".png", ".jpeg", ".tif", ".tiff", ".webp")
    images: dict[str, Source] = {}
    masks: dict[str, Source] = {}
    absent = []
    for id_ in read_list(file):
        image = _first(image_dir, name, id_, ends)
        if image is None:
            absent.append(id_)
            continue
        images[id_] = image
        mask = _first(mask_dir, name, id_, (mask_end or ".png",))
        if mask is not None:
            masks[id_] = mask
    rule = f"a mask is named as in the list, ending in {mask_end or '.png'}"
    return SplitFiles(name, image_dir, mask_dir, images, masks, absent=tuple(absent), origin=str(file), spare_masks=True, mask_rule=rule)


def _first(folder: Path, split: str, id_: str, ends: tuple[str, ...]) -> Path | None:
    places = (folder / f"{id_}{end}" for end in ends)
    below = (folder / split / f"{id_}{end}" for end in ends)
    return next((path for path in (*places, *below) if path.is_file()), None)
