"""Nets for images that are not square: torchvision's with the same weights where it has them, for the same input."""

import pytest
import torch
import torchvision
from conftest import exchange_weights

import zoo
from zoo.measure.counts import count_macs, count_parameters
from zoo.models.airbench import AirBench
from zoo.models.vit import ViT

CLASSES = (
    "alexnet",
    "googlenet",
    "inception_v3",
    "lenet5",
    "lenet5_caffe",
    "lenet300",
    "resnet20",
    "vgg11",
    "vit_tiny",
)
SLOW = ("alexnet", "googlenet", "inception_v3", "vgg11")  # many weights
THEIRS = {"resnet18": (64, 96), "vgg11": (64, 96), "alexnet": (64, 128), "googlenet": (64, 96)}
THEIRS["inception_v3"] = (107, 75)


def create(name, size, **settings):
    torch.manual_seed(0)
    return zoo.create_model(name, num_classes=7, in_channels=3, image_size=size, **settings).eval()


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in THEIRS])
def test_logits_are_torchvisions_with_the_same_weights(name):
    size, settings = THEIRS[name], {}
    if name in ("googlenet", "inception_v3"):
        settings = {"init_weights": False, "aux_logits": True, "transform_input": False}
    net, theirs = create(name, size, stem="large"), getattr(torchvision.models, name)(num_classes=7, **settings)
    exchange_weights(net, theirs)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(images), theirs.eval()(images), atol=1e-4, rtol=0)


def test_a_pair_of_equal_numbers_is_the_one_number():
    for name, size in (("resnet20", 64), ("resnet20", 65), ("lenet5", 28), ("lenet5_caffe", 28), ("lenet300", 28)):
        net, other = create(name, size), create(name, (size, size))
        images = torch.randn(1, 3, size, size)
        assert torch.equal(net(images), other(images))
    with torch.device("meta"):
        assert str(create("vit_tiny", 32)) == str(create("vit_tiny", (32, 32)))


@pytest.mark.parametrize("name", CLASSES)
def test_every_net_with_the_setting_takes_them_also_in_training(name):
    with torch.device("meta"):
        logits = create(name, (96, 160)).train()(torch.empty(2, 3, 96, 160))
    assert getattr(logits, "main", logits).shape == (2, 7)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012", "inception_v3"])
def test_the_least_size_is_computed(name):
    with torch.device("meta"):
        assert create(name, (15, 40))(torch.empty(1, 3, 15, 40)).shape == (1, 7)


def test_a_lenet_has_weights_for_each_place():
    # Two rounds of a 5x5 convolution and 2x2 pooling leave 5 x 13 px of 32 x 64.
    assert create("lenet5", (32, 64)).classifier[1].in_features == 16 * 5 * 13
    assert create("lenet5_caffe", (32, 64)).ip1.in_features == 50 * 5 * 13
    assert create("lenet300", (20, 30)).layers[1].in_features == 3 * 20 * 30
    assert create("lenet5", (28, 28)).features[0].padding == (2, 2)
    assert create("lenet5", (28, 60)).features[0].padding == (0, 0)


def test_a_vit_has_a_position_for_each_patch_of_the_grid():
    net = ViT(16, 1, 2, patch_size=16, image_size=(96, 160))
    assert net.map_size == (6, 10)
    assert net.encoder.pos_embedding.shape == (1, 6 * 10 + 1, 16)
    macs = count_macs(net, (3, 96, 160))
    assert macs > count_macs(ViT(16, 1, 2, patch_size=16, image_size=96), (3, 96, 96))


def test_airbench_has_no_weights_for_places():
    net = AirBench(in_channels=3, num_classes=7)
    assert net(torch.randn(1, 3, 32, 64)).shape == (1, 7)
    assert count_parameters(net) == count_parameters(zoo.create_model("airbench", num_classes=7, in_channels=3))


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("resnet18", (1, 2, 3), r"^model\.image_size: expected a whole number .* got \[1, 2, 3\]$"),
        ("resnet18", (64, 0), r"^model\.image_size: .*\(height, width\), got \[64, 0\]$"),
        ("resnet18", (64, -1), r"^model\.image_size: .* got \[64, -1\]$"),
        ("resnet18", (64, 2.5), r"^model\.image_size: .* got \[64, 2\.5\]$"),
        ("resnet18", (True, 64), r"^model\.image_size: .* got \[True, 64\]$"),
        ("resnet18", "64x96", r"^model\.image_size: .* got '64x96'$"),
        ("lenet5", (12, 60), r"^model: image_size=\[12, 60\] is too small .* at least 16 px"),
        ("alexnet", (14, 60), r"^model: image_size=\[14, 60\] is too small for this net; use at least 15 px$"),
        ("inception_v3", (60, 14), r"^model: image_size=\[60, 14\] is too small for this net; use at least 15 px$"),
        ("vit_base", (96, 100), r"^model: image_size=\[96, 100\] must be a multiple of patch_size=16"),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence(name, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        create(name, size)
    with pytest.raises(ValueError, match=r"image_size=63 or more, got \[50, 90\]"):
        create("alexnet", (50, 90), stem="large")
