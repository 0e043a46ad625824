"""Image and mask go through one geometry, and a seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kits_data import image, mask

from nasseg.data.crops import Crops
from nasseg.data.distort import Distortion
from nasseg.data.transforms import EvalTransform, TrainTransform
from nasseg.errors import ConfigError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def plain(size: tuple[int, int], **changes: object) -> TrainTransform:
    """Without normalisation or colour, so that pixels can be told apart."""
    options = {"scale": (1.0, 1.0), "flip": 0.0, "color": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1), **changes}
    return TrainTransform(size, **options)


def coded(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask of blocks of 8×8, and an image whose red channel is 4 × label, green the row, blue the column."""
    rows, columns = np.mgrid[:height, :width]
    labels = ((rows // 8) * 7 + columns // 8).astype(np.uint8) % 60
    return np.stack([4 * labels, rows * 2, columns * 2], axis=-1).astype(np.uint8), labels


def test_scale_one_and_full_crop_change_nothing() -> None:
    pixels, labels = coded(48, 64)
    x, y = plain((48, 64))(pixels, labels, seed=3)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(y.numpy(), labels)
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0) * 255, pixels, atol=1e-4)


def test_normalisation() -> None:
    pixels = image()
    x, _ = plain((6, 8), mean=MEAN, std=STD)(pixels, mask(), seed=0)
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0), (pixels / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


def test_flip_turns_both() -> None:
    pixels, labels = coded(48, 64)
    x, y = plain((48, 64), flip=1.0)(pixels, labels, seed=3)
    np.testing.assert_array_equal(y.numpy(), labels[:, ::-1])
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0) * 255, pixels[:, ::-1], atol=1e-4)


def test_flip_half_of_the_time() -> None:
    transform = plain((8, 8), flip=0.5)
    flips = [transform.draw(seed).flip for seed in range(400)]
    assert 160 < sum(flips) < 240


def test_crop_takes_one_window_of_both() -> None:
    pixels, labels = coded(48, 64)
    transform = plain((24, 24), scale=(2.0, 2.0))  # the short side would be 24, doubled it is the image itself
    places = set()
    for seed in range(20):
        x, y = transform(pixels, labels, seed)
        got = (x.numpy().transpose(1, 2, 0) * 255).round().astype(int)
        top, left = got[0, 0, 1] // 2, got[0, 0, 2] // 2
        places.add((top, left))
        np.testing.assert_array_equal(got, pixels[top : top + 24, left : left + 24])
        np.testing.assert_array_equal(y.numpy(), labels[top : top + 24, left : left + 24])
    assert len(places) == 20
    assert min(top for top, _ in places) < 6 < 18 < max(top for top, _ in places) <= 24


def test_small_image_lies_in_a_frame_of_mean_colour_and_255() -> None:
    pixels, labels = coded(48, 64)
    transform = plain((48, 64), scale=(0.5, 0.5), mean=MEAN, std=STD)
    for seed in range(10):
        x, y = transform(pixels, labels, seed)
        inside = (y != 255).numpy()
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert (rows.size, columns.size) == (24, 32)
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (x[:, ~torch.from_numpy(inside)] == 0).all()
        np.testing.assert_array_equal(y.numpy()[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], labels[1::2, 1::2])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(24, 80),
    width=st.integers(24, 80),
    size=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    seed=st.integers(0, 2**64 - 1),
)
def test_mask_follows_the_image(height: int, width: int, size: tuple[int, int], seed: int) -> None:
    """Red is a code of the label: away from the blocks' edges the two must agree after any scale, crop and flip."""
    pixels, labels = coded(height, width)
    pixels[..., 0] = np.where(labels % 2 == 0, 0, 250)
    transform = plain(size, scale=(0.5, 2.0), flip=0.5)
    x, y = transform(pixels, labels, seed)
    assert x.shape == (3, *size)
    assert y.shape == size
    red, label = x[0].numpy() * 255, y.numpy()
    inside = label != 255
    assert inside.any()
    assert (x[:, torch.from_numpy(~inside)] == 0).all()
    scale = transform.draw(seed).scale * max(size[0] / height, size[1] / width)
    if scale >= 0.5:  # blocks stay at least 4 pixels wide
        clear = inside & ((red < 1) | (red > 249))
        expected = np.where(label % 2 == 0, 0.0, 250.0)
        assert np.abs(red - expected)[clear].max(initial=0) < 1.5


def test_only_labels_of_the_mask_and_255_come_out() -> None:
    pixels, labels = coded(40, 56)
    transform = TrainTransform((32, 32), mean=MEAN, std=STD)
    for seed in range(20):
        _, y = transform(pixels, labels, seed)
        assert set(y.unique().tolist()) <= set(np.unique(labels).tolist()) | {255}


def test_ignored_stays_ignored() -> None:
    labels = np.full((20, 20), 255, dtype=np.uint8)
    _, y = TrainTransform((16, 16), mean=MEAN, std=STD)(image(0, (20, 20)), labels, 5)
    assert (y == 255).all()


