"""Strip attention: time, memory and error of its forms: ``python bench/attention.py [--device cuda] [--dtype bfloat16] [--crossover]``.

Forms: ``naive`` builds the N×M map with softmax and two products; ``sdpa`` is ``scaled_dot_product_attention`` on q and k of one channel;
``exact`` is ``strip_attention(mode="exact")``, the same kernel with q and k filled up with zeros to d channels, which lets PyTorch take its
flash path; ``interpolated`` is the linear-time form. Inputs: q, k, v standard normal, the decoder's scale d^-1/2, one head of d = 32, as
the shallowest stage on MiT-B0 has it; ``spread`` multiplies q, so that rows with a wider range, and so more panels, are seen as well.

Times are the fastest of several runs in one process, in which the C allocator keeps its pages for all forms alike (PyTorch's CPU tuning
guide; fresh pages cost up to 1 ms a megabyte on virtual machines and drown every form). Memory is what was allocated at the peak over what
was held before, as PyTorch's own profiler sees it (on a GPU: ``max_memory_allocated``).
Errors are against the definition in float64, relative to max|v|, at a tolerance of 1e-4.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nasseg.models.strip import TOLERANCE, interpolates, panels_for, ranges, strip_attention
from nasseg.models.strip_bound import HERMITE

Form = Callable[[Tensor, Tensor, Tensor, float], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]

CASES = ((8, 16_384, 256, 1.0), (1, 16_384, 256, 1.0), (1, 32_768, 2_048, 1.0), (8, 16_384, 256, 4.0), (1, 32_768, 2_048, 4.0))
"""Images, queries, keys, spread. 16,384 queries are a 512×512 image at stride 4, 256 keys its grid at stride 32."""
KEY_STRIDES = ((32, 256), (16, 1024), (8, 4096))
"""Key stride and number of keys of a 512×512 image."""


def naive(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q.unsqueeze(-1) * (scale * k.unsqueeze(-2)), dim=-1) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q.unsqueeze(-1), k.unsqueeze(-1), v, scale=scale)


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return strip_attention(q, k, v, scale, mode="exact")


def interpolated(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return strip_attention(q, k, v, scale, mode="interpolated")


FORMS: dict[str, Form] = {"naive": naive, "sdpa": sdpa, "exact": exact, "interpolated": interpolated}


def inputs(
    N: int, M: int, spread: float, device: str, dtype: torch.dtype, heads: int = 1, d: int = 32, seed: int = 0, images: int = 1
) -> Inputs:
    """Queries, keys and values."""
    make = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(images, heads, *shape, generator=make) for shape in ((N,), (M,), (M, d)))
    return (q * spread).to(device, dtype), k.to(device, dtype), v.to(device, dtype)


def forward(form: Form, given: Inputs) -> None:
    with torch.no_grad():
        form(*given, given[2].shape[3] ** -0.5)


def both(form: Form, given: Inputs) -> None:
    leaves = [x.detach().requires_grad_() for x in given]
    out = form(leaves[0], leaves[1], leaves[2], given[2].shape[3] ** -0.5)
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def milliseconds(call: Callable[[], None], repeats: int, device: str) -> float:
    """Of one call, in the fastest of ``repeats`` after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:]) * 1e3


def peak(step: Callable[[Form, Inputs], None], form: Form, given: Inputs, device: str) -> float:
    """MiB allocated above what was held, at the worst moment of one call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step(form, given)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        step(form, given)
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def keep_pages() -> bool:
    """Tell glibc to give no memory back and to take large blocks from the heap; False where there is no such allocator."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    trim_threshold, mmap_threshold, most = -1, -3, 1 << 30
    return bool(library.mallopt(trim_threshold, most) and library.mallopt(mmap_threshold, most))


