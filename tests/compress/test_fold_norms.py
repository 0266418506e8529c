import copy

import pytest
import torch
from small import MobileNet, tiny
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.compress.fold_norms import folded, unfold, with_short_vectors


def drawn(net):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "bn.weight")) or "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval()


@pytest.mark.parametrize("make", [tiny, MobileNet])
def test_a_folded_net_computes_the_same(make):
    net = drawn(make())
    images = torch.rand(3, 1, 28, 28)
    expected = net(images)
    new = folded(net, net.state_dict())
    net.load_state_dict({**net.state_dict(), **new})
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any(), name
            assert len(module.running_var.unique()) == 1
            assert int(module.num_batches_tracked) == 0


@pytest.mark.parametrize("make", [tiny, MobileNet])
@torch.no_grad()
def test_unfolded_it_computes_the_same_and_can_be_trained(make):
    net = drawn(make())
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    expected = net(images)
    net.load_state_dict({**net.state_dict(), **folded(net, net.state_dict())})
    off = float((copy.deepcopy(net).train()(images) - expected).abs().max())
    net.train()
    unfold(net, [(images[:40],), (images[40:],)])
    assert all(module.training for module in net.modules())
    trained = net(images)  # with the statistics of the batch, here of the same images
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert off > 0.01 * float(expected.abs().max())  # while folded, training would have begun elsewhere


@torch.no_grad()
def test_statistics_are_those_that_torch_measures():
    norm = nn.BatchNorm2d(3, momentum=None)
    images = torch.randn(50, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    norm(images)
    other = nn.BatchNorm2d(3)
    unfold(nn.Sequential(other), [(images[:20],), (images[20:],)])
    torch.testing.assert_close(other.running_mean, norm.running_mean)
    torch.testing.assert_close(other.running_var, norm.running_var * 999 / 1000)  # torch's is that of a sample


@torch.no_grad()
def test_norms_of_heads_for_training_only_stay_as_they_are():
    net = nn.Sequential(nn.BatchNorm2d(3))
    net[0].register_module("unused", nn.BatchNorm2d(3))
    unfold(net, [(torch.randn(9, 3, 2, 2),)])
    assert net[0].running_mean.any()
    assert not net[0].unused.running_mean.any()


def test_it_is_the_fusion_of_torch():
    norm = nn.BatchNorm2d(4).eval()
    for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        tensor.uniform_(0.5, 2)
    weight = torch.ones(4, 1, 1, 1)
    scale, bias = fuse_conv_bn_weights(
        weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    new = folded(nn.Sequential(norm), nn.Sequential(norm).state_dict())
    torch.testing.assert_close(new["0.weight"], scale.flatten().detach())
    torch.testing.assert_close(new["0.bias"], bias.detach())


def test_a_norm_without_weights_or_statistics_stays_as_it_is():
    net = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False), nn.LayerNorm(4))
    assert folded(net, net.state_dict()) == {}


@pytest.mark.parametrize("bits", [1, 4, 23])
def test_vectors_keep_some_bits_of_mantissa_and_matrices_all(bits):
    values = torch.tensor([0.0, 1.0, -3.14159, 1e-30, 7e20, 0.1])
    found = with_short_vectors({"bias": values, "weight": values[None], "count": torch.tensor(7)}, bits)
    error = ((found["bias"] - values) / values).nan_to_num().abs().max()
    assert error <= 2.0 ** -(bits + 1)
    unused = (1 << 23 - bits) - 1
    assert not (found["bias"].view(torch.int32) & unused).any()
    assert torch.equal(found["weight"], values[None])
    assert found["count"] == 7
