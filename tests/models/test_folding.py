"""What exported programs leave out: BatchNorms beside convolutions and arithmetic on weights; same logits, the network untouched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kits_export import tiny_network
from kits_model import covering_cases, tiny_model
from torch import Tensor, nn

from nasseg.models.folding import Folded, Folding, fold

CASES = covering_cases()


def filled(module: nn.Module) -> nn.Module:
    """Statistics and weights that are no identity, in eval mode."""
    torch.manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for value, low, high in ((child.running_mean, -1, 1), (child.running_var, 0.2, 3), (child.weight, -2, 2), (child.bias, -1, 1)):
                if value is not None:
                    nn.init.uniform_(value, low, high)
    return module.eval()


def folded(module: nn.Module, *shape: int) -> Folded:
    """The folded program of a module, after a check that it gives the same numbers and that the module kept its own."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        expected = module(x.clone())
        result = fold(torch.export.export(module, (x.clone(),)))
        torch.testing.assert_close(result.module(x.clone()), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    return result


def operations(result: Folded) -> list[str]:
    calls = (node.target for node in result.module.graph.nodes if node.op == "call_function")
    return [getattr(called, "overloadpacket", called).__name__ for called in calls]


def test_one_channel_by_hand():
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)).eval()
    with torch.no_grad():
        module[0].weight.fill_(2)
        module[1].weight.fill_(3)
        module[1].bias.fill_(1)
        module[1].running_mean.fill_(0.5)
        module[1].running_var.fill_(3)
    result = folded(module, 1, 1, 2, 2)
    # a = 3 / sqrt(3 + 1) = 1.5: weight 1.5·2, bias 1 - 1.5·0.5.
    assert {name: value.item() for name, value in result.module.named_parameters()} == {"0.weight": 3.0, "0.bias": 0.25}
    assert result.what == Folding((("1", "0"),), (), 0)
    assert str(result.what) == "BatchNorms folded into convolutions: 1, left: 0; results of weight arithmetic stored: 0"


def test_one_channel_by_hand_norm_first():
    module = nn.Sequential(nn.BatchNorm2d(2, eps=1.0), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        module[0].running_mean.copy_(torch.tensor([2.0, -4.0]))
        module[0].running_var.copy_(torch.tensor([3.0, 15.0]))
        module[1].weight.copy_(torch.tensor([8.0, 16.0]).view(1, 2, 1, 1))
        module[1].bias.fill_(1)
    result = folded(module, 1, 2, 2, 2)
    # a = 1/2, 1/4 and b = -1, 1: weights 8/2, 16/4, bias 1 - 8 + 16.
    assert {name: value.tolist() for name, value in result.module.named_parameters()} == {
        "1.weight": [[[[4.0]], [[4.0]]]],
        "1.bias": [9.0],
    }
    assert result.what.pairs == (("0", "1"),)


@pytest.mark.parametrize(
    ("module", "shape", "pairs"),
    [
        (nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)), (2, 4, 9), 1),
        (nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)), (2, 4, 9, 7), 1),
        (nn.Sequential(nn.Conv2d(4, 6, 3, padding="same", groups=2), nn.BatchNorm2d(6, affine=False)), (2, 4, 9, 7), 1),
        (nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.BatchNorm2d(4)), (2, 4, 9, 7), 1),
        (nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 3, 4, 5), 1),
        (nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), (2, 4, 3, 4), 2),
        # A norm in front of a convolution that pads nothing.
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), (2, 4, 9, 7), 1),
        (nn.Sequential(nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 4, (1, 3), groups=2, bias=False)), (2, 6, 9, 7), 1),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 2, padding="valid")), (2, 4, 9), 1),
        (nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)), (2, 4, 3, 4), 2),
    ],
)
def test_pairs_that_become_one(module: nn.Module, shape: tuple[int, ...], pairs: int):
    result = folded(filled(module), *shape)
    assert len(result.what.pairs) == pairs
    assert result.what.left == ()
    assert "batch_norm" not in operations(result)


