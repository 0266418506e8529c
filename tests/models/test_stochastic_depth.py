import copy

import pytest
import torch
import torchvision

from zoo.models.resnet import ResNet
from zoo.models.stochastic_depth import StochasticDepth
from zoo.models.vit import ViT

NETS = {
    "basic": lambda p, **more: ResNet("basic", [2, 2], [4, 8], 1, 3, 32, stochastic_depth=p, **more),
    "bottleneck": lambda p: ResNet("bottleneck", [2, 2], [4, 8], 1, 3, 32, stochastic_depth=p),
    "preactivation": lambda p: NETS["basic"](p, preactivation=True),
    "vit": lambda p: ViT(16, 4, 2, in_channels=1, num_classes=3, image_size=32, stochastic_depth=p),
}


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 3, 2, 2), (64, 5, 8)], ids=["map", "tokens"])
def test_it_is_torchvisions_for_the_same_random_state(p, shape):
    x = torch.randn(shape)
    torch.manual_seed(1)
    expected = torchvision.ops.stochastic_depth(x, p, mode="row")
    torch.manual_seed(1)
    assert StochasticDepth(p)(x).equal(expected)


def test_the_expected_branch_is_the_branch():
    torch.manual_seed(0)
    mean = StochasticDepth(0.3)(torch.ones(100_000, 1)).mean()
    assert float(mean) == pytest.approx(1, abs=4 * (0.3 / 0.7 / 100_000) ** 0.5)  # four standard errors


@pytest.mark.parametrize("net", NETS)
def test_blocks_survive_by_the_linear_rule(net):
    """Equation 4 with p_L = 0.5 and four blocks."""
    rates = [1 - m.p for m in NETS[net](0.5).modules() if isinstance(m, StochasticDepth)]
    assert rates == [0.875, 0.75, 0.625, 0.5]


def test_the_papers_resnet_110_trains_with_40_of_54_blocks_on_average():
    """Section 3, "expected network depth": (3 L - 1) / 4 for p_L = 0.5, which is about 40."""
    net = ResNet("basic", [18] * 3, [16, 32, 64], 3, 10, 32, "pad", stochastic_depth=0.5)
    assert sum(1 - m.p for m in net.modules() if isinstance(m, StochasticDepth)) == pytest.approx((3 * 54 - 1) / 4)


@pytest.mark.parametrize("net", NETS)
def test_a_net_in_eval_mode_is_the_one_without_and_has_the_same_weights(net):
    torch.manual_seed(0)
    plain = NETS[net](0.0).eval()
    net = NETS[net](0.9).eval()
    net.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert net(x).equal(plain(x))
    exported = torch.export.export(net, (x,), strict=True).module()
    torch.testing.assert_close(exported(x), plain(x))


@pytest.mark.parametrize("net", ["basic", "bottleneck", "preactivation"])
def test_an_image_whose_blocks_are_all_dropped_passes_by_them(net):
    """Only the shortcuts are left, and the activation after each sum."""
    net = NETS[net](0.5)
    blocks = [*net.layer1, *net.layer2]
    x = torch.rand(3, net.conv1.out_channels, 8, 8)
    with torch.no_grad():
        for block in blocks:
            block.survive.p = 1 - 1e-12
            alone = copy.deepcopy(block)
            shortcut = x if block.downsample is None else alone.downsample(_activated(alone, x))
            expected = shortcut if hasattr(block, "convs") else shortcut.relu()
            x = block(x)
            assert x.equal(expected)


def _activated(block, x):
    return block.before[0](x) if hasattr(block, "before") else x


def test_both_branches_of_a_vits_block_are_dropped_and_each_by_itself():
    torch.manual_seed(0)
    block = NETS["vit"](0.5).encoder.layers[3]
    seen = []
    block.survive.register_forward_hook(lambda module, args, output: seen.append(output.flatten(1).any(1)))
    block(torch.randn(4000, 5, 16))
    attention, mlp = seen
    for share in (attention.float().mean(), mlp.float().mean(), (attention == mlp).float().mean()):
        assert float(share) == pytest.approx(0.5, abs=0.04)  # five standard errors
