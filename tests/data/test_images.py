"""One image, one mask: what is read, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from kits_data import image, mask, save
from PIL import Image

from nasseg.data.images import image_size, read_image, read_mask, read_raw_mask, turned, unreadable
from nasseg.errors import DataError


def png(path: Path, rows: list[list[int]], bits: int) -> Path:
    """A grey PNG of 1, 2, 4 or 8 bits a pixel, written by hand."""
    width = len(rows[0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = b""
    for row in rows:
        number = "".join(f"{value:0{bits}b}" for value in row)
        number += "0" * (-len(number) % 8)
        packed += b"\0" + int(number, 2).to_bytes(len(number) // 8, "big")
    head = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    rows = [[0, 1, 2**bits - 1, 1], [1, 0, 0, 2 ** (bits - 1)]]
    np.testing.assert_array_equal(read_mask(png(tmp_path / "m.png", rows, bits)), rows)


def test_mask_of_sixteen_bits(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [7, 2, 3]], dtype=np.uint16)
    file = save(tmp_path / "m.png", labels)
    np.testing.assert_array_equal(read_mask(file), labels)
    assert read_mask(file).dtype == np.uint8
    labels[0, 0] = 1001
    with pytest.raises(DataError, match="label 1001 in the mask; labels are 0…254, and 255 for ignored pixels"):
        read_mask(save(tmp_path / "m.png", labels))


def test_mask_of_three_channels(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"m\.png: mask has 3 channels \(RGB\); a mask is one channel .* convert its colours to class numbers"
    ):
        read_mask(save(tmp_path / "m.png", image()))
    with pytest.raises(DataError, match=r"3 channels \(RGB\); .*: its colours are all grey, keep the first channel"):
        read_mask(save(tmp_path / "m.png", mask(), "RGB"))
    with pytest.raises(DataError, match=r"mask has 4 channels \(RGBA\); "):
        read_mask(save(tmp_path / "m.png", image(), "RGBA"))


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", np.array([[0, 1, 4, 3, 255]], dtype=np.uint8))
    assert read_mask(file, 5).max() == 255
    with pytest.raises(DataError, match=r"m\.png: label 4 in the mask, but the data set has 3 classes \(0…2, and 255 for ignored pixels\)"):
        read_mask(file, 3)


def test_relabelling_comes_before_the_check(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", np.array([[0, 9, 255]], dtype=np.uint8))
    table = np.arange(256, dtype=np.uint8)
    table[9] = 1
    np.testing.assert_array_equal(read_mask(file, 2, table), [[0, 1, 255]])


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "LA", "1"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    file = save(tmp_path / ("i.tif" if mode == "CMYK" else "i.png"), image(), mode)
    got = read_image(file)
    assert got.shape == (6, 8, 3)
    assert got.dtype == np.uint8
    with Image.open(file) as opened:
        np.testing.assert_array_equal(got, np.array(opened.convert("RGB")))


def test_transparent_palette_image(tmp_path: Path) -> None:
    picture = Image.fromarray(image()).convert("P")
    picture.save(tmp_path / "i.png", transparency=bytes(range(200)))
    np.testing.assert_array_equal(read_image(tmp_path / "i.png"), np.array(picture.convert("RGB")))


def test_images_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "i.png", np.full((4, 4), 40000, dtype=np.uint16))
    with pytest.raises(DataError, match="image has I;16 pixels of more than 8 bits a channel; save it with 8 bits a channel"):
        read_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_truncated_image(tmp_path: Path, suffix: str) -> None:
    file = save(tmp_path / f"i{suffix}", image(0, (64, 64)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=rf"i\{suffix}: .*; replace the file or take it out of the data set"):
        read_image(file)


def test_truncated_jpeg_is_called_so(tmp_path: Path) -> None:
    file = save(tmp_path / "i.jpg", image(0, (64, 64)))
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"i\.jpg: file is truncated; replace the file or take it out of the data set"):
        read_image(file)


def test_truncated_mask(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", mask(0, (64, 64)))
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"m\.png: file is truncated; replace"):
        read_raw_mask(file)


def test_not_an_image(tmp_path: Path) -> None:
    file = tmp_path / "i.png"
    file.write_bytes(b"no picture")
    for read in (read_image, read_raw_mask, image_size):
        with pytest.raises(DataError, match=r"i\.png: not an image Pillow can read; replace the file or take it out of the data set"):
            read(file)
    assert not turned(file)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "i.png", image(0, (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="more pixels than Pillow reads"):
        read_image(file)


def test_size_without_decoding(tmp_path: Path) -> None:
    assert image_size(save(tmp_path / "i.jpg", image(0, (5, 9)))) == (5, 9)


def test_turned_by_exif(tmp_path: Path) -> None:
    file = tmp_path / "i.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(image()).save(file, exif=exif)
    assert turned(file)
    assert not turned(save(tmp_path / "j.jpg", image()))
    assert read_image(file).shape == (6, 8, 3)  # as stored


def test_other_reasons_are_named() -> None:
    assert unreadable(OSError(5, "Input/output error")) == "cannot be read (Input/output error)"
    assert unreadable(ValueError("odd")) == "cannot be read (odd)"
