import pytest
import torch
from small import MobileNet, tiny
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.compress.fold_norms import folded, with_short_vectors


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
