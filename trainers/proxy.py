"""A short training that tells candidates apart: what a search runs for each network.

    nasseg search decoder --data camvid:PATH --backbone tf_efficientnet_lite0 --size 120x160 --trainer proxy --trials 24 --out results/X
    nasseg train GENOTYPE.yaml --data synthetic --size 96x128 --trainer proxy --set trainer.iterations=60 --out runs/Y

Plain cross-entropy at a usual rate is a bad proxy: in a short run the rare classes stay at IoU 0 for every candidate, and all score the
same. Weighted classes and a high rate on the new decoder, with the pretrained backbone moving slowly, spread the candidates out. Fidelity
below 1 shortens the schedule and keeps its shape. Numbers are for comparing candidates under this very recipe, not for print.
"""

from __future__ import annotations

from nasseg.training.config import TrainingConfig
from nasseg.training.device import threads
from nasseg.training.job import Job
from nasseg.training.trainer import Recipe
from nasseg.training.trial import Report, Result, Trial


class Proxy(Recipe):
    """Short run, class-weighted loss, high decoder rate, images in memory, one thread.

    nasseg search decoder --data D --backbone B --size 120x160 --trainer proxy --trials 24 --out results/X
    """

    Config = TrainingConfig.with_defaults(
        "ProxyConfig",
        # About six passes over 300 images: 240 × 8 / 300.
        iterations=240,
        batch_size=8,
        # A fresh decoder bears a high rate for so short a time; a pretrained backbone does not.
        lr=3e-3,
        backbone_lr_scale=0.2,
        weight_decay=0.01,
        warmup=0.05,
        # Without weights thin and rare classes score 0 for every candidate, and nothing is compared; a set without such classes gets none.
        class_weights="auto",
        # Regularisation pays in long runs only.
        drop_path=0.0,
        dropout=0.0,
        ema=0.0,
        # Trials run side by side, one core each: two on one thread each beat one on two.
        threads=1,
        workers=0,
        cache=True,
        # Measured once, at the end, on masks at the evaluation size: decoding and comparing full masks costs more than the network.
        val_every=0,
        masks="resized",
        eval_batch_size=16,
        # The last validation, not the luckiest of several.
        keep="last",
        checkpoint_every=60,
    )

    distributed = True

    def run(self, trial: Trial, report: Report) -> Result:
        """Train ``trial`` for its share of the iterations and measure it once."""
        with threads(self.config.threads):
            job = Job.open(trial, self.config)
            return job.train(job.loss(), report)
