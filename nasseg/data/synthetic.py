"""The built-in data set: ``synthetic:streets``, street scenes drawn from a seed, nothing on disk.

Sample ``i`` of a split depends on the seed, the split and ``i`` alone: a larger split begins with the smaller one's samples, and
another size shows the same scenes at other resolution. Generated, so a score on it says which of two networks is better, not how good
one is on real streets.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from nasseg.data.dataset import DataSet, Sample, Split
from nasseg.data.spec import DataSpec, parse_size, whole_number
from nasseg.data.streets import CLASSES, PALETTE, VERSION, render_street
from nasseg.errors import DataError, nearest
from nasseg.files import digest

SCENES = ("streets",)
DEFAULTS = {"seed": "0", "size": "96x128", "train": "64", "val": "16"}
MOST = 1_000_000  # samples of one split
SMALLEST_SIDE, LARGEST_SIDE = 32, 4096

_STREAM = {"train": 0, "val": 1}


class SyntheticSplit(Split):
    """Street scenes ``indices`` of one stream, drawn at each access."""

    def __init__(self, name: str, stream: int, indices: Sequence[int], size: tuple[int, int], seed: int) -> None:
        self.name = name
        self.stream = stream
        self.indices = tuple(indices)
        self.ids = tuple(f"{list(_STREAM)[stream]}_{index:06d}" for index in self.indices)
        self.size = size
        self.seed = seed

    @property
    @override
    def key(self) -> str:
        return digest(["streets", VERSION, self.stream, self.indices, self.size, self.seed], 32)

    @override
    def read(self, index: int) -> Sample:
        return Sample(*render_street(self.size, (self.seed, self.stream, self.indices[index])))

    @override
    def subset(self, indices: Sequence[int], name: str) -> SyntheticSplit:
        return SyntheticSplit(name, self.stream, [self.indices[index] for index in indices], self.size, self.seed)


def open_synthetic(spec: DataSpec) -> DataSet:
    """``synthetic[:streets][?train=64&val=16&size=96x128&seed=0]``. DataError for an unknown name or a setting outside its range."""
    scene = spec.place or SCENES[0]
    if scene not in SCENES:
        close = nearest(scene, SCENES)
        hint = f"; nearest: {close}" if close else ""
        raise DataError(f"{spec}: no built-in scenes named {scene!r}; there are {', '.join(SCENES)}{hint}")
    query = {**DEFAULTS, **spec.query}
    size = parse_size(query["size"], str(spec), SMALLEST_SIDE, LARGEST_SIDE)
    seed = whole_number(query["seed"], "seed", str(spec), 0, 2**32 - 1)
    counts = {name: whole_number(query[name], name, str(spec), 1, MOST) for name in _STREAM}
    canonical = DataSpec(
        "synthetic", scene, {**{name: str(count) for name, count in counts.items()}, "seed": str(seed), "size": f"{size[0]}x{size[1]}"}
    )
    splits: dict[str, Split] = {name: SyntheticSplit(name, _STREAM[name], range(count), size, seed) for name, count in counts.items()}
    return DataSet(
        name=f"synthetic {scene}",
        spec=str(canonical),
        classes=CLASSES,
        palette=PALETTE,
        splits=splits,
        fingerprint=digest({"scenes": scene, "version": VERSION, "spec": str(canonical)}),
        classes_from="built in",
    )
