import math

import pytest
import torch

from zoo.models.init import fans, initialise
from zoo.models.lenet import C3_TABLE, LeNet5, LeNet5Caffe, LeNet300, TableConv2d
from zoo.models.vit import Attention, ViT

LAYER = torch.nn.Conv2d(64, 128, 3, groups=2)  # fan-in 32 · 9, fan-out 64 · 9
VARIANCES = {"he": 2 / 288, "glorot": 2 / (288 + 576), "lecun": 1 / 288}


@pytest.mark.parametrize("scheme", VARIANCES)
def test_variance_is_the_papers(scheme):
    torch.manual_seed(0)
    torch.nn.init.ones_(LAYER.bias)
    initialise(LAYER, scheme)
    assert LAYER.weight.var().item() == pytest.approx(VARIANCES[scheme], rel=0.02)
    assert not LAYER.bias.any()


def test_orthogonal_rows_are_orthogonal_and_of_length_root_two():
    layer = torch.nn.Linear(300, 100)
    initialise(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(100), atol=1e-4, rtol=0)


def test_paper_changes_nothing_and_norms_are_never_touched():
    net = ViT(192, 1, 3, image_size=32)
    before = {name: p.clone() for name, p in net.named_parameters()}
    initialise(net, "paper")
    assert all(p.equal(before[name]) for name, p in net.named_parameters())
    initialise(net, "lecun")
    same = {name for name, p in net.named_parameters() if p.equal(before[name])}
    weights = {name for name in before if name.endswith("weight") and "ln" not in name}
    assert not same & weights
    assert {"class_token", "encoder.pos_embedding"} <= same
    assert all(name in same for name in before if ".ln" in name)


def test_fans_count_connections():
    assert fans(LAYER, LAYER.weight) == (288, 576)
    attention = Attention(192, 3)
    assert fans(attention, attention.in_proj_weight) == (192, 576)
    sparse = TableConv2d(C3_TABLE, 5)
    assert fans(sparse, sparse.weight) == (60 / 16 * 25, 60 / 6 * 25)  # table I has 60 crosses


def test_lenets_start_as_their_papers_say():
    torch.manual_seed(0)
    net = LeNet5(c3="table", pooling="trainable", activation="scaled_tanh")
    c3, c5 = net.features[3], net.classifier[1]  # C3's maps read 3, 4 or 6 maps of 25 pixels, C5's units 400 values
    for place, num_maps in ((0, 3), (6, 4), (15, 6)):
        assert float(c3.weight[c3.outputs == place].detach().abs().max()) == pytest.approx(2.4 / 25 / num_maps, rel=0.1)
    assert float(c5.weight.detach().abs().max()) == pytest.approx(2.4 / 400, rel=0.01)
    ip1 = LeNet5Caffe().ip1  # fan-in 800, Caffe's xavier
    assert float(ip1.weight.detach().abs().max()) == pytest.approx(math.sqrt(3 / 800), rel=0.01)
    hidden = LeNet300().layers[1]
    assert float(hidden.weight.detach().abs().max()) == pytest.approx(784**-0.5, rel=0.01)
