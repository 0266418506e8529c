import math
from typing import get_args

import pytest
import torch
from conftest import CONFIGS, composed, inputs_of, options

from zoo.catalogue import matches
from zoo.models.activations import Activation, Maxout, ScaledTanh, make_activation
from zoo.run.model import build_bare_model


def one_a_class() -> list[str]:
    """Return the first model config of each class of nets."""
    first = {}
    for model in options("model"):
        first.setdefault((CONFIGS / "model" / f"{model}.yaml").read_text().split("_target_:")[1].split()[0], model)
    return list(first.values())


NAMES = get_args(Activation)
PAIRS = matches()


def elu(x, alpha=1.0):
    return x if x > 0 else alpha * (math.exp(x) - 1)


FORMULAS = {  # from the papers
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: max(x, 0.01 * x),
    "prelu": lambda x: max(x, 0.25 * x),  # its slope starts at 0.25
    "elu": elu,
    "selu": lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "scaled_tanh": lambda x: 1.7159 * math.tanh(x * 2 / 3),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
}


@pytest.mark.parametrize("x", [-0.5, 0.5])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_name_is_the_function_of_its_paper(name, x):
    assert make_activation(name)(torch.tensor([x])).item() == pytest.approx(FORMULAS[name](x), rel=1e-5)


def test_no_name_is_left_out():
    assert {*FORMULAS, "maxout"} == set(NAMES)


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
def test_every_net_that_leaves_the_choice_free_takes_every_activation(model, name):
    whole = composed(model, "mnist_5k" if (model, "mnist_5k") in PAIRS else "reverse")
    cfg = whole.model
    if "activation" not in cfg:
        assert model in ("airbench", "lenet5_caffe", "lstm_seq2seq")  # their activation is part of their definition
        return
    cfg.activation = name
    with torch.device("meta"):
        if name == "maxout" and "resnet" in model:
            with pytest.raises(Exception, match="activation=maxout would halve the maps"):
                build_bare_model(cfg)
            return
        net = build_bare_model(cfg).eval()
        assert len(net(*(x.to("meta") for x in inputs_of(whole, 2)))) == 2
    kinds = {type(m) for m in net.modules()}
    assert type(make_activation(name)) in kinds
    assert name == "relu" or torch.nn.ReLU not in kinds
