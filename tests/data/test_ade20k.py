"""ADE20K: label 0 is ignored, labels 1…150 are the classes, and that is done once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import SIZE, save
from kits_layouts import ade20k, labels

from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data, original_labels
from nasseg.errors import DataError

# Label and name, typed from the challenge's list of objects, apart from the module's.
OBJECTS = """
1 wall;2 building;3 sky;4 floor;5 tree;6 ceiling;7 road;8 bed;9 windowpane;10 grass;11 cabinet;12 sidewalk;13 person;14 earth;15 door;
16 table;17 mountain;18 plant;19 curtain;20 chair;21 car;22 water;23 painting;24 sofa;25 shelf;26 house;27 sea;28 mirror;29 rug;30 field;
31 armchair;32 seat;33 fence;34 desk;35 rock;36 wardrobe;37 lamp;38 bathtub;39 railing;40 cushion;41 base;42 box;43 column;44 signboard;
45 chest of drawers;46 counter;47 sand;48 sink;49 skyscraper;50 fireplace;51 refrigerator;52 grandstand;53 path;54 stairs;55 runway;
56 case;57 pool table;58 pillow;59 screen door;60 stairway;61 river;62 bridge;63 bookcase;64 blind;65 coffee table;66 toilet;67 flower;
68 book;69 hill;70 bench;71 countertop;72 stove;73 palm;74 kitchen island;75 computer;76 swivel chair;77 boat;78 bar;79 arcade machine;
80 hovel;81 bus;82 towel;83 light;84 truck;85 tower;86 chandelier;87 awning;88 streetlight;89 booth;90 television receiver;91 airplane;
92 dirt track;93 apparel;94 pole;95 land;96 bannister;97 escalator;98 ottoman;99 bottle;100 buffet;101 poster;102 stage;103 van;104 ship;
105 fountain;106 conveyer belt;107 canopy;108 washer;109 plaything;110 swimming pool;111 stool;112 barrel;113 basket;114 waterfall;
115 tent;116 bag;117 minibike;118 cradle;119 oven;120 ball;121 food;122 step;123 tank;124 trade name;125 microwave;126 pot;127 animal;
128 bicycle;129 lake;130 dishwasher;131 screen;132 blanket;133 sculpture;134 hood;135 sconce;136 vase;137 traffic light;138 tray;
139 ashcan;140 fan;141 pier;142 crt screen;143 plate;144 monitor;145 bulletin board;146 shower;147 radiator;148 glass;149 clock;150 flag
"""
TABLE = {int(entry.split()[0]): " ".join(entry.split()[1:]) for entry in OBJECTS.split(";")}
COLOURS = {
    1: (120, 120, 120),
    2: (180, 120, 120),
    3: (6, 230, 230),
    13: (150, 5, 61),
    21: (0, 102, 200),
    149: (102, 255, 0),
    150: (92, 0, 255),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return ade20k(tmp_path / "ADEChallengeData2016", labels(*range(0, 151, 5), 150))


def test_names_and_colours(root: Path) -> None:
    data = open_data(f"ade20k:{root}")
    assert data.num_classes == 150
    assert data.classes == tuple(TABLE[label] for label in range(1, 151))
    assert len(data.palette) == 150
    assert {label: data.palette[label - 1] for label in COLOURS} == COLOURS
    assert data.name == "ADE20K"
    assert data.spec == f"ade20k:{root}"


def test_every_label(tmp_path: Path) -> None:
    """All 151 labels of a mask, one pixel each, in train and in val: 0 is ignored, label n is class n − 1."""
    root = ade20k(tmp_path, labels(0))
    every = np.arange(151, dtype=np.uint8).reshape(1, 151)
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        save(root / f"annotations/{split}/{name}.png", every)
        save(root / f"images/{split}/{name}.jpg", np.zeros((1, 151, 3), dtype=np.uint8))
    data = open_data(f"ade20k:{root}")
    for split in ("train", "val"):
        got = data.splits[split][0].mask[0]
        assert got[0] == 255
        for label, name in TABLE.items():
            assert data.classes[got[label]] == name


def test_written_back(root: Path) -> None:
    data = open_data(f"ade20k:{root}")
    assert data.original_labels == tuple(range(1, 151)) == original_labels("ade20k")


def test_splits_and_folders(root: Path) -> None:
    for spec in (f"ade20k:{root}", f"ade20k:{root.parent}", str(root), f"{root.parent}"):
        data = open_data(spec)
        assert {name: split.ids[0] for name, split in data.splits.items()} == {"train": "ADE_train_00000001", "val": "ADE_val_00000001"}
        assert [len(split) for split in data.splits.values()] == [3, 2]
        assert data.spec.startswith("ade20k:/")
        assert data.splits["train"][1].image.shape == (*SIZE, 3)


def test_no_second_reduction(root: Path) -> None:
    with pytest.raises(DataError, match=r"unknown setting 'relabel'; this kind of data knows holdout"):
        open_data(f"ade20k:{root}?relabel=reduce_zero")
    with pytest.raises(DataError, match=r"looks like ADE20K, whose classes and labels are its own: leave relabel out"):
        open_data(f"{root}?relabel=reduce_zero")


def test_label_beyond_150(root: Path) -> None:
    save(root / "annotations/training/ADE_train_00000002.png", labels(1, 200)(0))
    with pytest.raises(DataError, match=r"00000002\.png: label 199 \(200 before labels were mapped\) in the mask, but .* 150 classes"):
        open_data(f"ade20k:{root}").splits["train"][1]
    (finding,) = [f for f in examine(f"ade20k:{root}").errors if f.kind == "labels outside the classes"]
    assert finding.files == ("ADE_train_00000002",)


def test_other_sets_of_that_shape_are_not_taken_for_it(root: Path) -> None:
    for file in (root / "images/training").iterdir():
        file.rename(file.with_name(file.name.replace("ADE_", "my_")))
    with pytest.raises(DataError, match=r"masks/training: the folder with the masks of .*images/training is missing"):
        open_data(str(root))


def test_own_masks_for_its_images(root: Path) -> None:
    (root / "annotations").rename(root / "masks")
    assert open_data(f"{root}?classes=151").spec == f"{root}?classes=151"


def test_half_a_set(root: Path) -> None:
    (root / "images/validation").rename(root / "away")
    with pytest.raises(DataError, match=rf"{root}/images/validation: the folder is missing; a data set has train and val"):
        open_data(f"ade20k:{root}")
    with pytest.raises(DataError, match="no such folder"):
        open_data("ade20k:/no/such")
