"""``nasseg predict``: what a bundle sees on images."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.verb import Verb
from nasseg.data.layouts import open_data
from nasseg.data.layouts import original_labels as labels_of
from nasseg.errors import BundleError, ConfigError, Problem
from nasseg.export.bundle import bundle_predictor
from nasseg.export.predict import LARGE, SLID, WHOLE, Drawn, Predictor, predict_images, predict_split
from nasseg.export.published import published_predictor
from nasseg.published.network import is_published
from nasseg.report.overlay import percent_text
from nasseg.training.device import resolve_device

MOST_NAMED = 4
"""Classes a row of the table names."""


@click.command("predict", cls=Verb)
@click.argument("bundle")
@click.argument("images", nargs=-1)
@click.option("--data", help="Draw images of a data set instead, with NAME_truth.png beside them: a folder, KIND:PATH, synthetic.")
@click.option("--split", default="val", show_default=True, help="With --data: which of its splits.")
@click.option("--number", type=int, default=4, show_default=True, help="With --data: so many images, spread evenly over the split.")
@click.option("--out", required=True, help="Folder for NAME_overlay.png and NAME_mask.png of each image.")
@click.option("--size", type=SIZE, help="What an image or a window is stretched to; default: as the network was measured.")
@click.option("--window", type=SIZE, help="Slide a window of so many image pixels over every image, each window resized to --size.")
@click.option("--stride", type=SIZE, help="Way from one window to the next in image pixels; default: two thirds of the window.")
@click.option("--whole", is_flag=True, help="Never through windows, however large the image.")
@click.option("--alpha", type=float, default=0.5, show_default=True, help="How strongly colours cover the image, 0 to 1.")
@click.option(
    "--original-labels",
    metavar="NAME",
    help="Write the labels of a data set's own masks: ade20k (1 to 150), cityscapes (7, 8, 11 …), coco-stuff, or a --data string.",
)
@click.option("--onnx", is_flag=True, help="Run model.onnx in ONNX Runtime instead of the module.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …: where the module runs.")
def command(
    bundle: str,
    images: tuple[str, ...],
    data: str | None,
    split: str,
    number: int,
    out: str,
    size: tuple[int, int] | None,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    whole: bool,
    alpha: float,
    original_labels: str | None,
    onnx: bool,
    device: str,
) -> None:
    """Draw what BUNDLE, or a published network (docs/published.md), sees on IMAGES (files and folders): an overlay with a legend, and a
    mask of class numbers.

    An image is treated as when the network was measured (the bundle's evaluation protocol). One that is more than twice as high and wide as
    the images of its validation set is cut into overlapping windows of their size instead; --window, --size and --whole decide by hand.
    """
    if bool(images) == (data is not None):
        raise ConfigError(Problem("", "IMAGES", "name images or folders, or a data set with --data, one of the two"))
    if onnx and device not in ("auto", "cpu"):
        raise ConfigError(Problem("", "--device", "ONNX Runtime runs on the CPU here", device, "cpu"))
    labels = None if original_labels is None else labels_of(original_labels)
    place = "cpu" if onnx else _device(device)
    opened = None if data is None else open_data(data)
    if is_published(bundle):
        if onnx:
            raise BundleError(f"{bundle}: a published network has no ONNX file; make one with: nasseg export {bundle} --out BUNDLE")
        forward, preprocessing, remarks = published_predictor(bundle, data=opened, size=size, device=place)
    else:
        forward, preprocessing = bundle_predictor(bundle, onnx=onnx, device=place)
        remarks = ()
    only = preprocessing.size if onnx else None
    predictor = Predictor(forward, preprocessing, size=size, window=window, stride=stride, whole=whole, only=only, original_labels=labels)
    console = wide_console()
    for remark in remarks:
        console.print(f"{bundle}: {remark}", markup=False, soft_wrap=True)
    drawn: list[Drawn] = []
    try:
        with console.status("") as status:

            def done(one: Drawn, at: int, total: int) -> None:
                drawn.append(one)
                status.update(Text(f"{at} of {total}: {one.image}"))

            if opened is None:
                predict_images(predictor, images, out, alpha=alpha, done=done)
            else:
                predict_split(predictor, opened, out, split=split, count=number, alpha=alpha, done=done)
    finally:
        if drawn:
            draw(console, drawn)
            cut = sum(one.how not in (WHOLE, SLID) for one in drawn)
            if cut and window is None:
                console.print(
                    f"{cut} of {len(drawn)} images are more than {LARGE:g} times as high and wide as those the network was measured on "
                    "and were seen through windows of that size; --whole takes them in one piece."
                )


def _device(name: str) -> str:
    try:
        return str(resolve_device(name))
    except RuntimeError as error:  # torch's, for what is no device name at all
        raise ConfigError(Problem("", "--device", "must be auto, cpu, cuda or cuda:N", name, "auto")) from error


def draw(console: Console, drawn: Sequence[Drawn]) -> None:
    """One row an image: how it was seen, its largest classes, the overlay."""
    table = Table(box=None, pad_edge=False)
    for column in ("image", "size", "seen", "largest classes"):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    table.add_column("overlay")
    for one in drawn:
        named = ", ".join(f"{share.name} {percent_text(share.percent)}" for share in one.shares[:MOST_NAMED])
        cells = (one.image.name, f"{one.size[0]}x{one.size[1]}", one.how, named, f"{one.seconds:.2f}", str(one.overlay))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
