"""CamVid as its site, the SegNet tutorial and others lay it out: 11, 31 and 32 classes, colour and index masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import image, save, write_tree
from kits_layouts import labels, painted

from nasseg.data.camvid import published_split
from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data
from nasseg.errors import DataError

# The site's list of colours, in its order, each with its class among SegNet's eleven: apart from the module's.
LIST = """
64 128 64 Animal pedestrian
192 0 128 Archway building
0 128 192 Bicyclist bicyclist
0 128 64 Bridge building
128 0 0 Building building
64 0 128 Car car
64 0 192 CartLuggagePram pedestrian
192 128 64 Child pedestrian
192 192 128 Column_Pole pole
64 64 128 Fence fence
128 0 192 LaneMkgsDriv road
192 0 64 LaneMkgsNonDriv road
128 128 64 Misc_Text sign_symbol
192 0 192 MotorcycleScooter bicyclist
128 64 64 OtherMoving car
64 192 128 ParkingBlock pavement
64 64 0 Pedestrian pedestrian
128 64 128 Road road
128 128 192 RoadShoulder pavement
0 0 192 Sidewalk pavement
192 128 128 SignSymbol sign_symbol
128 128 128 Sky sky
64 128 192 SUVPickupTruck car
0 0 64 TrafficCone pole
0 64 64 TrafficLight sign_symbol
192 64 128 Train car
128 128 0 Tree tree
192 128 192 Truck_Bus car
64 0 64 Tunnel building
192 192 0 VegetationMisc tree
0 0 0 Void void
64 192 0 Wall building
"""
ROWS = [line.split() for line in LIST.strip().splitlines()]
COLOURS = [tuple(map(int, row[:3])) for row in ROWS]
NAMES = [row[3] for row in ROWS]
ELEVEN = ["sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"]
EVERY = np.arange(32, dtype=np.uint8).reshape(4, 8)
FRAMES = {
    "train": ("0001TP_006690", "0006R0_f00930", "0016E5_08640"),
    "val": ("0016E5_07959",),
    "test": ("Seq05VD_f00000", "0001TP_008550"),
}


def original(root: Path, colour: bool = True) -> Path:
    for number, frame in enumerate(frame for frames in FRAMES.values() for frame in frames):
        save(root / f"701_StillsRaw_full/{frame}.png", image(number, (4, 8)))
        save(root / f"LabeledApproved_full/{frame}_L.png", painted(EVERY, COLOURS) if colour else EVERY)
    return root


def labelled(root: Path, end: str = "_L") -> Path:
    for split, frames in FRAMES.items():
        for number, frame in enumerate(frames):
            save(root / f"{split}/{frame}.png", image(number, (4, 8)))
            save(root / f"{split}_labels/{frame}{end}.png", painted(EVERY, COLOURS))
    return root


def tutorial(root: Path) -> Path:
    for split, frames in FRAMES.items():
        for number, frame in enumerate(frames):
            save(root / f"{split}/{frame}.png", image(number))
            save(root / f"{split}annot/{frame}.png", labels(*range(12))(number))
    return root


@pytest.mark.parametrize("colour", [True, False], ids=["colour masks", "index masks"])
def test_eleven_classes(tmp_path: Path, colour: bool) -> None:
    data = open_data(f"camvid:{original(tmp_path, colour)}")
    assert list(data.classes) == ELEVEN
    got = data.splits["train"][0].mask.ravel()
    assert [(ELEVEN[label] if label < 11 else "void") for label in got] == [row[4] for row in ROWS]
    assert [label for label, row in zip(got, ROWS, strict=True) if row[4] == "void"] == [255]
    assert {name: sorted(split.ids) for name, split in data.splits.items()} == {name: sorted(ids) for name, ids in FRAMES.items()}


@pytest.mark.parametrize("colour", [True, False], ids=["colour masks", "index masks"])
def test_thirty_two_and_thirty_one(tmp_path: Path, colour: bool) -> None:
    root = original(tmp_path, colour)
    every = open_data(f"camvid:{root}?classes=32")
    assert list(every.classes) == NAMES
    assert list(every.palette) == COLOURS
    assert every.splits["val"][0].mask.ravel().tolist() == list(range(32))
    most = open_data(f"camvid:{root}?classes=31")
    assert list(most.classes) == [name for name in NAMES if name != "Void"]
    assert most.splits["val"][0].mask.ravel().tolist() == [*range(30), 255, 30]
    assert len({every.fingerprint, most.fingerprint, open_data(f"camvid:{root}").fingerprint}) == 3


@pytest.mark.parametrize("end", ["_L", ""])
def test_folders_of_colour_masks(tmp_path: Path, end: str) -> None:
    root = labelled(tmp_path, end)
    data = open_data(str(root))
    assert data.spec == f"camvid:{root}"
    assert data.splits["train"].ids == FRAMES["train"]
    assert data.splits["test"][0].mask.ravel().tolist()[:3] == [9, 1, 10]


def test_the_tutorials_masks(tmp_path: Path) -> None:
    root = tutorial(tmp_path / "CamVid")
    for spec in (str(root), f"camvid:{root.parent}"):
        data = open_data(spec)
        assert list(data.classes) == ELEVEN
        mask = labels(*range(12))(0).astype(int)
        np.testing.assert_array_equal(data.splits["train"][0].mask, np.where(mask == 11, 255, mask))
    with pytest.raises(DataError, match="trainannot holds the 11 classes of the SegNet tutorial; 32 need LabeledApproved_full"):
        open_data(f"camvid:{root}?classes=32")


def test_own_lists(tmp_path: Path) -> None:
    root = original(tmp_path)
    (root / "a.txt").write_text("0001TP_008550\n0006R0_f00930.png\n")
    (root / "b.txt").write_text("Seq05VD_f00000\n")
    data = open_data(f"camvid:{root}?train=a.txt&val={root}/b.txt")
    assert {name: split.ids for name, split in data.splits.items()} == {
        "train": ("0001TP_008550", "0006R0_f00930"),
        "val": ("Seq05VD_f00000",),
    }
    (root / "a.txt").write_text("nothing\n")
    with pytest.raises(DataError, match=r"a\.txt: names nothing, but there is no such image in .*701_StillsRaw_full"):
        open_data(f"camvid:{root}?train=a.txt&val=b.txt")
    with pytest.raises(DataError, match=r"c\.txt: the list of a split's names cannot be read"):
        open_data(f"camvid:{root}?train=c.txt&val=b.txt")


def test_refused(tmp_path: Path) -> None:
    root = original(tmp_path)
    with pytest.raises(DataError, match=r"classes is 11 .SegNet's groups., 31 .all but Void. or 32, '12' given"):
        open_data(f"camvid:{root}?classes=12")
    with pytest.raises(DataError, match=r"relabel is for folders with classes\.json"):
        open_data(f"camvid:{root}?relabel=1:2")
    save(root / "701_StillsRaw_full/my_frame.png", image())
    with pytest.raises(DataError, match=r"my_frame is no frame of the published split; give lists, \?train=FILE&val=FILE"):
        open_data(f"camvid:{root}")
    with pytest.raises(DataError, match=r"train name lists for 701_StillsRaw_full; this folder's splits are its folders"):
        open_data(f"camvid:{labelled(tmp_path / 'other')}?train=a.txt")
    (tmp_path / "third").mkdir()
    (tmp_path / "third/classes.json").write_text('["a", "b"]')
    with pytest.raises(DataError, match=r"classes\.json is there, but no images; looked for train/images"):
        open_data(f"camvid:{tmp_path}/third")


def test_other_frames_in_such_folders_are_not_taken_for_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / f"{split}/mine.png", image())
        save(tmp_path / f"{split}_labels/mine.png", EVERY[:, :6].repeat(2, 0)[:6].repeat(2, 1)[:, :8])
    with pytest.raises(DataError, match="no known layout"):
        open_data(str(tmp_path))
    assert open_data(f"camvid:{tmp_path}").splits["val"].ids == ("mine",)


def test_unknown_colours(tmp_path: Path) -> None:
    root = original(tmp_path)
    wrong = painted(EVERY, COLOURS)
    wrong[0, :3] = (127, 128, 128)
    wrong[3, 7] = (1, 2, 3)
    save(root / "LabeledApproved_full/0006R0_f00930_L.png", wrong)
    text = r"f00930_L\.png: 3 pixels of colour \(127, 128, 128\) and 1 of 1 other unknown colours, .*nearest known: \(128, 128, 128\)"
    with pytest.raises(DataError, match=text):
        open_data(f"camvid:{root}").splits["train"][1]
    (finding,) = examine(f"camvid:{root}").errors
    assert (finding.kind, finding.split, finding.files) == ("unknown colours", "train", ("0006R0_f00930",))


def test_index_beyond_the_list(tmp_path: Path) -> None:
    root = original(tmp_path, colour=False)
    save(root / "LabeledApproved_full/0006R0_f00930_L.png", np.full((4, 8), 40, dtype=np.uint8))
    with pytest.raises(DataError, match=r"label 40 .* has 11 classes"):
        open_data(f"camvid:{root}").splits["train"][1]


def test_a_class_file_goes_first(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    (root / "classes.json").write_text('["a", "b", "c"]')
    assert open_data(f"camvid:{root}").classes == ("a", "b", "c")


@pytest.mark.shared
def test_the_published_split(shared: Path) -> None:
    for split in ("train", "val"):
        names = [path.stem for path in (shared / f"data/camvid/{split}/images").iterdir()]
        assert {published_split(name) for name in names} == {split}
    assert published_split("0001TP_008550") == published_split("Seq05VD_f05100") == "test"
    assert published_split("0017XX_1") is None
