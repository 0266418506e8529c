"""Channels are removed that nothing reads or that matter least; the result is an ordinary net."""

import copy

import pytest
import torch
from conftest import compose_run, inputs_of
from small import MobileNet
from torch import nn

from zoo.compress.channel_cutting import remove
from zoo.compress.context import Context
from zoo.compress.dependencies import groups_of, shadow_of
from zoo.compress.prune_channels import prune_channels
from zoo.compress.recipe import replay
from zoo.errors import BadInput
from zoo.measure.counts import count_macs
from zoo.models.attention import Attention
from zoo.models.lenet import LeNet5, LeNet300, TableConv2d
from zoo.models.resnet import ResNet
from zoo.models.vgg import VGG
from zoo.models.vit import ViT
from zoo.run.model import build_bare_model

IMAGE = (torch.empty(1, 1, 28, 28, device="meta"),)


def silence(layer: nn.Module, lost: torch.Tensor) -> None:
    """Set the weights with which a layer reads some of its inputs to 0."""
    if isinstance(layer, TableConv2d):
        layer.weight.data[torch.isin(layer.inputs, lost)] = 0
    elif isinstance(layer, nn.Conv2d):
        width = layer.in_channels // layer.groups
        for i, part in enumerate(layer.weight.data.chunk(layer.groups)):
            part[:, lost[(lost >= i * width) & (lost < (i + 1) * width)] - i * width] = 0
    else:
        layer.weight.data[:, lost] = 0


