"""Pascal VOC 2012, segmentation: 20 kinds of things and the background, with the extra masks of SBD if they are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.images import Source
from nasseg.data.palette import Palette
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Facts, Layout, SplitFiles, Tree, listed, need_folder, read_list, within
from nasseg.errors import DataError

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_AUG_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def voc_palette(count: int) -> Palette:
    """The development kit's colour map: bit 3k+c of the label is bit 7−k of channel c."""
    return tuple(
        (
            sum((label >> 3 * bit & 1) << 7 - bit for bit in range(8)),
            sum((label >> 3 * bit + 1 & 1) << 7 - bit for bit in range(8)),
            sum((label >> 3 * bit + 2 & 1) << 7 - bit for bit in range(8)),
        )
        for label in range(count)
    )


class Voc(Layout):
    """``JPEGImages``, ``SegmentationClass`` and the lists in ``ImageSets/Segmentation``; labels are class numbers, 255 the borders.

    ``?aug=trainaug`` adds the images of a further list (``trainaug.txt``, ``aug.txt``, …) to those of ``train.txt``. The masks of the added
    ones lie in ``SegmentationClassAug`` (SBD's, without 255 at the borders) or, failing that, in ``SegmentationClass``; the images of
    ``train.txt`` keep their own of ``SegmentationClass``, whether the list names them too (``trainaug.txt`` does) or not. So does
    mmsegmentation, which joins ``train.txt`` with ``SegmentationClass`` and ``aug.txt`` with ``SegmentationClassAug``.
    """

    kind: ClassVar[str] = "voc"
    name = "Pascal VOC 2012"
    shape = "JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt, or VOCdevkit/VOC2012 around them"
    facts: ClassVar[Facts | None] = Facts(
        title="Pascal VOC 2012",
        names=NAMES,
        palette=voc_palette(len(NAMES)),
        images={"train": 1464, "val": 1449, "train with aug": 10582},
        obtained="PASCAL VOC project, development kit archive VOCtrainval 2012; aug: SBD of UC Berkeley as SegmentationClassAug",
        licence="images under Flickr's terms of use; annotations for research, cite the challenge",
        paper="Everingham et al., The PASCAL Visual Object Classes Challenge 2012; Hariharan et al., ICCV 2011 (aug)",
        originals=tuple(range(len(NAMES))),
    )

    @override
    def fits(self, root: Path) -> bool:
        place = _within(root)
        needed = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
        return all((place / name).is_dir() for name in needed)

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = _within(need_folder(spec))
        lists = root / "ImageSets" / "Segmentation"
        splits = {
            name: _files(root, name, file, read_list(file), ("SegmentationClass",))
            for name, file in ((name, lists / f"{name}.txt") for name in ("train", "val"))
            if file.is_file()
        }
        if "aug" in spec.query and "train" in splits:
            splits["train"] = _augmented(root, spec, splits)
        assert self.facts
        return Tree(root, self, splits, lambda split: lists / f"{split}.txt", self.facts.classes())


def _within(root: Path) -> Path:
    return within(within(root, "VOCdevkit"), "VOC2012")


def _files(root: Path, name: str, origin: Path, lines: list[str], mask_folders: tuple[str, ...]) -> SplitFiles:
    """What a list names. A line may give paths of image and mask, as DeepLab's lists do: the image's name counts."""
    images: dict[str, Source] = {}
    masks: dict[str, Source] = {}
    absent = []
    for id_ in (Path(line).stem for line in lines):
        image = root / "JPEGImages" / f"{id_}.jpg"
        if image.is_file():
            images[id_] = image
        else:
            absent.append(id_)
        found = [path for folder in mask_folders if (path := root / folder / f"{id_}.png").is_file()]
        if found:
            masks[id_] = found[0]
    return SplitFiles(
        name, root / "JPEGImages", root / mask_folders[0], images, masks, absent=tuple(absent), origin=str(origin), spare_masks=True
    )


def _augmented(root: Path, spec: DataSpec, splits: dict[str, SplitFiles]) -> SplitFiles:
    given = spec.query["aug"]
    lists = root / "ImageSets" / "Segmentation"
    choices = [lists / given, lists / f"{given}.txt", root / given]
    file = next((path for path in choices if path.is_file()), None)
    if file is None:
        raise DataError(f"{spec}: no list {given}.txt in {lists}; aug names a list of further train images, such as trainaug or aug")
    train, val = splits["train"], splits["val"]
    own = {*train.images, *train.absent}
    more = _files(root, "train", file, [line for line in read_list(file) if Path(line).stem not in own], _AUG_FOLDERS)
    leaked = sorted(more.images.keys() & val.images.keys())
    if leaked:
        raise DataError(f"{file}: names {listed(leaked)} of val; take them out of the list, or scores on val mean nothing")
    return replace(
        more,
        images={**train.images, **more.images},
        masks={**train.masks, **more.masks},
        absent=(*train.absent, *more.absent),
        origin=f"{train.origin} and {file}",
    )
