"""What the shares of the classes say: classes that cannot be learnt, classes that a training must favour, and the settings that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasseg.data.class_weights import RARE, rare_classes
from nasseg.data.diagnosis import NOTE, Finding, SplitReport
from nasseg.data.images import IGNORE
from nasseg.data.tree import listed

FEW_IMAGES = 0.5
"""Where a rare class is in at most this share of the images, drawing more of those shows it more often (the setting ``balance``)."""


def class_findings(reports: Mapping[str, SplitReport], classes: Sequence[str]) -> list[Finding]:
    """Notes on absent and rare classes and on much that is ignored."""
    return [*_absences(reports, classes), *_rare(reports, classes)]


def _absences(reports: Mapping[str, SplitReport], classes: Sequence[str]) -> list[Finding]:
    """Classes without a pixel, and much that is ignored."""
    out = []
    for name, report in reports.items():
        if not report.read:
            continue
        absent = [c for label, c in enumerate(classes) if not report.pixels[label]]
        if absent:
            effect = "cannot be learnt" if name == "train" else "drop out of the mean IoU unless they are predicted"
            out.append(
                Finding(NOTE, "absent classes", f"no pixel of {listed(absent, 8)}: they {effect}", name, len(absent), tuple(absent[:5]))
            )
        if report.ignored > 50:
            text = f"{report.ignored:.1f} % of the pixels are ignored ({IGNORE}): neither learnt from nor measured"
            out.append(Finding(NOTE, "mostly ignored", text, name))
    return out


def _rare(reports: Mapping[str, SplitReport], classes: Sequence[str]) -> list[Finding]:
    """Classes of train with less than half of an equal share (:func:`nasseg.data.class_weights.rare_classes`)."""
    train = reports.get("train")
    if train is None or not train.read:
        return []
    rare = rare_classes(train.pixels[: len(classes)])
    if not rare:
        return []
    said = [f"{classes[c]} {100 * share:.2g} % in {train.images_with[c]} of {train.read} images" for c, share in rare.items()]
    settings = ["--set trainer.class_weights=auto"]
    if any(train.images_with[c] <= FEW_IMAGES * train.read for c in rare):
        settings.append("--set trainer.balance=0.5")
    text = (
        f"{listed(said, 8)} (below half of an equal share, {100 * RARE / int((train.pixels[: len(classes)] > 0).sum()):.2g} %): easily "
        f"never predicted; train with {' '.join(settings)} (class_weights=auto is the default of the recipes proxy and full)"
    )
    names = tuple(classes[c] for c in rare)
    return [Finding(NOTE, "rare classes", text, "train", len(rare), names[:5], tuple(settings))]