@pytest.mark.parametrize(
    "choice",
    [
        ["model=lenet5_1998"],
        ["model=alexnet_2012"],
        ["model=vgg11_bn"],
        ["model=googlenet"],
        ["model=inception_v3"],
        ["model=resnet20"],
        ["model=resnet20", "model.preactivation=true", "model.activation=prelu"],
        ["model=resnet50"],
        ["model=airbench"],
        ["model=vit_tiny"],
    ],
    ids=" ".join,
)
def test_channels_that_nothing_listens_to_can_go_and_change_nothing(choice):
    torch.manual_seed(0)
    cfg = compose_run("data=fashion_mnist", *choice)
    net = build_bare_model(cfg.model).eval()
    for module in list(net.modules()):
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1)
        for name, child in module.named_children():
            if isinstance(child, nn.LocalResponseNorm):  # each map depends on its neighbours
                setattr(module, name, nn.Identity())
    images = inputs_of(cfg, 2)
    groups = groups_of(net, shadow_of(net), IMAGE, lambda found: torch.rand(len(found[0].idxs)))
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.LayerNorm)}
    kept = []
    for group in groups:
        stays_whole = norms & {member.name for member in group.members}  # they depend on all channels
        num = len(group.score) if stays_whole else max(len(group.score) // 3 // group.blocks, 1) * group.blocks
        kept.append(num)
        parts = group.score.view(group.blocks, -1)
        least_kept = parts.sort(dim=1, descending=True).values[:, num // group.blocks - 1 :][:, :1]
        goes = (parts < least_kept).flatten().repeat_interleave(group.unit)
        for member in group.members:
            if member.side == "in" and goes.any():
                silence(net.get_submodule(member.name), member.places[goes[member.channels]])
    smaller = copy.deepcopy(net)
    remove(smaller, groups, kept)
    assert sum(p.numel() for p in smaller.parameters()) < 0.6 * sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(smaller(*images), net(*images), rtol=1e-4, atol=1e-4)


def test_the_units_of_largest_weights_stay():
    net = LeNet300()
    large = torch.randperm(300)[:150]
    net.layers[1].weight.data[large] *= 10
    wanted = net.layers[1].weight[large.sort().values].detach()
    prune_channels(net, Context(IMAGE), ratio=0.5, round_to=1)
    assert net.layers[1].weight.equal(wanted)


def test_batch_norm_importance_keeps_the_largest_scales():
    net = VGG(11, batch_norm=True, in_channels=1, num_classes=10, image_size=28)
    scales = torch.rand(64) - 0.5
    net.features[1].weight.data = scales.clone()
    prune_channels(net, Context(IMAGE), ratio=0.5, importance="batch_norm")
    assert net.features[1].weight.equal(scales[scales.abs() >= scales.abs().sort().values[32]])


def test_taylor_importance_lets_units_go_that_the_loss_does_not_feel():
    net = LeNet300()
    deaf = torch.randperm(300)[:150]
    net.layers[3].weight.data[:, deaf] = 0
    net.layers[1].weight.data[deaf] *= 100  # magnitude would keep these
    felt = [i for i in range(300) if i not in set(deaf.tolist())]
    wanted = net.layers[1].weight[felt].detach()
    batch = (torch.randn(64, 1, 28, 28), torch.randint(10, (64,)))
    prune_channels(net, Context(IMAGE, [batch]), ratio=0.5, importance="taylor", round_to=1)
    assert net.layers[1].weight.equal(wanted)
    assert all(p.grad is None for p in net.parameters())


def test_lamp_across_all_layers_takes_most_from_a_layer_that_few_units_carry():
    net = LeNet300()
    net.layers[1].weight.data[150:] *= 1e-3  # by definition these score lower than any of 100 equal ones
    net.layers[3].weight.data[:, 150:] *= 1e-3
    prune_channels(net, Context(IMAGE), ratio=150 / 400, importance="lamp", scope="global", round_to=1)
    assert (net.layers[1].out_features, net.layers[3].out_features) == (150, 100)


def test_widths_become_multiples_of_eight_and_narrow_layers_do_not():
    net = ResNet("basic", [1, 1], [12, 40], 1, 10, 28)
    prune_channels(net, Context(IMAGE), ratio=0.3)
    assert (net.layer1[0].conv1.out_channels, net.layer2[0].conv1.out_channels) == (8, 32)  # of 8.4 and 28


def test_heads_go_whole_and_the_stream_of_tokens_narrows_with_them():
    net = ViT(96, 2, 6, in_channels=1, num_classes=10, image_size=28)
    prune_channels(net, Context(IMAGE), ratio=0.5)
    attention = net.encoder.layers[0].self_attention
    assert isinstance(attention, Attention)
    assert attention.num_heads == 3
    assert attention.in_proj_weight.shape == (3 * 3 * 16, 48)
    assert attention.out_proj.weight.shape == (48, 3 * 16)
    assert net.class_token.shape == (1, 1, 48)
    assert net.encoder.pos_embedding.shape == (1, 50, 48)
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_zero_padding_shortcuts_lose_maps_of_both_sides():
    net = ResNet("basic", [1, 1], [16, 32], 1, 10, 28, shortcut="pad")
    prune_channels(net, Context(IMAGE), ratio=0.5)
    assert (net.conv1.out_channels, net.layer2[0].downsample.num_new_maps, net.fc.in_features) == (8, 8, 16)


@pytest.mark.parametrize("gated", [False, True])
def test_inverted_residuals_lose_channels_of_their_expansions_and_not_of_their_streams_alone(gated):
    net = MobileNet(gated)
    dense = count_macs(net, (1, 28, 28))
    images = torch.randn(2, 1, 28, 28)
    step = prune_channels(net, Context(IMAGE), macs=0.5)
    assert count_macs(net, (1, 28, 28)) == step["macs"] == pytest.approx(0.5 * dense, rel=0.05)
    for block, width, stream in zip(net.blocks, (96, 144, 144, 192), (24, 24, 32, 32), strict=True):
        (depthwise, norm, _), project = block.depthwise, block.project[0]
        left = depthwise.out_channels
        assert 0.5 * width <= left <= 0.8 * width  # a width is proportional to the root of the MACs, 0.71
        assert depthwise.weight.shape == (left, 1, 3, 3)
        assert (depthwise.groups, depthwise.in_channels, norm.num_features) == (left, left, left)
        assert project.in_channels == left
        assert project.out_channels >= 0.5 * stream
    again = MobileNet(gated)
    replay(again, [step])
    again.load_state_dict(net.state_dict())
    assert again.eval()(images).equal(net.eval()(images))


def test_a_depthwise_convolution_keeps_the_filters_of_the_channels_that_stay():
    net = MobileNet()
    block = net.blocks[0]
    large = torch.randperm(96)[:48].sort().values
    block.expand[0].weight.data[large] *= 10
    wanted = block.depthwise[0].weight[large].detach()
    prune_channels(net, Context(IMAGE), ratio=0.5)
    assert block.depthwise[0].weight.equal(wanted)


@pytest.mark.parametrize("share", [0.2, 0.476, 0.8])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_macs_asked_for_are_met_within_five_per_cent(share, scope):
    net = ResNet("basic", [3, 3, 3], [16, 32, 64], 1, 10, 28, shortcut="pad")
    dense = count_macs(net, (1, 28, 28))
    step = prune_channels(net, Context(IMAGE), macs=share, scope=scope)
    assert count_macs(net, (1, 28, 28)) == step["macs"] == pytest.approx(share * dense, rel=0.05)


def with_mix(layer):
    net = MobileNet()
    net.mix = layer
    return net


@pytest.mark.parametrize(
    ("make", "knobs", "sentence"),
    [
        (LeNet300, {"macs": 1e-6}, "the nearest this net allows"),
        (LeNet300, {"importance": "batch_norm"}, "no batch norms"),
        (lambda: LeNet5(image_size=28, activation="maxout"), {}, "maxout"),
        (lambda: MobileNet(shuffled=True), {}, "cannot follow the channels of MobileNet"),
        (lambda: with_mix(nn.GroupNorm(4, 32)), {}, "cannot cut 'mix', a GroupNorm"),
        (lambda: with_mix(nn.PReLU(32)), {}, "cannot cut 'mix', a PReLU"),
        (lambda: with_mix(nn.Sequential(nn.Conv2d(32, 64, 1, groups=32), nn.Conv2d(64, 32, 1))), {}, "groups=32"),
    ],
)
def test_what_cannot_be_pruned_so_is_refused_and_left_as_it_was(make, knobs, sentence):
    net = make()
    before = str(net)
    with pytest.raises(BadInput, match=sentence) as caught:
        prune_channels(net, Context(IMAGE), **knobs)
    assert ("compress=prune removes single weights" in str(caught.value)) == (
        "cannot" in sentence or "groups" in sentence
    )
    assert str(net) == before
