"""Looks packed data through: every file against the manifest, every row against the index, every image and mask decoded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nasseg.data.dataset import DataSet, Split
from nasseg.data.diagnosis import ERROR, Finding, SplitReport
from nasseg.data.layouts import open_data
from nasseg.data.manifest import CURE, Manifest, Shelf
from nasseg.data.spec import parse_spec
from nasseg.errors import DataError

_FEW = 5  # cases written out; the rest are counted


@dataclass(frozen=True, slots=True)
class Fault:
    """One file or row that is not as it was packed; ``text`` names it, the rule it breaks and what to do."""

    split: str
    kind: str
    text: str

    @property
    def file(self) -> str:
        """The file it names first."""
        return self.text.partition(": ")[0]


def file_faults(shelf: Shelf, manifest: Manifest) -> Iterator[Fault]:
    """Every shard's size and SHA-256, read from end to end."""
    for split, files in manifest.splits.items():
        first = 0
        for file in files:
            rows = f"it holds rows {first} to {first + file.rows - 1} of {split}"
            first += file.rows
            try:
                size, sha256 = shelf.sha256(file.name)
            except DataError as error:
                yield Fault(split, "unreadable shard", f"{error}; {rows}: {CURE}")
                continue
            if size != file.bytes:
                text = f"{shelf.at(file.name)}: has {size} bytes, the manifest says {file.bytes}, the file is torn; {rows}: {CURE}"
                yield Fault(split, "torn shard", text)
            elif sha256 != file.sha256:
                text = f"{shelf.at(file.name)}: does not give the checksum (sha256) of the manifest, it was altered; {rows}: {CURE}"
                yield Fault(split, "altered shard", text)


def row_faults(split: Split, report: SplitReport, done: Callable[[], None]) -> Iterator[Fault]:
    """Every row read and decoded; what is whole is counted in ``report``, ``done`` is called after each row."""
    for index in range(len(split)):
        try:
            image, mask = split[index]
        except DataError as error:
            yield Fault(split.name, "unreadable row", str(error))
        else:
            pixels = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
            report.read += 1
            report.sizes[image.shape[0], image.shape[1]] += 1
            report.pixels += pixels
            report.images_with += pixels > 0
        done()


def look_through(spec: str, progress: Callable[[int, int], None]) -> tuple[DataSet, dict[str, SplitReport], list[Finding]]:
    """The packed data set, the counts of its splits, and one finding for each kind of fault in a split.

    Raises DataError where manifest or index cannot be trusted: then nothing is known about the rows.
    """
    data = open_data(spec)
    shelf = Shelf(parse_spec(spec).place)
    reports = {name: SplitReport(name, len(split), len(split)) for name, split in data.splits.items()}
    faults = list(file_faults(shelf, shelf.manifest()))
    total, count = sum(map(len, data.splits.values())), itertools.count(1)
    for name, split in data.splits.items():
        faults += row_faults(split, reports[name], lambda: progress(next(count), total))
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.split, fault.kind), []).append(fault)
    return data, reports, [_finding(split, kind, group) for (split, kind), group in groups.items()]


def _finding(split: str, kind: str, group: list[Fault]) -> Finding:
    rest = f"\nand {len(group) - _FEW} more" if len(group) > _FEW else ""
    files = tuple(dict.fromkeys(fault.file for fault in group))
    return Finding(ERROR, kind, "\n".join(fault.text for fault in group[:_FEW]) + rest, split, len(group), files[:_FEW])
