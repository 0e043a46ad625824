"""Networks that run on images as they are: sides that are no multiples of 32, maps of rounded-up sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kits_model import PRESET_CASES, SPECIAL_CASES, fill, image, tiny_model
from torch import Tensor

from nasseg.errors import BackboneError, ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models.backbones.mit import HEADS, REDUCTIONS
from nasseg.models.form import written_out
from nasseg.models.segmenter import SegModel, build

SIZES = [(33, 63), (45, 50), (75, 97)]
CASES = {**PRESET_CASES, **{name: Genotype.from_dict(raw) for name, raw in SPECIAL_CASES.items()}}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_logits_have_the_rounded_up_size_and_both_forms_agree(name: str, size: tuple[int, int]) -> None:
    model = tiny_model(CASES[name])
    model.pad_multiple = 1
    x_BCHW = image(2, size)
    with torch.no_grad():
        logits, resized = model(x_BCHW), model.predict(x_BCHW)
        with written_out(model):
            written = model(x_BCHW)
    assert logits.shape == (2, 3, -(-size[0] // model.stride), -(-size[1] // model.stride))
    torch.testing.assert_close(logits, written, rtol=2e-4, atol=2e-4)
    # They cover the image exactly, so nothing is cropped.
    assert torch.equal(resized, F.interpolate(logits, size=size, mode="bilinear", align_corners=False))


@pytest.mark.parametrize("name", ["scaseg", "csap", "canet_fca"])
def test_at_multiples_of_32_padding_is_no_matter(name: str) -> None:
    model = tiny_model(PRESET_CASES[name])
    x_BCHW = image(1, (64, 96))
    with torch.no_grad():
        padded = model(x_BCHW)
        model.pad_multiple = 1
        assert torch.equal(model(x_BCHW), padded)
        model.pad_multiple = 64
        assert torch.equal(model(x_BCHW), model(F.pad(x_BCHW, (0, 32)))[:, :, :, : padded.shape[3]])


@pytest.mark.parametrize("size", [(64, 96), (45, 77), (33, 50)])
def test_segformer_unpadded_is_the_published_function(size: tuple[int, int]) -> None:
    """Against SegFormer in our own words, operation by operation: nothing is padded but by the convolutions themselves."""
    model = fill(build(preset("segformer", "mit_b0"), 5, pad_multiple=1)).eval()
    x_BCHW = image(1, size)
    with torch.no_grad():
        expected = segformer(model, x_BCHW)
        logits = model(x_BCHW)
    assert expected.shape == (1, 5, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def segformer(model: SegModel, x_BCHW: Tensor) -> Tensor:
    """MiT (arXiv 2105.15203, section 3.1) and its head (3.2), from the weights of ``model`` by name."""
    weights = model.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"].flatten(1), weights.get(f"{name}.bias"))

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    maps = []
    for i in range(4):
        at = f"backbone.stages.{i}"
        stride, kernel = (4, 7) if i == 0 else (2, 3)
        x_BCHW = F.conv2d(x_BCHW, weights[f"{at}.embed.proj.weight"], weights[f"{at}.embed.proj.bias"], stride, kernel // 2)
        (batch, c, h, w), heads, reduction = x_BCHW.shape, HEADS[i], REDUCTIONS[i]
        x = norm(f"{at}.embed.norm", x_BCHW.reshape(batch, c, h * w).transpose(1, 2), 1e-5)
        for block in range(2):
            name = f"{at}.blocks.{block}"
            y = norm(f"{name}.norm1", x, 1e-6)
            q, y_map = linear(f"{name}.attn.q", y), y.transpose(1, 2).reshape(batch, c, h, w)
            if reduction > 1:
                # What a whole window does not fit into is left out.
                y_map = y_map[:, :, : h // reduction * reduction, : w // reduction * reduction]
                y_map = F.conv2d(y_map, weights[f"{name}.attn.reduce.weight"], weights[f"{name}.attn.reduce.bias"], reduction)
                y = norm(f"{name}.attn.norm", y_map.flatten(2).transpose(1, 2), 1e-5)
            k, v = linear(f"{name}.attn.kv", y).split(c, dim=2)
            q, k, v = (part.reshape(batch, -1, heads, c // heads).transpose(1, 2) for part in (q, k, v))
            y = torch.softmax(q @ k.transpose(2, 3) * (c // heads) ** -0.5, dim=3) @ v
            x = x + linear(f"{name}.attn.proj", y.transpose(1, 2).reshape(batch, h * w, c))
            y = linear(f"{name}.ffn.fc1", norm(f"{name}.norm2", x, 1e-6)).transpose(1, 2).reshape(batch, 4 * c, h, w)
            y = F.conv2d(y, weights[f"{name}.ffn.depthwise.weight"], weights[f"{name}.ffn.depthwise.bias"], 1, 1, 1, 4 * c)
            x = x + linear(f"{name}.ffn.fc2", F.gelu(y.flatten(2).transpose(1, 2)))
        x_BCHW = norm(f"{at}.norm", x, 1e-6).transpose(1, 2).reshape(batch, c, h, w)
        maps.append(x_BCHW)
    grid = maps[0].shape[2:]
    aligned = []
    for i, map_BCHW in enumerate(maps, 1):
        name = f"decoder.fusion.project.stage{i}"
        projected = F.conv2d(map_BCHW, weights[f"{name}.weight"], weights[f"{name}.bias"])
        aligned.append(F.interpolate(projected, size=grid, mode="bilinear", align_corners=False))
    mix = "decoder.fusion.mix"
    fused = F.conv2d(torch.cat(aligned, dim=1), weights[f"{mix}.conv.weight"])
    statistics = (weights[f"{mix}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    fused = F.relu(F.batch_norm(fused, *statistics, training=False))
    return F.conv2d(fused, weights["decoder.fusion.classifier.weight"], weights["decoder.fusion.classifier.bias"])


@pytest.mark.parametrize("backbone", ["mscan_t", "resnet18"])
def test_other_backbones_run_unpadded(backbone: str) -> None:
    model = build(preset("segformer", backbone), 2, pad_multiple=1).eval()
    with torch.no_grad():
        assert model(image(1, (45, 77))).shape == (1, 2, 12, 20)


def test_an_unpadded_network_wants_images_from_32() -> None:
    model = build(preset("segformer", "mit_b0"), 2, pad_multiple=1)
    with pytest.raises(BackboneError, match="mit_b0 takes heights and widths from 32, not 31x64: pad the image to multiples of 32"):
        model(image(1, (31, 64)))
    model.pad_multiple = 32
    assert model.eval()(image(1, (31, 64))).shape == (1, 2, 8, 16)


@pytest.mark.parametrize(("multiple", "nearest"), [(0, 32), (-32, 32), (16, 32), (33, 32), (50, 64)])
def test_images_are_padded_to_multiples_of_the_deepest_stride_or_not_at_all(multiple: int, nearest: int) -> None:
    rule = rf"pad_multiple: must be 1 \(images as they are\) or a multiple of 32 \(given {multiple}\); nearest legal: {nearest}"
    with pytest.raises(ConfigError, match=rule):
        build(preset("segformer", "mit_b0"), 2, pad_multiple=multiple)


def test_a_backbone_that_drops_the_edge_is_refused_where_nothing_is_padded() -> None:
    with pytest.raises(BackboneError, match="convnext_atto does not run unpadded, take pad_multiple 32"):
        build(preset("segformer", "convnext_atto"), 2, pad_multiple=1)
