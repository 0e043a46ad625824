"""The training of a chosen network, end to end, for numbers that are kept.

    nasseg train results/X:best --data D --trainer full --size 512x512 --out runs/Y
    nasseg train results/X:best --data D --trainer full --size 512x512 --out runs/Y --resume

SegFormer's recipe (2105.15203, section 4.1: AdamW, backbone at 6e-5, head at ten times that, poly schedule, random scale, flip and
colour) with the average of the weights measured and kept. Where it differs: rare classes weigh more in the loss, the gradient is clipped,
warm-up is a share of the run, and runs are shorter than 160,000 iterations, because a searched network usually meets a smaller set than
ADE20K: ``iterations`` is the first knob to turn.
"""

from __future__ import annotations

from nasseg.training.config import TrainingConfig
from nasseg.training.device import threads
from nasseg.training.job import Job
from nasseg.training.trainer import Recipe
from nasseg.training.trial import Report, Result, Trial


class Full(Recipe):
    """Long run, average of the weights, validations on the original masks, the best of them kept.

    nasseg train results/X:best --data D --trainer full --size 512x512 --out runs/Y
    """

    Config = TrainingConfig.with_defaults(
        "FullConfig",
        iterations=20_000,
        batch_size=16,
        # 6e-4 for the decoder and 6e-5 for a pretrained backbone.
        lr=6e-4,
        backbone_lr_scale=0.1,
        weight_decay=0.01,
        # 5 % of 20,000 is near SegFormer's 1,500 iterations, and shrinks with the run.
        warmup=0.05,
        power=0.9,
        clip=1.0,
        # SegFormer weighs no classes (the schedules set none); on a set of one's own a rare class is then often never predicted.
        class_weights="auto",
        # SegFormer trains its transformers with drop_path=0.1; not every backbone has stochastic depth, and small ones do better without.
        drop_path=0.0,
        dropout=0.1,
        # Averages over about the last thousand iterations; its ramp keeps short runs usable.
        ema=0.999,
        cache=False,
        # A long run is worth going on with on a smaller device.
        oom="halve",
        # Published numbers are measured on the masks as they are.
        masks="original",
        val_every=1000,
        eval_batch_size=8,
        keep="best",
        checkpoint_every=250,
    )

    distributed = True

    def run(self, trial: Trial, report: Report) -> Result:
        """Train ``trial``, measure it every ``val_every`` iterations, and end with the best validation's weights."""
        with threads(self.config.threads):
            job = Job.open(trial, self.config)
            return job.train(job.loss(), report)
