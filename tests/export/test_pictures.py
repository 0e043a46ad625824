"""Which files are meant, and pictures of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasseg.errors import DataError
from nasseg.export.pictures import find_images, read_picture


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_files_and_folders_get_names_and_equal_names_a_number(tmp_path: Path):
    for name in ("b.png", "a.jpg", "sub/a.png", "out/a_overlay.png"):
        save(tmp_path / "in" / name, GREY)
    other = save(tmp_path / "a.png", GREY)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    found = find_images([tmp_path / "in", other, str(other)], without=tmp_path / "in" / "out")
    assert [(str(p.relative_to(tmp_path)), str(n)) for p, n in found] == [
        ("in/a.jpg", "a"),
        ("in/b.png", "b"),
        ("in/sub/a.png", "sub/a"),
        ("a.png", "a-2"),
        ("a.png", "a-3"),
    ]


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"(?s)gone\.png: no such file or folder\n.*empty: no images in this folder; looked for \.jpg"):
        find_images([tmp_path / "gone.png", tmp_path / "empty"])


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    file = save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), GREY, mode)
    pixels = read_picture(file)
    assert pixels.shape == (3, 4, 3)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "P", "CMYK"):
        assert np.array_equal(pixels, GREY[..., None].repeat(3, 2))


def test_sixteen_bits_are_scaled_by_their_whole_range(tmp_path: Path):
    wide = np.array([[0, 257, 65535], [256, 514, 32896]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        assert read_picture(save(tmp_path / name, wide))[..., 0].tolist() == [[0, 1, 255], [0, 2, 128]]


def test_what_is_neither_8_nor_16_bits_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.tif: pixels from 0 to 70000; save the image with 8 or 16 bits"):
        read_picture(save(tmp_path / "x.tif", np.array([[0, 70000]], dtype=np.int32)))
    with pytest.raises(DataError, match=r"f\.tif: image has F pixels of more than 8 bits"):
        read_picture(save(tmp_path / "f.tif", np.zeros((2, 2), dtype=np.float32)))


def test_the_orientation_tag_of_a_camera_is_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    upright = read_picture(save(tmp_path / "x.png", GREY, exif=exif))
    assert np.array_equal(upright[..., 0], np.rot90(GREY, -1))


def test_a_truncated_or_foreign_file_is_named(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cut = save(tmp_path / "cut.jpg", noise)
    cut.write_bytes(cut.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.jpg: file is truncated"):
        read_picture(cut)
    text = tmp_path / "text.png"
    text.write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: not an image Pillow can read"):
        read_picture(text)
