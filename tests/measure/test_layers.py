import pytest
import torch
from conftest import options
from torch import nn

from zoo.catalogue import catalogue
from zoo.measure.counts import count_macs, count_parameters
from zoo.measure.layers import measure_layers
from zoo.models.lenet import LeNet300
from zoo.models.vgg import TABLE, VGG
from zoo.models.vit import ViT
from zoo.run.model import build_bare_model


def test_vgg_16s_activations_are_the_sum_over_its_table():
    """One map of 224² pixels per convolution of stage 1, a quarter after each pooling, then three vectors."""
    with torch.device("meta"):
        layers = measure_layers(VGG(16), (3, 224, 224))
    values, side = 4096 + 4096 + 1000, 224
    for stage in TABLE[16]:
        values += sum(stage) * side**2 + stage[-1] * (side // 2) ** 2
        side //= 2
    values += 512 * 7 * 7  # the adaptive pooling copies its input
    assert sum(layer.activation_bytes for layer in layers) == 4 * values


def test_what_lies_in_the_memory_of_its_input_is_not_counted_again():
    layers = measure_layers(LeNet300(), (1, 28, 28))  # flattened, and two ReLUs in place
    assert sum(layer.activation_bytes for layer in layers) == 4 * (300 + 100 + 10)


def test_layers_of_vgg_16_have_the_papers_sizes():
    with torch.device("meta"):
        layers = {layer.name: layer for layer in measure_layers(VGG(16), (3, 224, 224))}
    first, fc6 = layers["features.0"], layers["classifier.0"]
    assert (first.window, first.output, first.params, first.macs) == (
        "3×3 same",
        (64, 224, 224),
        1_792,
        27 * 64 * 224**2,
    )
    assert (fc6.output, fc6.params, fc6.macs) == ((4096,), 4096 * (25088 + 1), 4096 * 25088)
    assert layers["features.4"].window == "2×2 /2 same"


def test_attention_is_counted_once_and_apart_from_its_projection():
    layers = {layer.name: layer for layer in measure_layers(ViT(192, 1, 3), (3, 224, 224))}
    own, projection = (layers[f"encoder.layers.encoder_layer_0.self_attention{part}"] for part in ("", ".out_proj"))
    assert projection.macs == 197 * 192 * 192
    assert own.macs == 197 * 192 * 3 * 192 + 2 * 197 * 197 * 192  # q, k and v; their products
    assert own.params == 3 * 192 * (192 + 1)


def test_a_module_that_is_called_twice_is_held_once():
    shared = nn.Conv2d(3, 3, 1)
    layers = measure_layers(nn.Sequential(shared, nn.ReLU(), shared), (3, 8, 8))
    assert [layer.params for layer in layers] == [12, 0, 0]
    assert [layer.macs for layer in layers] == [576, 0, 576]


def test_the_net_is_left_as_it_was():
    net = VGG(11, image_size=32)
    measure_layers(net, (3, 32, 32))
    assert net.training
    assert net.features[0].weight.device.type == "cpu"
    assert not net.features[0]._forward_hooks


@pytest.mark.parametrize("entry", list(catalogue()), ids=lambda entry: entry.name)
def test_layers_add_up_to_the_net_for_all_of_the_catalogue(entry):
    with torch.device("meta"):
        net = build_bare_model(entry.cfg.model)
    layers = measure_layers(net, entry.image_shape)
    only_in_training = sum(p.numel() for name, p in net.named_parameters() if name.startswith(("aux", "AuxLogits")))
    alone = sum(p.numel() for p in net.parameters(recurse=False))  # such as a class token, which belongs to no layer
    assert sum(layer.params for layer in layers) == count_parameters(net) - only_in_training - alone
    assert sum(layer.macs for layer in layers) == count_macs(net, entry.image_shape)
    assert entry.name in options("model")
