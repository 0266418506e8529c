"""Graphs of nets, compared with the figures of their papers and with torch.export."""

import pytest
import torch
from conftest import composed, inputs_of
from torch import nn

from zoo.measure.graph import follow
from zoo.models.lenet import LeNet5
from zoo.run.model import build_bare_model


def graph_of(model, data):
    cfg = composed(model, data)
    net = build_bare_model(cfg.model)
    inputs = inputs_of(cfg, 1)
    return net, inputs, follow(net, tuple(x.to("meta") for x in inputs))


@pytest.mark.parametrize(
    ("model", "kind", "number"),
    [
        ("resnet18", "add", 8),  # blocks of two layers
        ("googlenet", "cat", 9),  # inception modules
        ("vit_tiny", "scaled_dot_product_attention", 12),  # layers
        ("transformer", "scaled_dot_product_attention", 3 + 2 * 2),  # encoder layers, and two per decoder layer
    ],
)
def test_it_has_as_many_of_what_makes_the_net_as_its_paper_and_config_say(model, kind, number):
    _, _, operations = graph_of(model, "reverse" if model == "transformer" else "cifar10")
    assert [o.kind for o in operations].count(kind) == number
    assert len({o.name for o in operations}) == len(operations)
    for i, operation in enumerate(operations):  # each takes outputs of earlier ones
        assert set(operation.inputs) <= {o.name for o in operations[:i]}
    read = {name for o in operations for name in o.inputs}
    assert [o.name for o in operations if o.name not in read] == ["output"]


def test_its_layers_and_shapes_are_those_of_torch_export():
    net, inputs, operations = graph_of("resnet20", "mnist_5k")
    exported = torch.export.export(net.eval(), inputs).graph.nodes
    kinds = {"Conv2d": "conv2d", "BatchNorm2d": "batch_norm", "Linear": "linear", "ReLU": "relu"}
    for ours, theirs in kinds.items():
        shapes = [tuple(n.meta["val"].shape) for n in exported if n.op == "call_function" and theirs in n.name]
        assert [o.shape for o in operations if o.kind == ours] == shapes


def test_a_layer_that_writes_into_its_input_is_seen_and_one_that_does_nothing_is_not():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4, 2))
    names = [o.name for o in follow(net, (torch.empty(1, 3, device="meta"),))]
    assert names == ["input", "Sequential/0_Linear", "Sequential/1_ReLU", "Sequential/3_Linear", "output"]


def test_the_net_and_the_random_state_are_left_as_they_were():
    net = LeNet5().train()
    before, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    follow(net, (torch.empty(1, 1, 32, 32, device="meta"),))
    assert net.training
    assert all(p.equal(b) for p, b in zip(net.parameters(), before, strict=True))
    assert torch.get_rng_state().equal(state)
