"""Looks a data set through, broken ones too, and says what is wrong and what to set: ``examine(spec) -> Diagnosis``.

Every file is read once, by several threads, and nothing but counts and digests is kept. An *error* keeps the set from being trained
on, or makes its scores wrong; a *note* is something to know.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from nasseg.data.class_findings import class_findings
from nasseg.data.classes import Classes, numbered, read_classes
from nasseg.data.colours import ColourTable
from nasseg.data.diagnosis import ERROR, NOTE, Counts, Diagnosis, Finding, SplitReport
from nasseg.data.images import IGNORE, Source, read_image, read_raw_mask, turned
from nasseg.data.labels import label_findings
from nasseg.data.layouts import holdout_ids, open_data, read_tree, relabelling
from nasseg.data.shards_doctor import look_through
from nasseg.data.spec import DataSpec, parse_spec, whole_number
from nasseg.data.tree import SplitFiles, listed
from nasseg.errors import DataError

Progress = Callable[[int, int], None]
"""``progress(done, total)`` in pairs of files."""


def examine(spec: str, progress: Progress | None = None) -> Diagnosis:
    """Look a data set through. Raises DataError only where there is nothing to look at: no folder, no known layout, an unknown setting."""
    parsed = parse_spec(spec)
    if parsed.kind == "synthetic":
        return _examine_synthetic(spec, progress or _silent)
    if parsed.kind == "shards":
        data, reports, found = look_through(spec, progress or _silent)
        return Diagnosis(data.spec, "packed", data.classes, data.classes_from, reports, (*found, *class_findings(reports, data.classes)))
    try:
        return _Examination(parsed, progress or _silent).run()
    except OSError as error:
        raise DataError(f"{error.filename or parsed.place}: cannot be read ({error.strerror})") from error


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


def _examine_synthetic(spec: str, progress: Progress) -> Diagnosis:
    data = open_data(spec)
    reports = {name: SplitReport(name, len(split), len(split)) for name, split in data.splits.items()}
    total, done = sum(map(len, data.splits.values())), 0
    for name, split in data.splits.items():
        for image, mask in split:
            counts = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
            _count(reports[name], (image.shape[0], image.shape[1]), counts)
            done += 1
            progress(done, total)
    return Diagnosis(data.spec, "built in", data.classes, data.classes_from, reports, tuple(class_findings(reports, data.classes)))


def _count(report: SplitReport, size: tuple[int, int], pixels: Counts) -> None:
    report.read += 1
    report.sizes[size] += 1
    report.pixels += pixels
    report.images_with += pixels > 0


@dataclass(frozen=True, slots=True)
class _Look:
    """One pair, looked at. ``trouble`` is (kind, sentence) of what cannot be read or does not fit; ``labels`` follow ``?relabel``."""

    split: str
    id: str
    mask: str
    trouble: tuple[tuple[str, str], ...]
    size: tuple[int, int] | None = None
    raw: Counts | None = None
    labels: tuple[int, ...] = ()
    bytes_digest: str = ""
    pixels_digest: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """A pair to look at. ``files`` is the split on disk, ``split`` where it counts: train, or what is held out of it."""

    files: str
    split: str
    id: str
    image: Source
    mask: Source
    colours: ColourTable | None


class _Examination:
    """One look at one folder."""

    def __init__(self, spec: DataSpec, progress: Progress) -> None:
        self.progress = progress
        self.spec, self.tree = read_tree(spec)
        self.found = self.tree.layout.name if self.spec.kind == spec.kind else f"{self.tree.layout.name}, known by its folders"
        given = relabelling(spec) or tuple(range(256))
        self.tables = {name: np.asarray(files.table or given) for name, files in self.tree.splits.items()}
        self.raw: dict[str, Counts] = {name: np.zeros(256, dtype=np.int64) for name in self.tree.splits}
        self.findings: list[Finding] = []
        self.reports: dict[str, SplitReport] = {}

    def run(self) -> Diagnosis:
        """Folders, then files, then labels, then copies."""
        jobs = self._folders()
        looks = list(self._look_all(jobs))
        self._troubles(looks)
        classes = self._classes()
        fixed = self.tree.classes is not None
        images = sum((report.images_with for report in self.reports.values()), start=np.zeros(256, dtype=np.int64))
        for label in label_findings(classes.names if classes else None, self._pixels(), fixed or "relabel" in self.spec.query, images):
            self.findings.append(Finding(label.level, label.kind, label.text))
        self._mapped_before()
        self._outside(looks, classes)
        names = classes.names if classes else numbered(max(self._highest() + 1, 1), "").names
        self.findings += class_findings(self.reports, names)
        self._copies(looks)
        origin = classes.origin if classes else f"largest label in {sum(report.read for report in self.reports.values())} masks, all read"
        order = {ERROR: 0, NOTE: 1}
        findings = sorted(self.findings, key=lambda finding: order[finding.level])
        return Diagnosis(str(self.spec), self.found, names, origin, self.reports, tuple(findings))

    def _pixels(self) -> Counts:
        """Pixels by label, all splits."""
        return sum((report.pixels for report in self.reports.values()), start=np.zeros(256, dtype=np.int64))

    def _highest(self) -> int:
        labels = np.flatnonzero(self._pixels()[:IGNORE])
        return int(labels[-1]) if labels.size else -1

    def _folders(self) -> list[_Job]:
        """What is wrong before a file is opened; then (split, id, image, mask) of every pair."""
        jobs: list[_Job] = []
        for needed in ("train", "val"):
            if needed not in self.tree.splits:
                self._error("missing split", self.tree.missing(needed), needed)
        for name, files in self.tree.splits.items():
            if name == "test" and not files.masks:
                self._note("no test masks", f"{len(files.images)} test images have no masks: they can be predicted on, not measured", name)
                self.reports[name] = SplitReport(name, len(files.images), 0)
                continue
            self._pairs(name, files)
            held = self._held_out(files) if name == "train" else set()
            for id_ in files.paired:
                jobs.append(_Job(name, "holdout" if id_ in held else name, id_, files.images[id_], files.masks[id_], files.colours))
            groups = {name: [i for i in files.images if i not in held]} | ({"holdout": list(held)} if held else {})
            for group, ids in groups.items():
                self.reports[group] = SplitReport(group, len(ids), sum(id_ in files.masks for id_ in ids))
        return jobs

    def _pairs(self, name: str, files: SplitFiles) -> None:
        if files.absent:
            text = f"{files.origin} names {listed(files.absent)}, but there is no such image in {files.image_dir}"
            self._error("listed image is missing", text, name, files.absent)
        if not files.images:
            self._error("empty split", files.empty, name)
            return
        if not files.masks and not files.mask_dir.exists():
            for problem in files.problems():
                self._error("missing files", problem, name)
            return
        kinds = (
            ("image without mask", files.without_mask, f"no mask in {files.mask_dir} for", files.mask_rule),
            ("mask without image", files.without_image, f"no image in {files.image_dir} for", "delete the mask or add its image"),
            ("same name twice", files.twins, f"more than one image in {files.image_dir} for", "names must differ in more than the suffix"),
        )
        for kind, ids, text, rule in kinds:
            if ids:
                self._error(kind, f"{text} {listed(ids)}; {rule}", name, ids)
        if files.foreign_masks:
            text = f"{listed(files.foreign_masks)} in {files.mask_dir} is no PNG; masks are PNG files, a lossy format spoils class numbers"
            (self._note if files.masks else self._error)("mask is no PNG", text, name, files.foreign_masks)

    def _held_out(self, files: SplitFiles) -> set[str]:
        if "holdout" not in self.spec.query:
            return set()
        try:
            return set(holdout_ids(files.paired, self.spec.query["holdout"], str(self.spec)))
        except DataError as error:
            self._error("holdout", str(error), "train")
            return set()

    def _look_all(self, jobs: Sequence[_Job]) -> Iterator[_Look]:
        """In order; at most a few dozen pairs are under way."""
        waiting = iter(jobs)
        done = 0
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while batch := list(islice(waiting, 64)):
                for job, look in zip(batch, pool.map(_look, batch), strict=True):
                    done += 1
                    self.progress(done, len(jobs))
                    if look.raw is None:
                        yield look
                        continue
                    self.raw[job.files] += look.raw
                    pixels = np.bincount(self.tables[job.files], weights=look.raw, minlength=256).astype(np.int64)
                    if look.size is not None:
                        _count(self.reports[look.split], look.size, pixels)
                    yield replace(look, raw=None, labels=tuple(int(label) for label in np.flatnonzero(pixels)))

    def _troubles(self, looks: Sequence[_Look]) -> None:
        """One finding a split and kind, with the first sentence and the number of others like it."""
        found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for look in looks:
            for kind, text in look.trouble:
                found[look.split, kind].append((look.id, text))
        for (split, kind), cases in found.items():
            more = f" (and {len(cases) - 1} more like it)" if len(cases) > 1 else ""
            self._error(kind, cases[0][1] + more, split, [id_ for id_, _ in cases])

    def _classes(self) -> Classes | None:
        """Of the layout, from classes.json or from ``?classes=``; None where the masks decide."""
        if self.tree.classes is not None:
            return self.tree.classes
        place = Path(self.spec.place)
        file = (place if place.is_dir() else place.parent) / "classes.json"
        try:
            number = self.spec.query.get("classes")
            wanted = None if number is None else whole_number(number, "classes", str(self.spec), 2, 255)
            if file.is_file():
                found = read_classes(file)
                if wanted not in (None, len(found.names)):
                    self._error("classes", f"{self.spec}: classes={wanted}, but {file} names {len(found.names)}")
                return found
            return None if wanted is None else numbered(wanted, f"?classes={wanted}")
        except DataError as error:
            self._error("classes", str(error))
            return None

    def _outside(self, looks: Sequence[_Look], classes: Classes | None) -> None:
        if classes is None:
            return
        by_split: dict[str, list[tuple[_Look, list[int]]]] = defaultdict(list)
        for look in looks:
            outside = [label for label in look.labels if len(classes.names) <= label < IGNORE]
            if outside:
                by_split[look.split].append((look, outside))
        strange = {label for cases in by_split.values() for _, outside in cases for label in outside}
        hint = "" if self.tree.classes is not None or "relabel" in self.spec.query else self._mistaken(classes, strange)
        for split, cases in by_split.items():
            labels_out = sorted({label for _, labels in cases for label in labels})
            many = "" if len(labels_out) == 1 else "s"
            text = (
                f"label{many} {listed(map(str, labels_out), 8)} {'are' if many else 'is'} out of range 0…{len(classes.names) - 1} "
                f"({IGNORE} is ignored); used by {len(cases)} image{'' if len(cases) == 1 else 's'}, first {cases[0][0].mask}{hint}"
            )
            self._error("labels outside the classes", text, split, [look.id for look, _ in cases])

    def _mistaken(self, classes: Classes, strange: set[int]) -> str:
        """What to set where one label is out of range and one class is in no mask: the one may have been written for the other."""
        absent = [label for label in range(len(classes.names)) if not self._pixels()[label]]
        if len(strange) != 1 or len(absent) != 1:
            return ""
        (label,), name = strange, classes.names[absent[0]]
        return f"; no mask holds {absent[0]} ({name}): if {label} was written for it, set ?relabel={label}:{absent[0]}"

    def _mapped_before(self) -> None:
        """Numbers that the data set's own masks never hold tell of masks that someone mapped already: ours would be the second time."""
        for name, files in self.tree.splits.items():
            found = [label for label in self.tree.layout.never if files.table is not None and self.raw[name][label]]
            if found:
                text = (
                    f"masks hold {listed(map(str, found))}, which no mask of {self.tree.layout.name} does: these look mapped already "
                    "and would be mapped twice; take the original masks, or give these as a folder or mmseg:PATH with ?classes=…"
                )
                self._error("labels mapped before", text, name)

    def _copies(self, looks: Sequence[_Look]) -> None:
        """The same image in two splits, or twice in one: by its bytes, or by its decoded pixels."""
        seen: set[tuple[str, ...]] = set()
        for how in ("bytes", "pixels"):
            groups: dict[str, list[_Look]] = defaultdict(list)
            for look in looks:
                digest = look.bytes_digest if how == "bytes" else look.pixels_digest
                if digest:
                    groups[digest].append(look)
            across: dict[tuple[str, ...], list[list[_Look]]] = defaultdict(list)
            for group in groups.values():
                names = tuple(f"{look.split}/{look.id}" for look in group)
                if len(group) > 1 and names not in seen:
                    seen.add(names)
                    across[tuple(sorted({look.split for look in group}))].append(group)
            for splits, cases in across.items():
                self._copy_finding(how, splits, cases)

    def _copy_finding(self, how: str, splits: tuple[str, ...], cases: Sequence[Sequence[_Look]]) -> None:
        example = " = ".join(f"{look.split}/{look.id}" for look in cases[0][:3])
        files = [f"{look.split}/{look.id}" for group in cases for look in group]
        what = "are the same file" if how == "bytes" else "have the same pixels"
        if len(splits) > 1:
            text = (
                f"{len(cases)} images of {' and '.join(splits)} {what} ({example}): scores on them mean nothing; take them out of one split"
            )
            self._error("leakage between splits", text, "", files, len(cases))
        else:
            self._note("duplicates", f"{len(cases)} images {what} as another of this split ({example})", splits[0], files, len(cases))

    def _error(self, kind: str, text: str, split: str = "", files: Sequence[str] = (), count: int | None = None) -> None:
        self.findings.append(Finding(ERROR, kind, text, split, len(files) or 1 if count is None else count, tuple(files[:5])))

    def _note(self, kind: str, text: str, split: str = "", files: Sequence[str] = (), count: int | None = None) -> None:
        self.findings.append(Finding(NOTE, kind, text, split, len(files) or 1 if count is None else count, tuple(files[:5])))


