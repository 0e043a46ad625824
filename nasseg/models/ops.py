"""What every block of the decoder is made of: norm over channels, pooling to a grid, resize, tokens, initialisation.

Letters in names: B batch, C channels, H and W the map, N its H·W positions (tokens), M key tokens, h heads.

Maps are logically BCHW and lie channels-last in memory. There a change between map and tokens is a view, a norm over channels reads
contiguous memory, and no block copies its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

PAD_MULTIPLE = 32
"""Unless a network is made otherwise, inputs are padded to a multiple of this: every map then divides evenly down to the deepest one."""
BAND = 2**21
"""Bytes of an intermediate map that is taken in bands (:func:`bands`). From 1 to 4 MiB it makes no difference on a core with 1 MiB of its
own and 32 MiB shared."""
SHORTEST_BAND = 16
"""Rows. What lies around a band is computed again: a row on either side for a 3×3 convolution, up to 8 for a resize."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel: BCHW → BCHW, output channels-last."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(x - mean_C) / sqrt(var_C + eps) · weight + bias``, per pixel."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """``x + drop_path(branch(LN_C(x)))``: BCHW → BCHW.

    ``normalised``: the residual leaves from ``LN_C(x)``, as in U-MixFormer's code. ``twice``: ``LN_C(x)`` is added once more, as where a
    branch has a residual of its own inside (SCASeg's Eq. 19 within Eq. 6).
    """

    def __init__(self, channels: int, branch: nn.Module, drop_path: float, *, normalised: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.normalised, self.twice = normalised, twice
        self.norm = ChannelNorm(channels)
        self.branch = branch
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input plus its branch."""
        y_BCHW = self.norm(x_BCHW)
        branch_BCHW = self.branch(y_BCHW)
        if self.twice:
            branch_BCHW = plus(y_BCHW, branch_BCHW)
        return plus(y_BCHW if self.normalised else x_BCHW, self.drop_path(branch_BCHW))


def stochastic_depth(rate: float) -> nn.Module:
    """timm's DropPath (a residual branch is dropped per sample, in training only), or nothing for rate 0."""
    made: nn.Module = DropPath(rate) if rate > 0 else nn.Identity()
    return made


def plus(x_BCHW: Tensor, branch_BCHW: Tensor) -> Tensor:
    """``x + branch``, written over the branch where that has the sum's shape and type: one map less in memory.

    The branch must be the caller's alone, and made by an operation whose gradient does not read its result: a linear map, a resize, a
    product with a mask.
    """
    if branch_BCHW.shape == x_BCHW.shape and branch_BCHW.dtype == x_BCHW.dtype:
        return branch_BCHW.add_(x_BCHW)
    return x_BCHW + branch_BCHW


def to_tokens(x_BCHW: Tensor) -> Tensor:
    """BCHW → BNC, row by row; a view when the map lies channels-last."""
    return x_BCHW.flatten(2).transpose(1, 2)


def to_map(x_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    """BNC → BCHW with ``grid`` = (H, W); a channels-last view when the tokens are contiguous.

    The tokens are unfolded before the channels move: the other way round the view of a single image gets a batch stride of C, PyTorch then
    takes the map for channels-first, and every resize, convolution and sum behind it changes layouts.
    """
    return torch.unflatten(x_BNC, 1, grid).permute(0, 3, 1, 2)


def split_heads(x_BNC: Tensor, heads: int) -> Tensor:
    """BNC → B h N (C/h), a view; head k holds channels k·C/h … (k+1)·C/h - 1."""
    return torch.unflatten(x_BNC, 2, (heads, -1)).transpose(1, 2)


def merge_heads(x_BhNd: Tensor) -> Tensor:
    """B h N d → B N (h·d): the inverse of :func:`split_heads`."""
    return x_BhNd.transpose(1, 2).flatten(2)


def resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, ``align_corners=False``; the map itself where it already has ``size``."""
    if x_BCHW.shape[2] == size[0] and x_BCHW.shape[3] == size[1]:
        return x_BCHW
    return F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)


def mean_of_resized(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """``mean_HW(resize(x, size))``, (B, C, 1, 1).

    To a whole multiple of its grid every pixel gives the same total of weight, those at the border too: what a border pixel lacks on its
    outer side the clamping gives back. So the mean is that of the small map.
    """
    height, width = x_BChw.shape[2], x_BChw.shape[3]
    whole = size[0] % height == 0 and size[1] % width == 0
    return (x_BChw if whole else resize(x_BChw, size)).mean(dim=(2, 3), keepdim=True)


def max_of_resized(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """``max_HW(resize(x, size))``, (B, C, 1, 1).

    Between four pixels the resized map is linear along either axis, so of the samples there the largest is one of the outermost four. To a
    whole multiple of the grid only those are computed.
    """
    height, width = x_BChw.shape[2], x_BChw.shape[3]
    if size[0] % height == 0 and size[1] % width == 0:
        x_BChw = _outermost(_outermost(x_BChw, 2, size[0] // height), 3, size[1] // width)
    else:
        x_BChw = resize(x_BChw, size)
    return x_BChw.amax(dim=(2, 3), keepdim=True)


def _outermost(x_BChw: Tensor, axis: int, scale: int) -> Tensor:
    """Per pair of neighbours the first and the last of the samples that lie between them, and what lies outside of all pairs."""
    if scale % 2:
        return x_BChw  # the samples start at the pixels themselves
    pairs = x_BChw.shape[axis] - 1
    low, high = x_BChw.narrow(axis, 0, pairs), x_BChw.narrow(axis, 1, pairs)
    step = 0.5 / scale
    inner = [torch.lerp(low, high, step), torch.lerp(high, low, step)]
    return torch.cat([x_BChw.narrow(axis, 0, 1), *inner, x_BChw.narrow(axis, pairs, 1)], dim=axis)


def resized_rows(x_BChw: Tensor, size: tuple[int, int], rows: tuple[int, int]) -> Tensor:
    """Rows ``rows[0]`` … ``rows[1] - 1`` of ``resize(x, size)``, from the rows of x that they read: (B, C, rows, W).

    ``size`` is a whole multiple of the map's height.
    """
    top, bottom = rows
    height, scale = x_BChw.shape[2], size[0] // x_BChw.shape[2]
    # Row o lies at (o + 1/2)/scale - 1/2, between the row of x there and the next one.
    low = max((2 * top + 1 - scale) // (2 * scale), 0)
    high = min((2 * bottom - 1 - scale) // (2 * scale) + 2, height)
    near_BCRW = resize(x_BChw[:, :, low:high], ((high - low) * scale, size[1]))
    return near_BCRW[:, :, top - low * scale : bottom - low * scale]


def bands(x_BCHW: Tensor, width: int) -> list[tuple[int, int]]:
    """Rows of a map, (first, last + 1), to be taken at a time through an intermediate map of ``width`` channels.

    Where nothing is kept for a gradient, on a CPU, an intermediate map is wanted for a moment only. Taken in bands of :data:`BAND` bytes
    it stays in the cache; taken whole it is written to fresh memory, which the system has to hand out page by page, and read back.
    Elsewhere, in a compiled or exported program too, there is one band.
    """
    height = x_BCHW.shape[2]
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x_BCHW.device.type != "cpu":
        return [(0, height)]
    whole = x_BCHW.shape[0] * width * height * x_BCHW.shape[3] * x_BCHW.element_size()
    step = -(-height // max(min(whole // BAND, height // SHORTEST_BAND), 1))
    return [(top, min(top + step, height)) for top in range(0, height, step)]


def in_bands(parts: Iterable[Tensor], rows: Iterable[tuple[int, int]], height: int) -> Tensor:
    """Parts (B, C, last - first, W) of a map of ``height`` rows, each made when the one before it is in its place: (B, C, H, W)."""
    out_BCHW: Tensor | None = None
    for (top, bottom), part_BCRW in zip(rows, parts, strict=True):
        if out_BCHW is None:
            shape = (*part_BCRW.shape[:2], height, part_BCRW.shape[3])
            out_BCHW = torch.empty(shape, dtype=part_BCRW.dtype, device=part_BCRW.device, memory_format=torch.channels_last)
        out_BCHW[:, :, top:bottom] = part_BCRW
    assert out_BCHW is not None, "no rows"
    return out_BCHW


def pooled_grid(grid: tuple[int, int], ratio: int, edge: str | None = None) -> tuple[int, int]:
    """The grid of :func:`block_mean`: each side over ``ratio``, rounded up, or with ``edge`` ``drop`` down, but not to 0."""
    if edge == "drop":
        return max(grid[0] // ratio, 1), max(grid[1] // ratio, 1)
    return -(-grid[0] // ratio), -(-grid[1] // ratio)


def block_mean(x_BCHW: Tensor, ratio: int, edge: str | None = None) -> Tensor:
    """Average pooling with kernel = step = ``ratio`` to :func:`pooled_grid`: BCHW → B C ceil(H/ratio) ceil(W/ratio).

    A window that reaches over the edge is the mean of the pixels it has: ``AvgPool2d(ceil_mode=True)``, as in U-MixFormer's code. So maps
    of ceil(H/s) rows come to one grid whatever their strides s. With ``edge`` ``drop`` it is left out, as in the code of FeedFormer and
    MetaSeg (``ceil_mode=False``), unless there is no other.
    """
    if ratio == 1:
        return x_BCHW
    rows, columns = pooled_grid((x_BCHW.shape[2], x_BCHW.shape[3]), ratio, edge)
    if edge == "drop":
        x_BCHW = x_BCHW[:, :, : rows * ratio, : columns * ratio]
    partial = x_BCHW.shape[2] % ratio != 0 or x_BCHW.shape[3] % ratio != 0
    return F.avg_pool2d(x_BCHW, ratio, ratio, ceil_mode=partial)


def init_block(modules: Iterable[nn.Module]) -> None:
    """Initialisation of a residual block, as in SegFormer's code.

    Linear and 1×1: normal of deviation 0.02, truncated at ±2, bias 0. Larger kernels: Kaiming normal over the fan-out of one group, bias 0.
    Norms: weight 1, bias 0. A branch ends in weights of deviation 0.02, so an untrained block is close to the identity.
    """
    for module in modules:
        if isinstance(module, nn.Linear) or (isinstance(module, (nn.Conv1d, nn.Conv2d)) and set(module.kernel_size) == {1}):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        zero_bias(module)


def init_head(modules: Iterable[nn.Module], classifier: nn.Module) -> None:
    """Initialisation of a fusion head, as in mmsegmentation: Kaiming normal over the fan-out, the classifier's deviation 0.01, biases 0."""
    for module in modules:
        if module is classifier:
            nn.init.normal_(classifier.get_parameter("weight"), std=0.01)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        zero_bias(module)


def zero_bias(module: nn.Module) -> None:
    """Set the bias of a linear map or a convolution to 0, where it has one."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """The map with its channels contiguous in memory: one copy, or none where it lies so already.

    Either way its strides are those that PyTorch knows as channels-last, of the batch as well (:func:`to_map`).
    """
    return to_map(to_tokens(x_BCHW.contiguous(memory_format=torch.channels_last)), (x_BCHW.shape[2], x_BCHW.shape[3]))
