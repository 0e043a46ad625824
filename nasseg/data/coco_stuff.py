"""COCO-Stuff 164k, things and stuff of COCO 2017: 182 ids, 171 of them in use."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.images import IGNORE
from nasseg.data.palette import default_palette
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Facts, Layout, SplitFiles, Tree, fold_either, need_folder

IDS = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign, stop sign, parking meter,
    bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie,
    suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
    couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave,
    oven, toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush, banner,
    blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds,
    counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
    fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
    mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent,
    textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
"""
"""In the order of ids 1…182."""

UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of things COCO planned for and never labelled; no mask holds them."""

USED = tuple(id_ for id_ in range(1, 183) if id_ not in UNUSED)

_BY_LABEL = {id_ - 1: index for index, id_ in enumerate(USED)} | {id_ - 1: IGNORE for id_ in UNUSED}
TRAIN_IDS = tuple(_BY_LABEL.get(label, label) for label in range(256))
"""Class by number in a pixel map, which is the id less 1. Numbers beyond 181 stay as they are, beyond the classes."""


class CocoStuff(Layout):
    """``images/{train,val}2017/*.jpg`` with pixel maps ``annotations/{train,val}2017/*.png`` (or ``stuffthingmaps/…``).

    mmsegmentation's ``*_labelTrainIds.png`` are taken where a split has them for every image, else the pixel maps, mapped.
    """

    kind: ClassVar[str] = "coco-stuff"
    name = "COCO-Stuff 164k"
    shape = "images/{train,val}2017 with annotations/{train,val}2017"
    facts: ClassVar[Facts | None] = Facts(
        title="COCO-Stuff 164k",
        names=tuple(" ".join(IDS.split()).split(", ")[id_ - 1] for id_ in USED),
        palette=default_palette(len(USED)),  # the tool kit draws its colours at random
        images={"train": 118287, "val": 5000},
        obtained="COCO: archives train2017 and val2017; COCO-Stuff project: archive stuffthingmaps_trainval2017",
        licence="annotations CC BY 4.0; images under Flickr's terms of use",
        paper="Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018",
        originals=tuple(id_ - 1 for id_ in USED),
    )

    @override
    def fits(self, root: Path) -> bool:
        return _images(root, "train").is_dir() and _maps(root, "train").is_dir() and any(_maps(root, "train").glob("*.png"))

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        splits = {name: _split(root, name) for name in ("train", "val") if _images(root, name).is_dir()}
        assert self.facts
        return Tree(root, self, splits, lambda split: _images(root, split), self.facts.classes(), self.facts.originals)


def _images(root: Path, split: str) -> Path:
    bare = root / f"{split}2017"
    return bare if bare.is_dir() and not (root / "images").is_dir() else root / "images" / f"{split}2017"


def _maps(root: Path, split: str) -> Path:
    given = root / "stuffthingmaps" / f"{split}2017"
    return given if given.is_dir() and not (root / "annotations").is_dir() else root / "annotations" / f"{split}2017"


def _split(root: Path, name: str) -> SplitFiles:
    return fold_either(name, _images(root, name), _maps(root, name), ".jpg", "_labelTrainIds.png", ".png", TRAIN_IDS)