def speed(options: argparse.Namespace) -> Iterator[Table]:
    """One table a case: time, ratio and memory of every form."""
    for images, N, M, spread in CASES:
        given = inputs(N, M, spread, options.device, options.type, images=images)
        seen = ranges(given[0], given[1], 32**-0.5)
        panels = panels_for(seen.product, TOLERANCE / 2)
        size = f"{images} image{'s' * (images > 1)}, N = {N:,}, M = {M:,}"
        table = Table(title=f"{size}, spread {spread:g}: range product {seen.product:.1f}, {panels} panels", title_justify="left")
        for column in ("form", "forward ms", "ratio", "peak MiB", "with backward ms", "ratio", "peak MiB"):
            table.add_column(column, justify="left" if column == "form" else "right")
        figures = {}
        for name, form in FORMS.items():
            times = [milliseconds(partial(step, form, given), options.repeats, options.device) for step in (forward, both)]
            figures[name] = (*times, *(peak(step, form, given, options.device) for step in (forward, both)))
        base = figures["interpolated"]
        for name, (fwd, fwd_bwd, low, high) in figures.items():
            table.add_row(
                name, f"{fwd:.2f}", f"{fwd / base[0]:.1f}", f"{low:.0f}", f"{fwd_bwd:.2f}", f"{fwd_bwd / base[1]:.1f}", f"{high:.0f}"
            )
        yield table


def key_strides(options: argparse.Namespace) -> Table:
    """Finer key grids on a 512×512 image, with backward."""
    table = Table(title="key_stride on 512×512 (N = 16,384), forward and backward", title_justify="left")
    for column in ("key_stride", "M", "sdpa ms", "exact ms", "interpolated ms", "sdpa MiB", "exact MiB", "interpolated MiB"):
        table.add_column(column, justify="right")
    for stride, M in KEY_STRIDES:
        given = inputs(16_384, M, 1.0, options.device, options.type)
        names = ("sdpa", "exact", "interpolated")
        times = [milliseconds(partial(both, FORMS[name], given), options.repeats, options.device) for name in names]
        peaks = [peak(both, FORMS[name], given, options.device) for name in names]
        table.add_row(str(stride), f"{M:,}", *(f"{t:.2f}" for t in times), *(f"{p:.0f}" for p in peaks))
    return table


def random_inputs(count: int) -> Iterator[Inputs]:
    """Sizes, heads and spreads over several orders of magnitude."""
    make = torch.Generator().manual_seed(1)
    for seed in range(count):
        N, M, d, heads = (int(torch.randint(1, most, (), generator=make)) for most in (3000, 300, 33, 4))
        spread = 10 ** float(torch.empty(()).uniform_(-3, 1.5, generator=make))
        yield inputs(N, M, spread, "cpu", torch.float32, heads, d, seed)


