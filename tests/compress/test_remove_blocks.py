"""Whole residual blocks are removed before channels, and count for the same targets."""

import copy

import pytest
import torch
from conftest import composed
from small import facts_of
from torch import nn

import zoo
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.compress import prune_channels as module
from zoo.compress.context import Context
from zoo.compress.latency_table import LatencyTable
from zoo.compress.prune_channels import prune_channels, replay
from zoo.compress.rate_rounding import update_norms
from zoo.compress.remove_blocks import choose_blocks, removable_blocks, without_blocks
from zoo.data.sources import mnist_5k
from zoo.errors import BadInput
from zoo.measure.counts import count_macs
from zoo.models.lenet import LeNet300
from zoo.models.resnet import ResNet
from zoo.models.vit import ViT

SHAPE = (1, 12, 12)
EXAMPLE = (torch.empty(1, *SHAPE, device="meta"),)


def resnet(block="basic", **settings):
    torch.manual_seed(0)
    net = ResNet(block, [3, 3], [16, 16], in_channels=1, num_classes=10, image_size=12, **settings)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    with torch.no_grad():
        update_norms(net.eval(), [(images(),)])
    return net


def vit():
    torch.manual_seed(0)
    return ViT(32, 4, 2, in_channels=1, num_classes=10, image_size=12).eval()


def lenet300():
    return LeNet300(image_size=12)


def images(num=64):
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(1))


def silence(block):
    """Set the last layer of each branch of a block to zero."""
    layers = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1:]
    if hasattr(block, "convs"):
        layers = [block.convs[-1]]
    if hasattr(block, "mlp"):
        layers = [block.mlp[3], block.self_attention.out_proj]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (resnet, 5),  # the first block of the second stage has its stride in the shortcut
        (lambda: resnet("bottleneck"), 4),  # and the first of both stages have projections
        (lambda: resnet(preactivation=True), 5),
        (vit, 4),
    ],
)
def test_a_net_without_a_block_is_the_net_whose_block_has_a_silent_branch(make, number):
    net = make()
    names = removable_blocks(net)
    assert len(names) == number
    for name in names:
        quiet = make()
        silence(quiet.get_submodule(name))
        with torch.no_grad():
            torch.testing.assert_close(without_blocks(net, [name])(images(4)), quiet(images(4)), atol=1e-6, rtol=0)


def test_blocks_go_that_change_least_for_what_they_cost():
    net = resnet()
    names = removable_blocks(net)
    for name, size in zip(names, (1.0, 1e-3, 1.0, 1e-2, 1.0), strict=True):
        net.get_submodule(name).bn2.weight.data *= size
        net.get_submodule(name).bn2.bias.data *= size
    equal = {f"{name}.conv1": 1.0 for name in names}
    assert choose_blocks(net, 2, equal, [images()]) == [names[1], names[3]]
    assert choose_blocks(net, 1, equal | {f"{names[4]}.conv2": 1e9}, [images()]) == [names[4]]


def context():
    return Context(EXAMPLE, batches=[(images(), torch.zeros(64, dtype=torch.int64))])


def test_without_another_target_blocks_go_alone_and_the_file_reads_back_equal(tmp_path):
    cfg = composed("resnet20", "fashion_mnist")
    cfg.model.update(depths=[3, 3], widths=[16, 16], shortcut="projection")
    cfg.data.image_size = SHAPE[1]
    net, dense = resnet(), resnet()
    step = prune_channels(net, context(), blocks=2, repair="refit")
    assert len(step["blocks"]) == 2
    assert net.layer1[0].conv1.weight.shape == dense.layer1[0].conv1.weight.shape
    assert step["macs"] == count_macs(without_blocks(dense, step["blocks"]), SHAPE)
    save_product(tmp_path / "model.safetensors", net.state_dict(), facts_of(cfg, [step]))
    with torch.no_grad():
        assert load_model(read_product(tmp_path / "model.safetensors")).eval()(images()).equal(net.eval()(images()))


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_target_of_macs_counts_blocks_too(make):
    net = make()
    whole = count_macs(net, SHAPE)
    step = prune_channels(net, context(), blocks=2, macs=0.4, round_to=1)
    assert count_macs(net, SHAPE) / whole == pytest.approx(0.4, rel=0.05)
    assert len(step["blocks"]) == 2
    again = make()
    replay(again, step)
    assert [type(m) for m in again.modules()] == [type(m) for m in net.modules()]


