"""Notes on rare and absent classes, and settings that a recipe takes as they are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kits_data import save

from nasseg.cli.options import parse_sets, split_sets
from nasseg.data.class_findings import class_findings
from nasseg.data.diagnosis import Finding, SplitReport
from nasseg.data.doctor import examine
from nasseg.training.trainer import load_trainer


def report(pixels: list[int], images: list[int], read: int, name: str = "train") -> SplitReport:
    made = SplitReport(name, read, read, read)
    made.pixels[: len(pixels)] = pixels
    made.images_with[: len(images)] = images
    return made


def rare(pixels: list[int], images: list[int], read: int = 20) -> Finding | None:
    found = class_findings({"train": report(pixels, images, read)}, ("soil", "crop", "weed"))
    return next((finding for finding in found if finding.kind == "rare classes"), None)


def test_rare_classes_are_named_with_what_to_set() -> None:
    found = rare([700, 280, 20], [20, 20, 11])
    assert found is not None
    assert (found.level, found.split, found.count, found.files) == ("note", "train", 1, ("weed",))
    assert found.settings == ("--set trainer.class_weights=auto",)
    assert found.text.startswith(
        "weed 2 % in 11 of 20 images (below half of an equal share, 17 %): easily never predicted; train with --set "
    )


def test_a_rare_class_in_half_of_the_images_or_fewer_is_to_be_drawn() -> None:
    found = rare([700, 280, 20], [20, 20, 10])
    assert found is not None
    assert found.settings == ("--set trainer.class_weights=auto", "--set trainer.balance=0.5")
    assert "train with --set trainer.class_weights=auto --set trainer.balance=0.5 (" in found.text


@pytest.mark.parametrize("pixels", [[340, 330, 330], [500, 330, 170], [1000, 0, 0], [500, 500, 0]])
def test_balanced_and_absent_classes_are_not_rare(pixels: list[int]) -> None:
    assert rare(pixels, [20, 20, 20]) is None


def test_only_train_counts() -> None:
    assert class_findings({"val": report([98, 1, 1], [5, 5, 5], 5, "val")}, ("a", "b", "c")) == []
    assert class_findings({"train": report([98, 1, 1], [5, 5, 5], 0)}, ("a", "b", "c")) == []


@pytest.mark.parametrize("trainer", ["proxy", "full"])
def test_the_settings_are_taken_by_every_recipe(trainer: str) -> None:
    found = rare([700, 280, 20], [20, 20, 1])
    assert found is not None
    words = " ".join(found.settings).split()
    assert words[::2] == ["--set"] * len(found.settings)
    _, settings = split_sets(parse_sets(words[1::2]))
    config = load_trainer(trainer).Config.parse(settings)
    assert (config.class_weights, config.balance) == ("auto", 0.5)


def test_a_folder_is_looked_through_for_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        mask = np.zeros((10, 10), dtype=np.uint8)
        mask[0, :2] = 1
        save(tmp_path / split / "images" / "a.png", np.full((10, 10, 3), len(split), dtype=np.uint8))
        save(tmp_path / split / "masks" / "a.png", mask)
    plain = examine(str(tmp_path)).to_dict()
    (note,) = plain["findings"]
    assert (note["kind"], note["settings"]) == ("rare classes", ["--set trainer.class_weights=auto"])
    assert json.loads(json.dumps(plain)) == plain