def adversarial_inputs(count: int) -> Iterator[Inputs]:
    """Made against the bound: clustered keys at the edge of what P panels cover, outliers, degenerate sizes, huge and offset ranges."""
    for index in range(count):
        kind, d, N, M = index % 10, 3, 4000, 400
        q, k, v = inputs(N, M, 1.0, "cpu", torch.float32, 1, d, index)
        panels = 2 ** (index // 10 % 10)
        if kind in (0, 1, 2):  # two clusters of keys with opposite values, sizes 1:1, 1:M-1, 1:9; range at the edge of what P panels cover
            wide = panels / 2 * (TOLERANCE / 2 / HERMITE) ** 0.25 * 0.9999 / d**-0.5
            share = (M // 2, 1, M // 10)[kind]
            q = torch.linspace(-1, 1, N).view(1, 1, N)
            k = (torch.arange(M) < share).float().view(1, 1, M) * wide
            v = (torch.arange(M) < share).float().mul(2).sub(1).view(1, 1, M, 1).expand(1, 1, M, d)
        elif kind == 3:  # one outlier among the queries
            q[0, 0, index] = 10.0 ** (index // 10 % 6)
        elif kind == 4:  # one outlier among the keys
            k[0, 0, index % M] = -(10.0 ** (index // 10 % 6))
        elif kind == 5:
            q = torch.full_like(q, float(q[0, 0, 0]) * 10.0 ** (index // 10 % 5))
        elif kind == 6:
            k, v = k[..., :1], v[:, :, :1]
        elif kind == 7:
            q = q[..., :1]
        elif kind == 8:  # huge ranges
            q, k = q * 10.0 ** (index // 10 % 5), k * 10.0 ** (index // 20 % 5)
        else:  # common offsets
            q, k = q + 10.0 ** (index // 10 % 4), k + 10.0 ** (index // 10 % 5)
        yield q, k, v


def largest_error(many: Iterator[Inputs], mode: str) -> tuple[float, int]:
    """Over all inputs, and how many of them the mode interpolated."""
    worst, count = 0.0, 0
    for q, k, v in many:
        scale = v.shape[3] ** -0.5
        centred = k.double().unsqueeze(-2) - k.double().unsqueeze(-2).amax(-1, keepdim=True)
        wanted = torch.softmax(scale * q.double().unsqueeze(-1) * centred, dim=-1) @ v.double()
        found = strip_attention(q, k, v, scale, mode=mode)  # type: ignore[arg-type]
        worst = max(worst, float((found.double() - wanted).abs().max() / v.double().abs().max()))
        panels = panels_for(ranges(q, k, scale).product, TOLERANCE / 2)
        chosen = panels is not None and (mode == "interpolated" or interpolates(q.shape[1], q.shape[2], k.shape[2], panels))
        count += mode != "exact" and chosen
    return worst, count


def errors() -> Table:
    table = Table(title=f"largest error / max|v|, tolerance {TOLERANCE:g}, float32", title_justify="left")
    for column in ("mode", "1,000 random", "interpolated", "200 adversarial", "interpolated"):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for mode in ("exact", "interpolated", "auto"):
        (usual, some), (worst, few) = largest_error(random_inputs(1000), mode), largest_error(adversarial_inputs(200), mode)
        table.add_row(mode, f"{usual:.1e}", str(some), f"{worst:.1e}", str(few))
    return table


def crossover(options: argparse.Namespace) -> Table:
    """Cost of an exact pair; in its unit that of a (node, key) pair, of a query and of a call: forward with backward, one head, d = 32."""
    sizes = {"small": (1024, 256), "queries": (32_768, 256), "keys": (1024, 8192)}
    given = {name: inputs(N, M, 1.0, options.device, options.type) for name, (N, M) in sizes.items()}
    nodes = {name: (panels_for(ranges(x[0], x[1], 32**-0.5).product, TOLERANCE / 2) or 0) + 1 for name, x in given.items()}
    exact_ms, found_ms = (
        {name: milliseconds(partial(both, FORMS[form], x), options.repeats * 4, options.device) for name, x in given.items()}
        for form in ("exact", "interpolated")
    )
    pair = (exact_ms["queries"] - exact_ms["small"]) / ((32_768 - 1024) * 256)
    query = (found_ms["queries"] - found_ms["small"]) / (32_768 - 1024)
    node = (found_ms["keys"] - found_ms["small"]) / (nodes["keys"] * 8192 - nodes["small"] * 256)
    start = found_ms["small"] - 1024 * query - nodes["small"] * 256 * node - (exact_ms["small"] - 1024 * 256 * pair)
    table = Table(title="crossover", title_justify="left")
    for column in ("exact pair ns", "NODE_COST", "QUERY_COST", "START_COST"):
        table.add_column(column, justify="right")
    table.add_row(f"{pair * 1e6:.2f}", f"{node / pair:.2f}", f"{query / pair:.1f}", f"{start / pair:,.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--crossover", action="store_true", help="measure the constants of auto instead")
    parser.add_argument("--errors", action="store_true", help="the error table alone")
    options = parser.parse_args()
    options.type = getattr(torch, options.dtype)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 140)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    kept = "allocator keeps its pages" if keep_pages() else "allocator as it is"
    console.print(f"torch {torch.__version__}, {device}, {options.dtype}; fastest of {options.repeats}, {kept}; ratios to interpolated")
    if options.crossover:
        console.print(crossover(options))
        return
    if not options.errors:
        for table in speed(options):
            console.print(table)
        console.print(key_strides(options))
    console.print(errors())


if __name__ == "__main__":
    main()
