"""Receptive fields compared with published ones, and with the pixels that a gradient reaches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.measure.layers import measure_layers
from zoo.measure.receptive_field import Field
from zoo.models.alexnet import AlexNet
from zoo.models.googlenet import GoogLeNet
from zoo.models.inception_v3 import InceptionV3
from zoo.models.lenet import LeNet5
from zoo.models.resnet import ResNet
from zoo.models.vgg import VGG
from zoo.models.vit import ViT

# Layer: receptive field, stride, padding (how far the first output's field begins before the image), from the table
# that Araujo, Norris, Sim published with "Computing receptive fields of convolutional neural networks" (Distill, 2019):
# RECEPTIVE_FIELD_TABLE.md in github.com/google-research/receptive_field. Theirs are TF-Slim's nets. Its AlexNet has no
# padding in the first layer, where ours has 2. Its ResNet has strides at the end of a stage, not at its start, so
# strides in between differ; according to its FAQ, receptive fields do not.
ALEXNET = {
    0: (11, 4, 0),
    2: (19, 8, 0),
    3: (51, 8, 16),
    6: (99, 16, 32),
    8: (131, 16, 48),
    10: (163, 16, 64),
    12: (195, 32, 64),
}
VGG_16 = {
    0: (3, 1, 1),
    4: (6, 2, 2),
    5: (10, 2, 4),
    9: (16, 4, 6),
    10: (24, 4, 10),
    12: (32, 4, 14),
    16: (44, 8, 18),
    17: (60, 8, 26),
    19: (76, 8, 34),
    23: (100, 16, 42),
    24: (132, 16, 58),
    26: (164, 16, 74),
    30: (212, 32, 90),
}
RESNET_50 = {"layer1": 35, "layer2": 99, "layer3": 291, "layer4": 483}
INCEPTION_V3 = {
    "Conv2d_1a_3x3": (3, 2, 0),
    "Conv2d_2b_3x3": (11, 2, 2),
    "maxpool1": (15, 4, 2),
    "maxpool2": (31, 8, 2),
    "Mixed_5b": (63, 8, 18),
    "Mixed_5d": (127, 8, 50),
    "Mixed_6b": (351, 16, 154),
    "Mixed_6e": (927, 16, 442),
    "Mixed_7b": (1183, 32, 554),
    "Mixed_7c": (1311, 32, 618),
}


def fields(net, px, within=""):
    """Return (size, stride, padding) of each layer with such a prefix; of several branches, the largest."""
    found = [layer.field[1] for layer in measure_layers(net, (3, px, px)) if f"{layer.name}.".startswith(f"{within}.")]
    largest = max(found, key=lambda field: field.size)
    return largest.size, largest.stride, -largest.start


@pytest.mark.parametrize("layer", ALEXNET)
def test_alexnets_are_the_published_ones(layer):
    size, stride, padding = fields(AlexNet(), 224, f"features.{layer}")
    assert (size, stride, padding - 2) == ALEXNET[layer]


@pytest.mark.parametrize("layer", VGG_16)
def test_vgg_16s_are_the_published_ones(layer):
    with torch.device("meta"):
        net = VGG(16)
    assert fields(net, 224, f"features.{layer}") == VGG_16[layer]


def test_vgg_16s_first_linear_layer_sees_404_px():
    """Long et al., "Fully convolutional networks", 2014, table 1."""
    with torch.device("meta"):
        net = VGG(16)
    assert fields(net, 224, "classifier.0")[:2] == (404, 32)


@pytest.mark.parametrize("stage", RESNET_50)
def test_resnet_50s_are_the_published_ones(stage):
    net = ResNet("bottleneck", [3, 4, 6, 3], [64, 128, 256, 512], stride_on="1x1")
    assert fields(net, 224, stage)[0] == RESNET_50[stage]


def test_resnet_50_as_published_weights_have_it_sees_less():
    """With its strides on the 3×3: 7 + 2·2, then 4·2·3 | 4·2 + 8·2·3 | 8·2 + 16·2·5 | 16·2 + 32·2·2 for the stages."""
    net = ResNet("bottleneck", [3, 4, 6, 3], [64, 128, 256, 512])
    assert fields(net, 224, "layer4")[0] == 7 + 4 + 24 + 8 + 48 + 16 + 160 + 32 + 128 == 427


def test_googlenets_are_those_of_its_table_1():
    """Computed from the paper's table, as in github.com/pasumarthi/EVA (Session7/Readme.md) and elsewhere."""
    net = GoogLeNet(kernel_5x5=True)
    expected = {"conv3": 19, "maxpool2": 27, "inception3a": 59, "inception3b": 91, "maxpool3": 107, "inception4a": 171}
    expected |= {"inception4e": 427, "maxpool4": 459, "inception5a": 587, "inception5b": 715, "avgpool": 907}
    assert {name: fields(net, 224, name)[0] for name in expected} == expected


