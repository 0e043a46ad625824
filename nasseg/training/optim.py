"""AdamW with its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import AdamW, Optimizer

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def build_optimizer(model: nn.Module, *, lr: float, weight_decay: float, backbone_lr_scale: float, decay_rule: str = "matrices") -> AdamW:
    """AdamW over the weights that are trained.

    ``decay_rule`` ``matrices``: norms, biases and other 1-d weights do not decay, nor do weights a module lists in its
    ``no_weight_decay()`` (timm's convention). ``mmsegmentation``: all weights decay, but for those of the norms under ``model.backbone``:
    what ``custom_keys`` with ``norm`` (no decay) and ``head`` (ten times the rate) come to, for there a weight follows the first key in its
    name, and the norms of ``decode_head`` have ``head`` in theirs.

    Weights under ``model.backbone`` learn at ``lr × backbone_lr_scale``. Each group keeps its peak rate as ``peak_lr``, for
    :class:`Schedule`.
    """
    backbone = getattr(model, "backbone", None)
    in_backbone = {id(parameter) for parameter in backbone.parameters()} if isinstance(backbone, nn.Module) else set()
    groups: list[dict[str, Any]] = []
    for group in _by_decay(model, weight_decay) if decay_rule == "matrices" else _all_but_norms(model, backbone, weight_decay):
        for scale, wanted in ((1.0, False), (backbone_lr_scale, True)):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in in_backbone) == wanted]
            if parameters:
                groups.append({"params": parameters, "weight_decay": group["weight_decay"], "lr": lr * scale, "peak_lr": lr * scale})
    return AdamW(groups, lr=lr)


def _by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups without decay and with it, by timm's rule."""
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if callable(listing := getattr(module, "no_weight_decay", None))
        for name in listing()
    }
    groups: list[dict[str, Any]] = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    return groups


def _all_but_norms(model: nn.Module, backbone: nn.Module | None, weight_decay: float) -> list[dict[str, Any]]:
    """The same by mmsegmentation's."""
    norms = [module for module in backbone.modules() if isinstance(module, NORMS)] if isinstance(backbone, nn.Module) else []
    exempt = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if id(parameter) in exempt], "weight_decay": 0.0},
        {"params": [parameter for parameter in trained if id(parameter) not in exempt], "weight_decay": weight_decay},
    ]


class Schedule:
    """The share of the peak learning rate at iteration t = 0 … n-1: (t+1)/(w+1) for t < w, then f + (1-f)·fall(r), r = (t-w)/(n-w).

    w = round(warmup·n), f = ``floor``. ``poly``: fall(r) = (1-r)^power, the shape of mmsegmentation's LinearLR + PolyLR, whose first rate
    is a millionth of the peak where ours is 1/(w+1). ``cosine``: fall(r) = (1 + cos πr)/2 (Loshchilov & Hutter, 1608.03983, eq. 5, without
    restarts). A function of t alone, so a resumed run cannot fall out of step and a checkpoint holds no schedule.
    """

    def __init__(self, iterations: int, *, kind: str = "poly", warmup: float, power: float, floor: float = 0.0) -> None:
        self.iterations = iterations
        self.kind = kind
        self.warmup = min(round(warmup * iterations), iterations - 1)
        self.power = power
        self.floor = floor

    def factor(self, t: int) -> float:
        """The share of the peak rate in iteration ``t``."""
        if t < self.warmup:
            return (t + 1) / (self.warmup + 1)
        ran = (t - self.warmup) / (self.iterations - self.warmup)
        fall = (1 + math.cos(math.pi * ran)) / 2 if self.kind == "cosine" else float((1 - ran) ** self.power)
        return self.floor + (1 - self.floor) * fall

    def apply(self, optimizer: Optimizer, t: int) -> float:
        """Set every group's rate for iteration ``t``; returns the factor."""
        factor = self.factor(t)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return factor