def test_seed_decides_and_global_state_is_left_alone() -> None:
    pixels, labels = coded(40, 56)
    transform = TrainTransform((32, 48), mean=MEAN, std=STD)
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = transform(pixels, labels, 7)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(2)
    again, other = transform(pixels, labels, 7), transform(pixels, labels, 8)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_input_is_not_changed() -> None:
    pixels, labels = coded(48, 64)
    before = pixels.copy(), labels.copy()
    TrainTransform((48, 64), scale=(1, 1), mean=MEAN, std=STD)(pixels, labels, 1)
    EvalTransform((48, 64), MEAN, STD)(pixels)
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_colour_changes_the_image_alone() -> None:
    pixels, labels = image(0, (32, 32)), mask(0, (32, 32))
    x, y = plain((32, 32), color=0.4)(pixels, labels, 3)
    np.testing.assert_array_equal(y.numpy(), labels)
    assert np.abs(x.numpy().transpose(1, 2, 0) - pixels / 255).max() > 0.05
    drawn = [plain((32, 32), color=0.4).draw(seed) for seed in range(300)]
    for name in ("brightness", "contrast", "saturation"):
        values = [getattr(draw, name) for draw in drawn]
        assert 0.6 <= min(values) < 0.63
        assert 1.37 < max(values) <= 1.4
    assert len({draw.order for draw in drawn}) == 6


def test_distortion_takes_the_place_of_colour() -> None:
    pixels, labels = image(0, (32, 32)), mask(0, (32, 32))
    for seed in range(8):
        x, y = plain((32, 32), color=0.4, distort=True)(pixels, labels, seed)
        np.testing.assert_array_equal(y.numpy(), labels)
        expected = Distortion.draw(np.random.default_rng([seed, 1]))(pixels)
        np.testing.assert_array_equal((x.numpy().transpose(1, 2, 0) * 255).round(), expected)


def test_options_left_off_change_no_draw() -> None:
    """What was drawn before there were distortion and second thoughts is drawn still: scale, place and flip do not depend on them."""
    pixels, labels = coded(48, 64)
    for seed in range(6):
        x, y = TrainTransform((24, 24), mean=MEAN, std=STD, color=0.0)(pixels, labels, seed)
        for options in ({"distort": True}, {"crops": Crops()}):
            other_x, other_y = TrainTransform((24, 24), mean=MEAN, std=STD, color=0.0, **options)(pixels, labels, seed)
            assert torch.equal(y, other_y)
            assert torch.equal(x, other_x) or "distort" in options


def test_crops_around_a_rare_class() -> None:
    pixels, labels = coded(96, 128)
    labels = np.where(labels == 40, 40, 0).astype(np.uint8)
    pixels[..., 0] = labels
    transform = plain((24, 24), scale=(2.0, 2.0), crops=Crops(rare=1.0, rarity=tuple(float(c == 40) for c in range(41))))
    for seed in range(12):
        x, y = transform(pixels, labels, seed)
        assert (y == 40).any()
        # The image is cut where the mask is.
        sure = ((x[0] * 255).round() % 40 == 0) & (y != 255)
        assert ((x[0] * 255).round()[sure] == y[sure]).all()


def test_scale_range() -> None:
    scales = [TrainTransform((8, 8), mean=MEAN, std=STD).draw(seed).scale for seed in range(400)]
    assert 0.5 <= min(scales) < 0.52
    assert 1.98 < max(scales) <= 2.0
    assert 1.18 < sum(scales) / 400 < 1.32


def test_evaluation_resizes_to_exactly_the_size() -> None:
    pixels, _ = coded(48, 64)
    x = EvalTransform((32, 40), MEAN, STD)(pixels)
    assert x.shape == (3, 32, 40)
    same = EvalTransform((48, 64), (0, 0, 0), (1, 1, 1))(pixels)
    np.testing.assert_allclose(same.numpy().transpose(1, 2, 0) * 255, pixels, atol=1e-4)
    flat = EvalTransform((5, 7), MEAN, STD)(np.full((20, 20, 3), 51, dtype=np.uint8))
    expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(flat, expected[:, None, None].expand(3, 5, 7))


def test_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainTransform((0, 8), scale=(2.0, 0.5), flip=1.5, color=1.0, mean=(0.5,), std=(0, 1, 1))
    text = str(caught.value)
    for part in (
        "transform: size: two whole numbers, height and width, from 1 up (given (0, 8))",
        "transform: mean: three numbers, one for each channel of an RGB image (given (0.5,))",
        "transform: std: three numbers above 0, one for each channel of an RGB image (given (0, 1, 1))",
        "transform: scale: two numbers above 0, the smaller first (given (2.0, 0.5))",
        "transform: flip: a probability from 0 to 1 (given 1.5)",
        "transform: color: from 0 up to, not including, 1 (given 1.0)",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="transform: size: two whole numbers"):
        EvalTransform((8, 0), MEAN, STD)
