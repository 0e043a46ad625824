"""Any trained network by its place: a bundle, a training run, a published network."""

from __future__ import annotations

import os
from pathlib import Path

from nasseg.errors import BundleError
from nasseg.export.bundle import load_bundle, run_preprocessing
from nasseg.export.published import preprocessing_of
from nasseg.models.checkpoint_file import ENDINGS
from nasseg.models.segmenter import SegModel
from nasseg.published.network import Published, is_published
from nasseg.training.rundir import RUN, RunDir


def load(path: str | os.PathLike[str]) -> SegModel:
    """The trained network at ``path`` in eval mode, on the CPU.

    Args:
        path: The folder of a bundle or of a training run, or a published network (docs/published.md): a folder of ``save_pretrained``, or
            one file of weights.

    Returns:
        (B, in_chans, H, W), normalised → logits (B, K, ceil(H/s), ceil(W/s)), s = ``stride``; ``predict`` gives them at the input's size.
        ``preprocessing`` says how pixels become input and what the classes are, as in a bundle's ``preprocessing.json``; it is None for a
        published network that does not say the size of its images.

    Raises:
        BundleError: Nothing that can be loaded is there, or a bundle or run is damaged.
        WeightsError: A weights file is damaged, or is of no network that nasseg knows.
    """
    place = Path(path)
    if (place / RUN).is_file():
        run = RunDir.open(place)
        model = run.load_model()
        model.preprocessing = run_preprocessing(run, model).to_dict()
        return model
    if is_published(place):
        found = Published.open(place)
        model = found.model()
        model.preprocessing = None if found.size is None else preprocessing_of(found).to_dict()
        return model
    if place.is_file():
        raise BundleError(f"{place}: no network; one is the folder of a bundle or a run, or a file that ends in {', '.join(ENDINGS)}")
    return load_bundle(place)
