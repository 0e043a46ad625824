"""Cityscapes, urban streets: 34 labels, 19 of them trained and measured."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.images import IGNORE
from nasseg.data.palette import parse_colours
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Facts, Layout, SplitFiles, Tree, fold_either, need_folder

TRAINED = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Label of each class in ``*_labelIds.png``, in the order of train ids 0…18. All other labels are void in evaluation."""

COLOURS = """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20
"""

_BY_LABEL = {label: index for index, label in enumerate(TRAINED.values())}
TRAIN_IDS = tuple(_BY_LABEL.get(label, IGNORE) for label in range(256))
"""Train id by label."""


class Cityscapes(Layout):
    """``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` beside ``gtFine/SPLIT/CITY/*_gtFine_label{TrainIds,Ids}.png``.

    ``labelTrainIds`` are taken where a split has them for every image, else ``labelIds``, mapped. The masks of ``test`` are given out
    empty, so that split is not measured.
    """

    kind: ClassVar[str] = "cityscapes"
    never: ClassVar[tuple[int, ...]] = (IGNORE,)
    name = "Cityscapes"
    shape = "leftImg8bit/{train,val} with gtFine/{train,val}"
    facts: ClassVar[Facts | None] = Facts(
        title="Cityscapes",
        names=tuple(TRAINED),
        palette=parse_colours(COLOURS),
        images={"train": 2975, "val": 500, "test": 1525},
        obtained="the Cityscapes site, after registration: archives leftImg8bit_trainvaltest and gtFine_trainvaltest",
        licence="Cityscapes terms: non-commercial research, teaching and personal experiments; no redistribution",
        paper="Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
        originals=tuple(TRAINED.values()),
    )

    @override
    def fits(self, root: Path) -> bool:
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        splits = {name: self._split(root, name) for name in ("train", "val") if (root / "leftImg8bit" / name).is_dir()}
        assert self.facts
        return Tree(root, self, splits, lambda split: root / "leftImg8bit" / split, self.facts.classes(), self.facts.originals)

    def _split(self, root: Path, name: str) -> SplitFiles:
        folders = (root / "leftImg8bit" / name, root / "gtFine" / name)
        return fold_either(name, *folders, "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png", TRAIN_IDS)
