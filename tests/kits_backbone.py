"""What every backbone must keep. A test class inherits :class:`BackboneContract` and names its backbones in ``names``.

``OWN`` and ``TIMM`` are the small ones tried with real numbers; ``ODD`` are timm families with a habit of their own, tried on the meta
device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from nasseg.models.backbones.contract import Backbone
from nasseg.models.backbones.registry import create_backbone, describe_backbone

OWN = ("mit_b0", "mscan_t")
TIMM = ("resnet18", "mobilenetv2_100", "tf_efficientnet_lite0", "convnext_atto", "pvt_v2_b0")
ODD = (
    "swin_tiny_patch4_window7_224",  # maps with channels last, made for one size, freed from it
    "swinv2_cr_tiny_224",  # the same by another switch
    "mambaout_femto",  # channels last
    "hiera_tiny_224",  # one size only
    "test_maxvit",  # one size only
    "xception41",  # features taken by hooks
    "mvitv2_tiny",  # one size only, features taken from inside forward
    "vgg11",  # a feature at full size, no stochastic depth
    "hrnet_w18_small",  # branches at every stride
    "dla34",  # features counted from 1
    "densenet121",  # a stride comes twice
    "mobilevitv2_050",  # windows want multiples of 64
    "halonet26t",  # windows want multiples of 256
)
SIZE = (64, 96)


@lru_cache(maxsize=8)
def cached(name: str) -> Backbone:
    """A backbone with fixed weights; a test must leave it as it was."""
    torch.manual_seed(0)
    return create_backbone(name)


def image(size: tuple[int, int] = SIZE, batch: int = 2, channels: int = 3, seed: int = 0) -> Tensor:
    """Noise (B, C, H, W)."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def loss_of(maps: tuple[Tensor, ...]) -> Tensor:
    """A number that depends on every pixel of every map, each with a weight of its own."""
    total = torch.zeros((), device=maps[0].device)
    for one in maps:
        weight = torch.linspace(-1, 1, one.numel(), device=one.device).reshape(one.shape)
        total = total + (one * weight).sum()
    return total


def without_gradient(module: nn.Module) -> list[str]:
    """Parameters that the last backward pass did not reach."""
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]


class BackboneContract:
    """The kit."""

    names: ClassVar[tuple[str, ...]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "backbone" in metafunc.fixturenames:
            metafunc.parametrize("backbone", self.names, indirect=True)

    @pytest.fixture
    def backbone(self, request: pytest.FixtureRequest) -> Backbone:
        made = cached(request.param).unfreeze().eval()
        made.zero_grad()
        return made

    def test_it_is_what_its_description_says(self, backbone: Backbone) -> None:
        spec = describe_backbone(backbone.name)
        assert (backbone.name, backbone.channels, backbone.strides) == (spec.name, spec.channels, (4, 8, 16, 32))
        assert (backbone.mean, backbone.std, backbone.in_chans) == (spec.mean, spec.std, 3)

    def test_four_maps_at_their_strides(self, backbone: Backbone) -> None:
        with torch.no_grad():
            maps = backbone(image())
        assert [tuple(one.shape) for one in maps] == [
            (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert all(one.isfinite().all() and one.std() > 0 for one in maps)

    def test_a_deepest_map_of_one_pixel(self, backbone: Backbone) -> None:
        with torch.no_grad():
            maps = backbone(image((32, 32), batch=1))
        assert [one.shape[-1] for one in maps] == [8, 4, 2, 1]
        assert all(one.isfinite().all() for one in maps)

    def test_eval_repeats_itself_and_treats_images_apart(self, backbone: Backbone) -> None:
        x = image()
        with torch.no_grad():
            first, again, alone = backbone(x), backbone(x), backbone(x[1:])
        for one, two, single in zip(first, again, alone, strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close(one[1:], single, rtol=1e-3, atol=1e-4)

    def test_memory_order_does_not_matter(self, backbone: Backbone) -> None:
        x = image()
        with torch.no_grad():
            for one, two in zip(backbone(x), backbone(x.to(memory_format=torch.channels_last)), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)

    def test_every_parameter_learns(self, backbone: Backbone) -> None:
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        backbone.train()
        loss_of(backbone(image())).backward()
        assert without_gradient(backbone) == []
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
        backbone.eval().zero_grad()
        backbone.load_state_dict(before)

    def test_frozen_it_does_not_learn_and_keeps_its_statistics(self, backbone: Backbone) -> None:
        x = image()
        with torch.no_grad():
            eval_maps = backbone.eval()(x)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        backbone.freeze().train()
        assert backbone.training
        maps = backbone(x)
        assert not any(one.requires_grad for one in maps)
        assert all(torch.equal(one, two) for one, two in zip(maps, eval_maps, strict=True))
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        backbone.unfreeze()
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        assert all(module.training for module in backbone.modules())
        backbone.eval()

    @pytest.mark.parametrize("in_chans", [1, 4])
    def test_other_channel_counts(self, backbone: Backbone, in_chans: int) -> None:
        with torch.device("meta"):
            made = create_backbone(backbone.name, in_chans=in_chans).eval()
            maps = made(torch.empty(1, in_chans, *SIZE))
        assert [one.shape[1] for one in maps] == list(backbone.channels)
        assert len(made.mean) == len(made.std) == in_chans
        assert {made.state_dict()[key].shape[1] for key in made.input_convs} == {in_chans}

    def test_its_own_state_dict_comes_back(self, backbone: Backbone) -> None:
        state = backbone.state_dict()
        renamed, spare = backbone.rename(state)
        assert spare == set()
        assert renamed.keys() == state.keys()
        assert all(torch.equal(renamed[name], state[name]) for name in state)