def _look(job: _Job) -> _Look:
    image, mask = job.image, job.mask
    trouble: list[tuple[str, str]] = []
    pixels = raw = None
    bytes_digest = pixels_digest = ""
    try:
        bytes_digest = hashlib.sha256(image.read_bytes()).hexdigest()
        pixels = read_image(image)
        pixels_digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    except (DataError, OSError) as error:
        trouble.append(("unreadable image", str(error)))
    try:
        raw = read_raw_mask(mask, job.colours)
    except DataError as error:
        kinds = {"channels (": "mask with several channels", "of colour (": "unknown colours"}
        trouble.append((next((kind for mark, kind in kinds.items() if mark in str(error)), "unreadable mask"), str(error)))
    counts = None
    if raw is not None:
        if raw.size and (raw.min() < 0 or raw.max() > IGNORE):
            worst = int(raw.max()) if raw.max() > IGNORE else int(raw.min())
            trouble.append(("label beyond 255", f"{mask}: label {worst} in the mask; labels are 0…254, and {IGNORE} for ignored pixels"))
        else:
            counts = np.bincount(raw.ravel(), minlength=256).astype(np.int64)
    if raw is not None and pixels is not None and raw.shape != pixels.shape[:2]:
        rule = "the file's EXIF data turns the image, save it turned" if turned(image) else "the two must be of one size"
        sizes = f"image is {pixels.shape[0]}x{pixels.shape[1]} (height x width), its mask {raw.shape[0]}x{raw.shape[1]}"
        trouble.append(("image and mask differ in size", f"{image}: {sizes}; {rule}"))
    size = None if pixels is None else (pixels.shape[0], pixels.shape[1])
    return _Look(job.split, job.id, str(job.mask), tuple(trouble), size, counts, (), bytes_digest, pixels_digest)
