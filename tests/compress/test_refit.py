"""After channels are removed, layers are refitted to the dense net, and norms measured again, before training."""

import copy

import numpy as np
import pytest
import torch
from small import tiny
from torch import nn

from zoo.compress import refit as refit_module
from zoo.compress.channel_cutting import places_lost, remove
from zoo.compress.context import Context
from zoo.compress.dependencies import groups_of, shadow_of
from zoo.compress.prune_channels import prune_channels
from zoo.compress.refit import refit
from zoo.errors import BadInput
from zoo.models.lenet import LeNet5, LeNet300

IMAGE = (torch.empty(1, 1, 28, 28, device="meta"),)


def half_of(net, image):
    """Return a copy of the net with the first half of the channels of each group, and the places that it has lost."""
    example = (image.to("meta"),)
    groups = groups_of(net, shadow_of(net), example, lambda found: -torch.arange(float(len(found[0].idxs))))
    kept = [len(group.score) // 2 for group in groups]
    half = copy.deepcopy(net)
    remove(half, groups, kept)
    return half, places_lost(groups, kept)


def test_a_refit_is_the_least_squares_solution_of_numpy(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(refit_module, "RIDGE", 1e-12)
    dense = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
    net[0].weight.data, net[0].bias.data = dense[0].weight.data[:4], dense[0].bias.data[:4]
    images = torch.randn(200, 8)
    lost = {("0", "out"): torch.tensor([4, 5]), ("2", "in"): torch.tensor([4, 5])}
    with torch.no_grad():
        x, y = net[1](net[0](images)), dense(images)
    refit(net, dense, lost, list(images.split(64)))
    solution, *_ = np.linalg.lstsq(np.c_[x.numpy(), np.ones(200)], y.numpy(), rcond=None)
    np.testing.assert_allclose(net[2].weight.detach().numpy(), solution[:4].T, atol=1e-4)
    np.testing.assert_allclose(net[2].bias.detach().numpy(), solution[4], atol=1e-4)


def test_so_is_that_of_a_convolution_in_groups_with_a_stride(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(refit_module, "RIDGE", 1e-12)
    dense = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)).eval()
    net = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)).eval()
    images = torch.randn(20, 4, 7, 7)
    stays = [0, 1, 3, 5]
    lost = {("0", "out"): torch.tensor([2, 4]), ("0", "in"): torch.tensor([])}
    refit(net, dense, lost, [images])
    torch.testing.assert_close(net[0].weight, dense[0].weight[stays], rtol=1e-4, atol=1e-4)


def with_multiples(net):
    """Make the second half of each hidden layer's outputs multiples of the first, also after norms and ReLU."""
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in layers)
    for module in layers[:-1]:
        for name, tensor in module.state_dict().items():
            if tensor.ndim:
                half = len(tensor) // 2
                scales = name in ("weight", "bias") and (isinstance(module, nn.BatchNorm2d) or not has_norms)
                factor = torch.linspace(0.5, 2, half) if scales else torch.ones(half)
                tensor[half:] = tensor[:half] * factor.view(-1, *[1] * (tensor.ndim - 1))
    return net


@pytest.mark.parametrize(
    ("make", "px", "num"),
    [(LeNet300, 28, 320), (tiny, 28, 64), (lambda: LeNet5(image_size=16), 16, 320)],
    ids=["linear", "residual", "flattened"],
)
def test_channels_that_are_multiples_of_others_can_go_and_change_nothing(make, px, num, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(refit_module, "RIDGE", 1e-10)
    dense = with_multiples(make()).eval()
    images = torch.randn(num, 1, px, px)
    net, lost = half_of(dense, images[:1])
    with torch.no_grad():
        assert (net(images) - dense(images)).abs().max() > 0.01
        refit(net, dense, lost, [images])  # more than a layer has inputs
        torch.testing.assert_close(net(images), dense(images), rtol=1e-4, atol=1e-4)


def test_each_step_of_the_repair_is_measured_and_brings_the_net_nearer_to_the_dense_one():
    dense = tiny()
    net = copy.deepcopy(dense).train()
    images = torch.randn(128, 1, 28, 28)
    with torch.no_grad():
        expected = dense(images)

    def accuracy(part):
        assert not part.training
        with torch.no_grad():
            return float((part(images) - expected).square().mean())  # in place of an accuracy

    context = Context(IMAGE, [(images, None)], accuracy=accuracy)
    step = prune_channels(net, context, ratio=0.5, repair="refit")
    assert net.training
    errors = step["accuracy"]
    assert list(errors) == ["before", "cut", "norms", "refit"]
    assert errors["before"] == 0
    assert errors["refit"] < min(errors["norms"], errors["cut"])
    assert errors["refit"] == accuracy(net.eval())


def test_norms_are_those_of_the_activations_of_the_net_that_is_left():
    net, images = tiny(), torch.randn(64, 1, 28, 28)
    prune_channels(net, Context(IMAGE, [(images, None)]), ratio=0.5, repair="norms")
    with torch.no_grad():
        first = net.conv1(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.bn1.running_mean, first.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.bn1.running_var, first.var(1), rtol=1e-4, atol=1e-5)


def test_without_a_repair_the_net_is_what_is_left_of_the_dense_one():
    dense = tiny()
    net = copy.deepcopy(dense).train()
    step = prune_channels(net, Context(IMAGE, accuracy=lambda part: 0.5), ratio=0.5, repair="none")
    assert step["accuracy"] == {"before": 0.5, "cut": 0.5}
    assert net.training
    rows = {tuple(row) for row in dense.conv1.weight.flatten(1).tolist()}
    assert {tuple(row) for row in net.conv1.weight.flatten(1).tolist()} < rows


def test_no_images_are_refused():
    with pytest.raises(BadInput, match="expected repair=none"):
        prune_channels(tiny(), Context(IMAGE), ratio=0.5, repair="norms")
