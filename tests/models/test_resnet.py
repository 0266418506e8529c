import pytest
import torch
import torchvision
from conftest import exchange_weights

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.resnet import PadShortcut, ResNet

WIDTHS = [64, 128, 256, 512]
IMAGENET = {  # torchvision 0.29: block, depths, parameters, GMACs
    "resnet18": ("basic", [2, 2, 2, 2], 11_689_512, 1.814),
    "resnet34": ("basic", [3, 4, 6, 3], 21_797_672, 3.664),
    "resnet50": ("bottleneck", [3, 4, 6, 3], 25_557_032, 4.089),
    "resnet101": ("bottleneck", [3, 4, 23, 3], 44_549_160, 7.801),
    "resnet152": ("bottleneck", [3, 8, 36, 3], 60_192_808, 11.514),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_it_is_torchvisions_net_weight_for_weight(name):
    block, depths, params, gmacs = IMAGENET[name]
    ours = ResNet(block, depths, WIDTHS)
    theirs = getattr(torchvision.models, name)(num_classes=1000)
    assert count_parameters(ours) == params
    assert round(count_macs(ours, (3, 224, 224)) / 1e9, 3) == gmacs

    exchange_weights(ours, theirs)
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("depth", "millions"), [(3, "0.27"), (5, "0.46"), (7, "0.66"), (9, "0.85"), (18, "1.73")], ids=str
)
def test_cifar_nets_have_the_sizes_of_section_4_2(depth, millions):
    net = ResNet("basic", [depth] * 3, [16, 32, 64], 3, 10, 32, "pad")
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 6 * depth + 2
    assert f"{count_parameters(net) / 1e6:.2f}" == millions  # the paper says 1.7 for ResNet-110


def test_initial_weights_are_as_torchvision_draws_them():
    ours, theirs = ResNet("basic", [2, 2, 2, 2], WIDTHS), torchvision.models.resnet18()
    for name, w in theirs.state_dict().items():
        if w.ndim == 4:
            assert float(ours.state_dict()[name].std()) == pytest.approx(float(w.std()), rel=0.05)


def test_option_a_skips_pixels_and_appends_zero_maps():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    y = PadShortcut(2, 2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


def test_small_images_keep_their_size_through_the_stem():
    net = ResNet("basic", [2, 2, 2, 2], WIDTHS, image_size=32)
    sizes = []
    net.layer1.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    net(torch.zeros(1, 3, 32, 32))
    assert sizes == [32]


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one entry per stage"):
        ResNet("basic", [1, 1], [16])


def test_preactivated_resnet_164_has_the_size_of_identity_mappings_table_1():
    net = ResNet("bottleneck", [18] * 3, [16, 32, 64], 3, 10, 32, preactivation=True)
    convs = [name for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and "downsample" not in name]
    assert len(convs) + 1 == 164
    assert f"{count_parameters(net) / 1e6:.1f}" == "1.7"


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_preactivated_blocks_pass_their_input_on_unchanged(block):
    """With the last convolution of each block at zero, the body of the net is the identity (2016, equation 4)."""
    net = ResNet(block, [2], [16], image_size=32, preactivation=True).eval()
    for unit in list(net.layer1)[1:]:
        torch.nn.init.zeros_(unit.convs[-1].weight)
    x = torch.randn(1, 16 if block == "basic" else 64, 8, 8)
    assert net.layer1[1](x).equal(x)


def test_the_papers_bottleneck_has_its_stride_on_the_first_convolution():
    block = ResNet("bottleneck", [1, 1], [8, 16], stride_on="1x1").layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = ResNet("bottleneck", [1, 1], [8, 16]).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_a_preactivated_net_computes_what_identity_mappings_figure_1b_says():
    """Norm, ReLU, weight, norm, ReLU, weight, sum; the first block shares the stem's norm; the last sum has its own."""
    torch.manual_seed(0)
    net = ResNet("basic", [2, 1], [4, 8], 1, 3, 32, preactivation=True).eval()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
    stem, first, *rest, last = norms
    one, two, three = net.layer1[0], net.layer1[1], net.layer2[0]
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        y = torch.relu(stem(net.conv1(x)))
        y = y + one.convs[1](torch.relu(first(one.convs[0](y))))
        y = y + two.convs[1](torch.relu(rest[1](two.convs[0](torch.relu(rest[0](y))))))
        activated = torch.relu(rest[2](y))
        y = three.downsample(activated) + three.convs[1](torch.relu(rest[3](three.convs[0](activated))))
        expected = net.fc(torch.relu(last(y)).mean((2, 3)))
        torch.testing.assert_close(net(x), expected)
    assert three.convs[0].stride == three.downsample.stride == (2, 2)


def test_prelu_has_a_slope_for_each_activation():
    net = ResNet("bottleneck", [3, 4, 6, 3], WIDTHS, activation="prelu")
    assert sum(isinstance(m, torch.nn.PReLU) for m in net.modules()) == 49
