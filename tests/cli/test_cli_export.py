"""``nasseg export`` and ``nasseg predict`` as a user types them."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from kits_cli import parsed
from kits_data import write_tree
from kits_export import make_run
from PIL import Image

from nasseg.cli.main import run


def call(*arguments: object, code: int = 0, capture: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run the command; its standard output and error, without rich's line breaks."""
    ended = 0
    try:
        run([str(argument) for argument in arguments])
    except SystemExit as error:
        ended = int(error.code or 0)
    out, err = capture.readouterr()
    assert ended == code, err
    return out, err


def picture(path: Path, height: int, width: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``nasseg export`` made of a run, with what it printed beside it."""
    folder = tmp_path_factory.mktemp("verbs")
    make_run(folder / "run", name="canet_fca")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(["export", str(folder / "run"), "--out", str(folder / "bundle"), "--images", "2"])
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder / "bundle"


def test_export_prints_files_and_figures(bundle: Path):
    printed = (bundle.parent / "printed.txt").read_text()
    for word in ("genotype.yaml", "model.safetensors", "model.onnx", "model.pt2", "preprocessing.json", "README.md"):
        assert word in printed
    assert "100.000 %" in printed
    assert "Compared with the module on 3 images of val, mIoU" in printed
    assert "on 2 of its validation images." in printed
    assert f"Bundle: {bundle}" in printed


def test_export_ends_with_commands_that_can_be_pasted(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _, _, after = (bundle.parent / "printed.txt").read_text().partition("next:\n")
    lines = [line.strip() for line in after.splitlines() if not line.startswith("  #")]
    assert [parsed(line)[0] for line in lines] == ["eval", "predict"]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        run(shlex.split(line)[1:])
    assert len(list((tmp_path / "pictures" / "bundle").glob("*_overlay.png"))) >= 2


def test_export_refuses_with_a_sentence(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_folder = bundle.parent / "run"
    for arguments, words in (
        (("export", tmp_path / "gone", "--out", tmp_path / "b"), "gone: no such folder"),
        (("export", run_folder, "--out", bundle), "a bundle lies there already"),
        (("export", run_folder, "--out", tmp_path / "b", "--images", "-1"), "--images: a number of images from 0 (given -1)"),
        (("export", run_folder, "--out", tmp_path / "b", "--data", tmp_path / "no"), str(tmp_path / "no")),
    ):
        _, err = call(*arguments, code=2, capture=capsys)
        assert err.startswith("nasseg: ")
        assert words in err
    assert not (tmp_path / "b").exists()


def test_predict_draws_files_and_folders(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture(tmp_path / "in" / "a.png", 48, 64)
    large = picture(tmp_path / "large[1].png", 100, 140)
    out, _ = call("predict", bundle, tmp_path / "in", large, "--out", tmp_path / "out", "--device", "cpu", capture=capsys)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_mask.png",
        "a_overlay.png",
        "large[1]_mask.png",
        "large[1]_overlay.png",
    ]
    for words in ("a.png", "48x64", "whole", "large[1].png", "100x140", "windows of 48x64", "%"):
        assert words in out
    assert "1 of 2 images are more than 2 times as high and wide" in out
    with Image.open(tmp_path / "out" / "large[1]_mask.png") as mask:
        assert mask.size == (140, 100)


def test_predict_by_onnx_runtime_gives_the_same_mask(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = picture(tmp_path / "a.png", 48, 64)
    call("predict", bundle, image, "--out", tmp_path / "module", "--whole", capture=capsys)
    call("predict", bundle, image, "--out", tmp_path / "onnx", "--onnx", capture=capsys)
    masks = [np.asarray(Image.open(io.BytesIO((tmp_path / name / "a_mask.png").read_bytes()))) for name in ("module", "onnx")]
    assert (masks[0] != masks[1]).mean() < 0.01


def test_predict_writes_the_labels_of_a_data_set(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = picture(tmp_path / "a.png", 48, 64)
    labels = write_tree(tmp_path / "set", labels=lambda seed: np.random.default_rng(seed).integers(0, 12, (6, 8)).astype(np.uint8))
    call("predict", bundle, image, "--out", tmp_path / "plain", capture=capsys)
    call(
        "predict", bundle, image, "--out", tmp_path / "own", "--original-labels", f"{labels}?relabel=reduce_zero&classes=11", capture=capsys
    )
    masks = [np.asarray(Image.open(io.BytesIO((tmp_path / name / "a_mask.png").read_bytes()))) for name in ("plain", "own")]
    assert np.array_equal(masks[0] + 1, masks[1])


def test_predict_refuses_with_a_sentence(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = picture(tmp_path / "a.png", 48, 64)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    out = ("--out", tmp_path / "out")
    for arguments, words in (
        (("predict", bundle, *out), "IMAGES: name images or folders, or a data set with --data, one of the two"),
        (("predict", bundle, tmp_path / "gone.png", *out), "gone.png: no such file or folder"),
        (("predict", bundle.parent / "run", image, *out), "a training run, not a bundle; make one with: nasseg export"),
        (("predict", bundle, image, "--device", "toaster", *out), "--device: must be auto, cpu, cuda or cuda:N (given 'toaster')"),
        (("predict", bundle, image, "--device", "cuda", "--onnx", *out), "--device: ONNX Runtime runs on the CPU here (given 'cuda')"),
        (("predict", bundle, image, "--whole", "--window", "32x32", *out), "--whole: takes the picture in one piece"),
        (("predict", bundle, image, "--onnx", "--size", "32x32", *out), "takes images of (3, 64, 64) (channels, height, width)"),
        (("predict", bundle, image, "--original-labels", "ade20k", *out), "network's 11 classes (given '150 labels')"),
        (("predict", bundle, image, "--original-labels", "ade20", *out), "ade20: no data set of that name; known are ade20k, cityscapes,"),
        (("predict", bundle, image, "--original-labels", "synthetic:streets", *out), "its masks hold class numbers already"),
        (("predict", bundle, broken, *out), "broken.jpg: "),
    ):
        _, err = call(*arguments, code=2, capture=capsys)
        assert err.startswith("nasseg: ")
        assert words in err
