"""What a training run looks like on the screen, and how it is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nasseg.cost.macs import PAD
from nasseg.metric import label_of
from nasseg.training.collapse import Collapse, advice, worst_class

PLAIN_EVERY = 10.0
"""Seconds between two lines where no terminal shows a bar."""
BAR = 20


class RunView:
    """A bar, and below it iteration, loss, learning rate, speed, time to go and last mIoU; without a terminal a plain line now and then."""

    def __init__(self, console: Console, total: int, images: int = 0) -> None:
        """``images`` of an iteration, for the throughput; 0 where nobody knows."""
        self.console = console
        self.total = total
        self.images = images
        self.miou: float | None = None
        self._bar: Progress | None = None
        self._live: Live | None = None
        self._numbers = ""
        self._task: TaskID | None = None
        self._begun: tuple[int, float] | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar = Progress(TextColumn("iteration"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeRemainingColumn())
            self._task = self._bar.add_task("train", total=self.total)
            self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def render(self) -> RenderableType:
        """The bar, and below it the numbers, over as many lines as the terminal needs for them."""
        assert self._bar is not None
        return Group(self._bar, Text(self._numbers, overflow="fold", no_wrap=False))

    def show(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take note of a report."""
        now = time.monotonic()
        if self._begun is None:
            # The first iteration holds the start-up, and a resumed run does not begin at 0.
            self._begun = (iteration, now)
        speed = (iteration - self._begun[0]) / (now - self._begun[1]) if iteration > self._begun[0] else 0.0
        measured = "miou" in metrics
        self.miou = metrics.get("miou", self.miou)
        numbers = f"loss {metrics['loss']:.4f} · lr {metrics['lr']:.2e} · {speed:.2f} it/s"
        if self.images and speed:
            numbers += f" · {speed * self.images:.1f} images/s"
        if self.miou is not None:
            numbers += f" · mIoU {self.miou:.2f}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=iteration)
            self._numbers = numbers
        elif measured or iteration == self.total or now - self._said >= PLAIN_EVERY:
            self._said = now
            left = f" · {_clock((self.total - iteration) / speed)} to go" if speed and iteration < self.total else ""
            self.console.print(f"iteration {iteration}/{self.total} · {numbers}{left}", soft_wrap=True)


class StopSwitch:
    """On after Ctrl-C or SIGTERM, ``by`` says which. A second Ctrl-C interrupts at once, but not within ``patience`` seconds.

    torchrun passes on what the terminal has sent to everyone already.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.on = False
        self.by: signal.Signals | None = None
        self.patience = patience
        self._since = 0.0

    def press(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        now = time.monotonic()
        if not self.on:
            self.on, self.by, self._since = True, signal.Signals(number), now
        elif number == signal.SIGINT and now - self._since >= self.patience:
            raise KeyboardInterrupt


@contextmanager
def stop_switch(patience: float = 0.0) -> Iterator[StopSwitch]:
    """A switch that both signals press while the block runs."""
    switch = StopSwitch(patience)
    with ExitStack() as after:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, switch.press)
            after.callback(signal.signal, number, before)
        yield switch


def result_table(metrics: Mapping[str, float], per_class: Mapping[str, float], classes: tuple[str, ...]) -> Table:
    """IoU by class with bars, and the means; a class that occurs neither in the masks nor in the predictions has a dash."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", overflow="fold", no_wrap=False)
    table.add_column("IoU %", justify="right")
    table.add_column("")
    for name in classes:
        value = per_class.get(name)
        table.add_row(name, "–" if value is None else f"{value:.2f}", "" if value is None else bar(value))
    table.add_section()
    worst = worst_class(per_class)
    if worst is not None:
        table.add_row(f"worst class: {worst[0]}", f"{worst[1]:.2f}", bar(worst[1]))
    for name, value in metrics.items():
        table.add_row(label_of(name), f"{value:.2f}", bar(value), style="bold" if name == "miou" else None)
    return table


def collapse_lines(collapse: Collapse, settings: Mapping[str, Any], class_weights: Mapping[str, Any]) -> list[Text]:
    """What a person must know of classes that were not learnt, and what to set; empty where nothing is wrong."""
    sentences = collapse.sentences()
    if sentences and (todo := advice(settings, class_weights)):
        sentences.append(f"to learn them: {todo}")
    return [Text(f"warning: {text}", style="yellow") for text in sentences]


def bar(percent: float) -> str:
    """A bar of up to 20 cells, in eighths of a cell."""
    eighths = round(max(0.0, min(100.0, percent)) / 100 * BAR * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How numbers were measured, in one line."""
    size, crop, stride = (protocol.get(key) and "x".join(str(side) for side in protocol[key]) for key in ("size", "crop", "stride"))
    divisor = protocol.get("size_divisor", 1)
    resize = protocol["resize"].replace("_", " ") + (f", sides multiples of {divisor}" if divisor > 1 else "") + _padding(protocol)
    window = "whole image" if protocol["window"] == "whole" else f"windows of {crop} every {stride}"
    scales = protocol.get("scales", [1.0])
    scale = "single scale" if scales == [1.0] else f"scale{'s' if len(scales) > 1 else ''} {', '.join(f'{scale:g}' for scale in scales)}"
    precision = protocol.get("precision", "float32")
    return (
        f"{protocol['split']}, {protocol['images']} images at {size} ({resize}, {window}, {scale}, "
        f"{'with flip' if protocol['flip'] else 'no flip'}), {protocol['masks']} masks, {protocol['classes']} classes, "
        f"{protocol['ignore']} ignored, {protocol['weights']} weights{'' if precision == 'float32' else f' in {precision}'}"
    )


def _padding(protocol: Mapping[str, Any]) -> str:
    """What the network does with sides that are no multiples of 32, where it may meet such."""
    multiple = protocol.get("pad_multiple", PAD)
    if protocol["window"] == "slide":
        meets = any(side % PAD for side in protocol["crop"])
    elif protocol.get("size_divisor", 1) % PAD == 0:
        meets = False
    else:
        several = protocol["resize"] == "keep_ratio" or protocol.get("scales", [1.0]) != [1.0]
        meets = several or any(side % PAD for side in protocol["size"])
    if not meets:
        return ""
    return ", not padded" if multiple == 1 else f", padded to multiples of {multiple}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