class Called(nn.Module):
    """Layers wired up by a function of (module, x)."""

    def __init__(self, function: Callable[[Called, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def written_between(m: Called, x: Tensor) -> Tensor:
    x = x * 1.0
    normed = m.norm(x)
    x.add_(1)
    return m.other(normed) + x


@pytest.mark.parametrize(
    "function",
    [
        # The convolution has another reader.
        lambda m, x: m.norm(m.conv(x).mul(1)) + (y := m.conv(x)) * 0 + m.norm(y),
        # So has the norm in front of a convolution.
        lambda m, x: m.other(y := m.norm(x)) + y,
        # The convolution's weight is read by a second one.
        lambda m, x: m.norm(m.conv(m.conv(x))),
        # Something stands between, or the norm comes from nowhere.
        lambda m, x: m.norm(F.relu(m.conv(x))) * m.norm(x).sum(),
        # Transposed: its weight lies the other way round.
        lambda m, x: m.norm(F.conv_transpose2d(x, m.conv.weight)),
        # Padding: the border would see zeros that the norm would have moved.
        lambda m, x: F.conv2d(m.norm(x), m.other.weight, m.other.bias, padding=1),
        # The norm's input changes before the convolution would read it.
        written_between,
        # Statistics of the batch.
        lambda m, x: F.batch_norm(m.conv(x), None, None, training=True),
    ],
)
def test_pairs_that_stay(function: Callable[[Called, Tensor], Tensor]):
    result = folded(filled(Called(function)), 2, 4, 5, 3)
    assert result.what.pairs == ()
    assert operations(result).count("batch_norm") == len(result.what.left) > 0


def test_only_weights_that_are_read_remain():
    result = folded(filled(Called(lambda m, x: m.norm(m.conv(x)))), 2, 4, 5, 3)
    assert set(result.module.state_dict()) == {"conv.weight", "conv.bias"}
    assert result.what.pairs == (("norm", "conv"),)


def test_a_weight_keeps_its_memory_order():
    module = filled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).to(memory_format=torch.channels_last))
    assert folded(module, 2, 4, 5, 5).module.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


def test_weights_made_of_weights_are_made_once_and_take_a_norm_in():
    # Standardised weights, as some ResNets have: arithmetic first, then the norm.
    def standardised(m: Called, x: Tensor) -> Tensor:
        weight = (m.conv.weight - m.conv.weight.mean((1, 2, 3), keepdim=True)) @ m.other.weight
        return m.norm(F.conv2d(x, weight))

    result = folded(filled(Called(standardised)), 2, 4, 5, 3)
    assert operations(result) == ["conv2d"]
    assert result.what.constants == 1
    assert result.what.pairs == (("norm", "constant_0"),)


@pytest.mark.parametrize(
    ("function", "stored", "remain"),
    [
        # Both halves of one product are read: two results.
        (lambda m, x: sum(F.conv2d(x, half) for half in (m.conv.weight * m.other.weight).chunk(2)), 2, ["conv2d", "add", "conv2d", "add"]),
        # A view costs nothing: it stays, unless it is all that is read of a weight.
        (lambda m, x: F.conv2d(x, m.conv.weight[:2]), 0, ["slice", "conv2d"]),
        (lambda m, x: F.conv2d(x, m.conv.weight.mT) + m.conv.weight.sum(), 1, ["mT", "conv2d", "add"]),
        (lambda m, x: F.conv2d(x, m.conv.weight.transpose(0, 1)), 0, ["conv2d"]),
        (lambda m, x: m.norm(F.conv2d(x, m.conv.weight.flatten(1)[:, :, None, None])), 0, ["conv2d"]),
        # The image comes in: nothing to store.
        (lambda m, x: x * m.conv.weight.sum(), 1, ["mul"]),
        (lambda m, x: x * x.sum(), 0, ["sum", "mul"]),
    ],
)
def test_weight_arithmetic(function: Callable[[Called, Tensor], Tensor], stored: int, remain: list[str]):
    result = folded(filled(Called(function)), 2, 4, 5, 3)
    assert result.what.constants == stored
    assert operations(result) == remain


def test_a_result_much_larger_than_its_weights_is_not_stored():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(100, 1))
            self.columns = nn.Parameter(torch.randn(1, 100))

        def forward(self, x: Tensor) -> Tensor:
            return x + (self.rows @ self.columns)

    result = folded(Table(), 100, 100)
    assert operations(result) == ["matmul", "add"]
    assert result.what.constants == 0


def test_what_is_written_in_place_is_not_stored():
    def adds(m: Called, x: Tensor) -> Tensor:
        y = m.conv.weight * 2
        y.add_(x.sum())
        return F.conv2d(x, y)

    def changes(m: Called, x: Tensor) -> Tensor:
        y = m.conv.weight * 2
        view = y[:2]
        view.add_(1)
        return F.conv2d(x, y * 3)

    for function in (adds, changes):
        module = filled(Called(function))
        result = folded(module, 2, 4, 5, 3)
        with torch.no_grad():
            for _ in range(2):  # a stored tensor would grow from call to call
                x = torch.ones(2, 4, 5, 3)
                torch.testing.assert_close(result.module(x), module(x))
        assert result.what.constants == 0


def test_random_numbers_stay_random():
    module = Called(lambda m, x: x * torch.rand_like(m.conv.weight.sum()))
    result = fold(torch.export.export(module.eval(), (torch.ones(1, 4, 2, 2),)))
    x = torch.ones(1, 4, 2, 2)
    assert not torch.equal(result.module(x), result.module(x))


@pytest.mark.parametrize(
    ("backbone", "name", "left"),
    [
        ("tf_efficientnet_lite0", "csap", 0),
        ("test_resnet", "scaseg", 0),
        ("mscan_t", "segformer", 13),  # the norm before attention is read by the shortcut as well
        ("mit_b0", "canet_fca", 0),
    ],
)
def test_whole_networks(backbone: str, name: str, left: int):
    model = tiny_network(name, backbone=backbone)
    norms = {path for path, child in model.named_modules() if isinstance(child, nn.BatchNorm2d)}
    result = folded(model, 2, 3, 64, 64)
    in_decoder = {path for path in norms if path.startswith("decoder.")}
    # The backbone's norms, all of them; the decoder's may be part of weight arithmetic instead.
    assert {norm for norm, _ in result.what.pairs} | set(result.what.left) >= norms - in_decoder
    assert len(result.what.left) == left
    assert operations(result).count("batch_norm") == left
    assert set(result.module.state_dict()) & {f"{norm}.running_mean" for norm, _ in result.what.pairs} == set()


@pytest.mark.parametrize("name", CASES)
def test_every_value_of_every_gene(name: str):
    result = folded(tiny_model(CASES[name]), 2, 3, 64, 96)
    # The fusion's norms are arithmetic on its weights, all others of a decoder stand behind a convolution.
    assert result.what.left == ()
    assert result.what.constants > 0
    assert not any("running_var" in weight for weight in result.module.state_dict())