def test_inception_v3s_are_the_published_ones():
    net = InceptionV3()
    assert {name: fields(net, 299, name) for name in INCEPTION_V3} == INCEPTION_V3


def test_attention_sees_the_whole_image_and_a_patch_sees_itself():
    net = ViT(32, 2, 2)
    assert fields(net, 224, "conv_proj") == (16, 16, 0)
    assert fields(net, 224, "encoder.layers.encoder_layer_1.mlp")[0] == 224


class Averages(torch.overrides.TorchFunctionMode):
    """Average pooling in place of max pooling, so that every position of a window counts."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.max_pool2d, torch.max_pool2d):
            kwargs = {k: v for k, v in (kwargs or {}).items() if k not in ("dilation", "return_indices")}
            return F.avg_pool2d(args[0], *args[1:4], **kwargs)
        return func(*args, **(kwargs or {}))


def probed(net, layer, px):
    """Return the first and last row and column of the pixels that reach the centre of a layer's output."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            nn.init.constant_(parameter, 1 / parameter[0].numel())  # so that paths add up and never cancel
    seen = []
    net.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    image = torch.ones(1, 3, px, px, requires_grad=True)
    with Averages():
        net.eval()(image)
    height, width = seen[0].shape[2:]
    seen[0][0, :, height // 2, width // 2].sum().backward()
    reached = image.grad[0].abs().sum(0) > 0
    rows, columns = (reached.any(axis).nonzero() for axis in (1, 0))
    return (height // 2, width // 2), (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


NARROW = [1, 2, 2, 2]
PROBES = {
    "lenet5": (lambda: LeNet5(3, image_size=64), "features.5", 64),
    "alexnet": (lambda: AlexNet(image_size=224), "features.12", 352),
    "vgg16": (lambda: nn.Sequential(VGG(16).features), "0.30", 288),
    "resnet18": (lambda: ResNet("basic", [2] * 4, NARROW), "layer4", 576),
    "resnet50": (lambda: ResNet("bottleneck", [3, 4, 6, 3], NARROW, stride_on="1x1"), "layer4", 608),
    "resnet50-v1.5": (lambda: ResNet("bottleneck", [3, 4, 6, 3], NARROW), "layer4.2", 608),
    "resnet-v2-pad": (
        lambda: ResNet("basic", [2] * 3, [4, 8, 16], shortcut="pad", preactivation=True),
        "layer3.1",
        320,
    ),
    "googlenet": (lambda: GoogLeNet(kernel_5x5=True), "inception4c", 448),
    "inception_v3": (lambda: InceptionV3(), "Mixed_6a", 320),
}


@pytest.mark.parametrize("name", PROBES)
def test_gradients_reach_just_the_closed_form(name):
    make, layer, px = PROBES[name]
    torch.manual_seed(0)
    net = make()
    size, stride, padding = fields(net, px, layer)
    places, reached = probed(net, layer, px)
    expected = []
    for place in places:
        first = place * stride - padding
        expected += [max(first, 0), min(first + size, px) - 1]
    assert size < px, "the image should hold the whole field, so that padding hides nothing"
    assert reached == tuple(expected)


def test_offset_is_the_middle_of_what_the_first_output_sees():
    assert Field().window(3, padding=1).offset == 0
    assert Field().window(2, stride=2).offset == 0.5
    assert Field(size=5).joined(Field(start=-3, size=3)) == Field(-3, 8)
