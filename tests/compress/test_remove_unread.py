import copy

import pytest
import torch
from small import MobileNet
from torch import nn

from zoo.compress.recipe import replay
from zoo.compress.remove_unread import remove_unread
from zoo.models.lenet import LeNet5Caffe, LeNet300
from zoo.models.resnet import ResNet
from zoo.models.vgg import VGG
from zoo.models.vit import ViT
from zoo.records.steps import check_step

NETS = {
    "lenet300": lambda: LeNet300(),
    "lenet5_caffe": lambda: LeNet5Caffe(),
    "vgg": lambda: VGG(11, in_channels=1, num_classes=10, image_size=32, batch_norm=True),
    "resnet": lambda: ResNet("basic", [1, 1], [8, 16], 1, 10, 28),
    "padded": lambda: ResNet("basic", [1, 1], [8, 16], 1, 10, 28, shortcut="pad"),
    "mobilenet": lambda: MobileNet(),
}
SIZES = {"vgg": 32}


def example_of(name):
    size = SIZES.get(name, 28)
    return torch.empty(1, 1, size, size, device="meta")


@pytest.mark.parametrize("name", NETS)
def test_the_net_computes_the_same_without_the_channels_that_nothing_reads(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    whole = copy.deepcopy(net)
    with torch.no_grad():  # a third of the inputs of each layer but the first is not read
        for module in [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)][1:]:
            if getattr(module, "groups", 1) == 1:
                unread = torch.arange(module.weight.shape[1]) % 3 == 1
                if module.weight.ndim == 2 and module.weight.shape[1] >= 500:  # after flattened maps
                    places = module.weight.shape[1] // 50 if name == "lenet5_caffe" else 1
                    unread = (torch.arange(module.weight.shape[1]) // places) % 3 == 1
                module.weight[:, unread] = 0
    images = torch.randn(3, *example_of(name).shape[1:])
    expected = net(images)
    step = remove_unread(net, (example_of(name),))
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)
    assert step["macs"] < 0.8 * step["macs_before"]
    check_step(step)
    replay(whole, [step])
    assert {k: v.shape for k, v in whole.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}


def test_an_earlier_channel_that_only_an_unread_one_reads_goes_too():
    torch.manual_seed(0)
    net = LeNet300().eval()
    with torch.no_grad():
        net.layers[5].weight[:, 10:] = 0  # the last layer reads ten of 100 units,
        net.layers[3].weight[:10, 20:] = 0  # which read 20 of 300
    step = remove_unread(net, (torch.empty(1, 1, 28, 28, device="meta"),))
    assert [tuple(p.shape) for p in net.parameters() if p.ndim > 1] == [(20, 784), (10, 20), (10, 10)]
    assert step["macs"] == 20 * 784 + 10 * 20 + 10 * 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: LeNet300(),
        lambda: ViT(16, 1, 2, patch_size=7, in_channels=1, num_classes=10, image_size=28),
        lambda: ResNet("basic", [1], [4], 1, 10, 28),
    ],
)
def test_a_net_all_of_whose_channels_are_read_stays_as_it_is(make):
    torch.manual_seed(0)
    net = make()
    before = copy.deepcopy(net.state_dict())
    assert remove_unread(net, (torch.empty(1, 1, 28, 28, device="meta"),)) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_layer_of_which_nothing_is_read_keeps_one_channel():
    torch.manual_seed(0)
    net = LeNet300().eval()
    with torch.no_grad():
        net.layers[5].weight.zero_()
    images = torch.randn(2, 1, 28, 28)
    expected = net(images)
    remove_unread(net, (torch.empty(1, 1, 28, 28, device="meta"),))
    torch.testing.assert_close(net(images), expected)
    assert net.layers[5].weight.shape == (10, 1)
