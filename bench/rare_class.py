"""A study on a set with one rare class, and what is set for it: ``python bench/rare_class.py [--weed 0.01] [--out DIR]``.

Draws fields of soil, crop and a few weeds (``bench/fields.py``), prints what ``nasseg data check`` says of them, and searches the same
small decoders on them three times: without class weights, with ``class_weights=auto`` (the recipe's default), and with images of rare
classes drawn more often besides (``balance=0.5``). Printed of each study: IoU by class of every trial, the warnings, and the mean over
its trials.

Encoder ``test_resnet`` of timm from scratch, recipe ``proxy``, ``--iterations`` of 8 images at 96x128; one thread, about half a minute of
one core a trial. Studies that are there already are not run again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fields import CLASSES, write_fields
from rich.console import Console
from rich.table import Table

import nasseg
from nasseg.data.doctor import examine
from nasseg.genes.space import Space
from nasseg.search.view import COMPLETE, StudyView

SPACE = {
    "name": "fields",
    "genes": {
        "fusion_stride": 4,
        "inputs": "self",
        "attention": "none",
        "lpm": {"choices": ["none", "se", "eca"], "tie": "all"},
        "ffn": {"choices": [0, 2], "tie": "all"},
        "fusion": "concat",
        "fusion_width": {"choices": [32, 64]},
    },
    "objectives": {"miou": "max", "macs": "min"},
}


def study(options: argparse.Namespace, name: str, settings: dict[str, Any]) -> StudyView:
    """One search; random draws from one seed, so that every study trains the same networks."""
    found: StudyView = nasseg.search(  # type: ignore[operator]
        Space.from_dict(SPACE),
        data=str(options.out / "fields"),
        size=(96, 128),
        backbone="test_resnet",
        trials=options.trials,
        settings={"iterations": options.iterations, **settings},
        sampler="random",
        seed=options.seed,
        executor="local",
        out=options.out / name,
    )
    return found


def table(view: StudyView, title: str) -> Table:
    """IoU by class of every trial."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for head in ("trial", "mIoU", *CLASSES, "never predicted"):
        made.add_column(head, justify="right")
    for trial in view.trials:
        if trial.state == COMPLETE:
            by_class = [f"{trial.per_class[name]:.2f}" for name in CLASSES]
            made.add_row(str(trial.number), f"{trial.metrics['miou']:.2f}", *by_class, ", ".join(trial.unpredicted or ()))
    return made


def mean(view: StudyView, name: str) -> float:
    """Over the trials, in percent."""
    return statistics.mean(trial.per_class[name] for trial in view.trials if trial.state == COMPLETE)


def main() -> None:
    """Search, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weed", type=float, default=0.01, help="share of the pixels of the rare class")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="a folder that is kept")
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    options.out = options.out or Path(tempfile.mkdtemp(prefix="rare-class-"))
    if not (options.out / "fields").exists():
        write_fields(options.out / "fields", weed=options.weed)
    for finding in examine(str(options.out / "fields")).findings:
        console.print(f"nasseg data check: {finding.kind}: {finding.text}", soft_wrap=True)

    compared = {
        "none": {"class_weights": "none"},
        "auto": {"class_weights": "auto"},
        "drawn": {"class_weights": "auto", "balance": 0.5},
    }
    studies = {" ".join(f"{k}={v}" for k, v in settings.items()): study(options, name, settings) for name, settings in compared.items()}
    for title, view in studies.items():
        console.print()
        console.print(table(view, title))
        for line in view.warnings or ["no warning"]:
            console.print(f"  {line}", soft_wrap=True)
    console.print()
    means = Table("settings", "mIoU", *CLASSES, "trials", box=None, pad_edge=False, title="mean over the trials", title_justify="left")
    for title, view in studies.items():
        trained = [trial for trial in view.trials if trial.state == COMPLETE]
        miou = statistics.mean(trial.metrics["miou"] for trial in trained)
        means.add_row(title, f"{miou:.2f}", *(f"{mean(view, name):.2f}" for name in CLASSES), str(len(trained)))
    console.print(means)


if __name__ == "__main__":
    main()
