import pytest
import torch
from torch import nn

from zoo.models.alexnet import AlexNet
from zoo.models.fully_convolutional import to_fully_convolutional
from zoo.models.lenet import LeNet5
from zoo.models.resnet import ResNet
from zoo.models.vgg import VGG

NETS = {
    "lenet5": (lambda: LeNet5(image_size=32), (1, 32), 4),
    "lenet5-maxout": (lambda: LeNet5(image_size=32, activation="maxout"), (1, 32), 4),
    "lenet5-table": (lambda: LeNet5(image_size=32, c3="table", pooling="trainable"), (1, 32), 4),
    "alexnet": (lambda: AlexNet(num_classes=10), (3, 224), 32),
    "vgg11": (lambda: VGG(11, num_classes=10, image_size=32), (3, 32), 32),
    "vgg11-64px": (lambda: VGG(11, num_classes=10, image_size=64), (3, 64), 64),
}


@pytest.mark.parametrize("name", NETS)
def test_at_its_own_size_it_is_the_net(name):
    make, (channels, px), _ = NETS[name]
    net = make().eval()
    images = torch.randn(2, channels, px, px)
    with torch.inference_mode():
        scores = to_fully_convolutional(net, (channels, px, px))(images)
        torch.testing.assert_close(scores, net(images)[:, :, None, None], atol=1e-5, rtol=1e-5)


def without_padding(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    return net


@pytest.mark.parametrize("name", ["lenet5", "lenet5-maxout", "lenet5-table"])
def test_a_larger_image_gives_what_cropping_gives(name):
    make, (channels, px), stride = NETS[name]
    net = make().eval()
    image = torch.randn(1, channels, px + 2 * stride, px + stride)
    with torch.inference_mode():
        scores = to_fully_convolutional(net, (channels, px, px))(image)
        assert scores.shape == (1, 10, 3, 2)
        for row in range(3):
            for column in range(2):
                crop = image[:, :, row * stride :, column * stride :][:, :, :px, :px]
                torch.testing.assert_close(scores[:, :, row, column], net(crop), atol=1e-5, rtol=1e-5)


def test_so_does_alexnet_where_nothing_is_padded():
    """With padding a crop sees zeros beyond its border; without it, an image of 355 px leaves 6 × 6 places."""
    net = without_padding(AlexNet(num_classes=10)).eval()
    px, stride = 355, 32
    image = torch.randn(1, 3, px + stride, px + stride)
    with torch.inference_mode():
        scores = to_fully_convolutional(net, (3, px, px))(image)
        assert scores.shape == (1, 10, 2, 2)
        for row in range(2):
            for column in range(2):
                crop = image[:, :, row * stride :, column * stride :][:, :, :px, :px]
                torch.testing.assert_close(scores[:, :, row, column], net(crop), atol=1e-4, rtol=1e-4)


def test_vgg_16s_head_becomes_a_convolution_of_7_by_7_with_4096_maps():
    with torch.device("meta"):
        convs = [m for m in to_fully_convolutional(VGG(16), (3, 224, 224)) if isinstance(m, nn.Conv2d)]
    assert [tuple(conv.weight.shape) for conv in convs] == [(4096, 512, 7, 7), (4096, 4096, 1, 1), (1000, 4096, 1, 1)]


def test_each_place_is_the_head_over_its_window_of_a_padded_nets_features():
    net = VGG(11, num_classes=10).eval()
    net.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, 10))  # the real one has 500 MB
    image = torch.randn(1, 3, 256, 224)
    with torch.inference_mode():
        features = net.features(image)  # 512 × 8 × 7
        scores = to_fully_convolutional(net, (3, 224, 224))(image)
        for row in range(2):
            expected = net.classifier(features[:, :, row : row + 7].flatten(1))
            torch.testing.assert_close(scores[:, :, row, 0], expected, atol=1e-5, rtol=1e-5)


def test_the_given_net_is_left_as_it_was():
    net = LeNet5()
    wide = to_fully_convolutional(net, (1, 32, 32))
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.zero_()
    assert net.classifier[1].weight.any()
    assert net.features[0].weight.any()


def test_a_net_of_another_make_is_refused():
    with pytest.raises(ValueError, match="ResNet has no linear head over a feature map"):
        to_fully_convolutional(ResNet("basic", [1], [8]), (3, 224, 224))


def test_an_uneven_pooling_is_refused():
    with (
        pytest.raises(ValueError, match="at 256 px, 8 × 8 features are pooled unevenly to 7 × 7"),
        torch.device("meta"),
    ):
        to_fully_convolutional(VGG(11), (3, 256, 256))
