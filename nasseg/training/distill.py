"""Learning from a teacher's answers beside the masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from nasseg.training.losses import IGNORE, SegmentationLoss

Output = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Taught:
    """What a student and its teacher say about one batch: logits, of the student maybe with those of its auxiliary head.

    No tuple, so that a loss that knows of no teacher fails on it.
    """

    student: Output
    teacher_BKhw: Tensor


class DistillationLoss(nn.Module):
    """(1 - w)·task + w·T²·KL(softmax(teacher / T) ‖ softmax(student / T)), the divergence averaged over pixels.

    Hinton et al., 1503.02531, section 2: T² keeps the size of the gradients when T changes. Compared are the student's logits as they come
    (stride 4 or 8), the teacher's resized to them (bilinear, corners not aligned), in float32. A pixel counts by the share of its cell
    in the mask that is not 255, or in full with ``ignored``. The entropy of the teacher, which no student can change, is taken off: equal
    answers give 0.
    """

    def __init__(self, task: SegmentationLoss, *, weight: float, temperature: float, ignored: bool = False) -> None:
        super().__init__()
        self.task = task
        self.weight = weight
        self.temperature = temperature
        self.ignored = ignored

    @override
    def forward(self, output: Taught, target_BHW: Tensor) -> Tensor:
        student = output.student
        main_BKhw = student[0] if isinstance(student, tuple) else student
        taught = self.divergence(main_BKhw, output.teacher_BKhw, target_BHW)
        if self.weight == 1:
            return taught
        task: Tensor = self.task(student, target_BHW)
        return (1 - self.weight) * task + self.weight * taught

    def mass(self, target_BHW: Tensor) -> Tensor:
        """As the loss on the masks; of the teacher alone, the counted pixels, or all with ``ignored``.

        The two agree, and parts of a batch add up to the whole, where pixels have no weights and all or none of the 255 count.
        """
        if self.weight == 1:
            return (torch.ones_like(target_BHW) if self.ignored else target_BHW != IGNORE).sum()
        return self.task.mass(target_BHW)

    def divergence(self, student_BKhw: Tensor, teacher_BKhw: Tensor, target_BHW: Tensor) -> Tensor:
        """T²·KL, the mean over the pixels that count; 0 where none does."""
        size = (student_BKhw.shape[2], student_BKhw.shape[3])
        T = self.temperature
        teacher_BKhw = teacher_BKhw.detach().float()
        if teacher_BKhw.shape[-2:] != size:
            teacher_BKhw = F.interpolate(teacher_BKhw, size=size, mode="bilinear", align_corners=False)
        log_p_BKhw = (teacher_BKhw / T).log_softmax(1)
        log_q_BKhw = (student_BKhw.float() / T).log_softmax(1)
        kl_Bhw = F.kl_div(log_q_BKhw, log_p_BKhw, reduction="none", log_target=True).sum(1)
        if self.ignored:
            return T * T * kl_Bhw.mean()
        share_Bhw = F.adaptive_avg_pool2d((target_BHW != IGNORE).float()[:, None], size)[:, 0]
        mass = share_Bhw.sum()
        return T * T * (kl_Bhw * share_Bhw).sum() / torch.where(mass > 0, mass, torch.ones_like(mass))
