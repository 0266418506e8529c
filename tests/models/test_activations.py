import math
from typing import get_args

import pytest
import torch
from conftest import CONFIGS, options

from zoo.models.activations import Activation, Maxout, ScaledTanh, activate
from zoo.run import bare_net


def one_a_class() -> list[str]:
    """Give the first model config of each class of nets."""
    first = {}
    for model in options("model"):
        first.setdefault((CONFIGS / "model" / f"{model}.yaml").read_text().split("_target_:")[1].split()[0], model)
    return list(first.values())


NAMES = get_args(Activation)
VALUES_AT_HALF = {  # from the papers' formulas
    "relu": 0.5,
    "leaky_relu": 0.5,
    "prelu": 0.5,
    "elu": 0.5,
    "selu": 1.0507009873554805 * 0.5,
    "gelu": 0.5 * 0.5 * (1 + math.erf(0.5 / math.sqrt(2))),
    "silu": 0.5 / (1 + math.exp(-0.5)),
    "tanh": math.tanh(0.5),
    "scaled_tanh": 1.7159 * math.tanh(1 / 3),
    "sigmoid": 1 / (1 + math.exp(-0.5)),
    "softplus": math.log(1 + math.exp(0.5)),
}


@pytest.mark.parametrize("name", VALUES_AT_HALF)
def test_each_name_is_the_function_of_its_paper(name):
    assert activate(name)(torch.tensor([0.5])).item() == pytest.approx(VALUES_AT_HALF[name], rel=1e-6)


def test_no_name_is_left_out():
    assert {*VALUES_AT_HALF, "maxout"} == set(NAMES)


def test_tanh_is_scaled_as_appendix_a_says():
    assert ScaledTanh()(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1.0, -1.0], abs=1e-4)


@pytest.mark.parametrize("dim", [1, -1])
def test_maxout_gives_the_larger_of_each_pair_of_maps(dim):
    x = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    assert Maxout(dim)(x).tolist() == [[4.0, 3.0]]
    maps = torch.randn(2, 6, 5, 6)
    assert Maxout(dim)(maps).shape == ((2, 3, 5, 6) if dim == 1 else (2, 6, 5, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", one_a_class())
def test_every_net_that_leaves_the_choice_free_takes_every_activation(compose, model, name):
    cfg = compose(f"model={model}", "data=mnist_5k").model
    if "activation" not in cfg:
        assert model == "lenet5_caffe"  # which is what it is for being the same everywhere
        return
    cfg.activation = name
    with torch.device("meta"):
        if name == "maxout" and "resnet" in model:
            with pytest.raises(Exception, match="activation=maxout would halve the maps"):
                bare_net(cfg)
            return
        net = bare_net(cfg).eval()
        assert net(torch.empty(2, 1, 28, 28)).shape == (2, 10)
    kinds = {type(m) for m in net.modules()}
    assert type(activate(name)) in kinds
    assert name == "relu" or torch.nn.ReLU not in kinds
