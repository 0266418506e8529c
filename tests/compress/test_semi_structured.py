"""2:4 sparsity: the two smallest of four are removed where sparse kernels apply, and nowhere else."""

import pytest
import torch
from conftest import composed, inputs_of
from torch import nn

from zoo.compress.context import Context
from zoo.compress.semi_structured import mask_of, semi_structured, use_sparse_kernels
from zoo.errors import BadInput
from zoo.run.model import build_bare_model


def half_pruned(model, data):
    cfg = composed(model, data)
    net = build_bare_model(cfg.model)
    return net, semi_structured(net, Context(tuple(x.to("meta") for x in inputs_of(cfg, 1)))), inputs_of(cfg, 2)


def test_the_two_largest_of_each_four_stay():
    weight = torch.tensor([[1.0, -3, 2, 0.5, 4, 4, 4, 4], [0, 0, 0, 0, -1, 0, 0, 7]])
    assert mask_of(weight).int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 0, 1]]
    draw = torch.randn(64, 128)
    fours, kept = draw.unflatten(1, (-1, 4)).abs(), (draw * mask_of(draw)).unflatten(1, (-1, 4)).abs()
    assert kept.sort(2).values[..., 2:].equal(fours.sort(2).values[..., 2:])
    assert not kept.sort(2).values[..., :2].any()


@pytest.mark.parametrize(
    ("model", "data", "layers"),
    [
        ("vgg11", "fashion_mnist", ["classifier.0", "classifier.3"]),
        ("alexnet", "fashion_mnist", ["classifier.1", "classifier.4"]),
        ("vit_tiny", "fashion_mnist", 3 * 12),
        ("transformer", "cmudict", 3 * (1 + 2) + 2 * (2 + 2)),
    ],
)
def test_half_of_each_fitting_linear_layer_is_zero_and_nothing_else(model, data, layers):
    net, step, inputs = half_pruned(model, data)
    assert step["layers"] == layers or len(step["layers"]) == layers
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            zeros = float((module.weight == 0).float().mean())
            assert zeros == pytest.approx(0.5 if name in step["layers"] else 0.0, abs=1e-3), name
        elif isinstance(module, nn.Conv2d):
            assert (module.weight != 0).float().mean() > 0.999  # a few are initialised to 0
    assert net.eval()(*inputs).isfinite().all()


@pytest.mark.parametrize("model", ["lenet5", "lenet5_caffe", "resnet20", "googlenet"])
def test_a_net_without_a_fitting_linear_layer_is_refused(model):
    with pytest.raises(BadInput, match="has none here"):
        half_pruned(model, "mnist_5k")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("model", "data"), [("vit_tiny", "fashion_mnist"), ("vgg11", "fashion_mnist")])
def test_sparse_kernels_give_what_dense_ones_give_in_fp16(model, data):
    net, step, inputs = half_pruned(model, data)
    net, inputs = net.cuda().eval(), tuple(x.cuda() for x in inputs)
    with torch.inference_mode():
        wanted = net.half()(*(x.half() for x in inputs))
        assert use_sparse_kernels(net) == len(step["layers"])
        torch.testing.assert_close(net(*inputs), wanted, rtol=0.02, atol=0.02)