def test_a_target_of_latency_counts_blocks_too(monkeypatch):
    times = {
        "time_layer": lambda layer, shape: float(layer.weight.numel() * shape[-1]),
        "time_nets": lambda nets, inputs, runtime: [float(count_macs(net, SHAPE)) for net in nets],
    }
    monkeypatch.setattr(module, "LatencyTable", lambda *args, **kwargs: LatencyTable(*args, **kwargs, **times))
    net = resnet()
    whole = count_macs(net, SHAPE)
    step = prune_channels(net, context(), blocks=2, latency=0.4, round_to=1)
    assert count_macs(net, SHAPE) / whole == pytest.approx(0.4, rel=0.05)
    assert step["latency"] == count_macs(net, SHAPE) / whole
    met = prune_channels(resnet(), context(), blocks=1, latency=0.75)  # 0.737 without one of the six blocks
    assert (len(met["blocks"]), met["layout"]) == (1, {})
    for target in ("latency", "macs"):
        net = resnet()
        before = str(net)
        with pytest.raises(
            BadInput, match=rf"blocks: .* has only 0.\d+ of the original {target}, which is less than {target}=0.9"
        ):
            prune_channels(net, context(), blocks=3, **{target: 0.9})
        assert str(net) == before


@pytest.mark.slow
def test_a_refit_brings_the_outputs_of_a_trained_net_nearer_to_those_of_the_whole_net():
    digits = mnist_5k().train.images[::40].float().sub(33).div(79)
    dense, off = zoo.load("resnet20_fashion_mnist").net.eval(), {}
    with torch.no_grad():
        update_norms(dense, [(digits,)])
    for repair in ("norms", "refit"):
        net = copy.deepcopy(dense)
        prune_channels(net, Context((digits[:1].to("meta"),), batches=[(digits, None)]), blocks=3, repair=repair)
        with torch.no_grad():
            off[repair] = float((net.eval()(digits) - dense(digits)).square().mean())
    assert off["refit"] < 0.7 * off["norms"]


@pytest.mark.parametrize(
    ("make", "number", "sentence"),
    [
        (resnet, 5, "blocks=5: this net has 5 residual blocks with an identity shortcut"),
        (lenet300, 1, "blocks=1: this net has 0 residual blocks"),
    ],
)
def test_more_blocks_than_there_are_cannot_go(make, number, sentence):
    with pytest.raises(BadInput, match=sentence):
        prune_channels(make(), context(), blocks=number)


def test_blocks_are_chosen_on_256_images_whatever_the_size_of_batches(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "choose_blocks", lambda net, num, costs, parts: seen.extend(map(len, parts)) or [])
    prune_channels(resnet(), Context(EXAMPLE, batches=[(part, None) for part in images(400).split(24)]), blocks=1)
    assert 256 <= sum(seen) < 256 + 24


def test_a_target_that_a_whole_net_nearly_meets_still_removes_channels():
    net = resnet()
    assert prune_channels(net, context(), macs=0.96, round_to=1)["layout"]


def test_blocks_are_not_chosen_without_images():
    with pytest.raises(BadInput, match="expected repair=none and blocks=0 where there are no training images"):
        prune_channels(resnet(), Context(EXAMPLE), blocks=1)


@pytest.mark.parametrize("name", ["fc", "layer2.0.conv1", "layer9", "", "layer1.0.__class__"])
def test_a_file_cannot_remove_anything_else(name):
    with pytest.raises(BadInput, match="is not a residual block with an identity shortcut"):
        replay(resnet(), {"pass": "prune_channels", "blocks": [name]})
