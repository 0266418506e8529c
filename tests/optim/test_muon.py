import copy
import math

import pytest
import torch
from torch import nn

from zoo.models.resnet import ResNet
from zoo.optim.muon import Muon, orthogonalise
from zoo.tasks.base import parameter_groups


@pytest.mark.parametrize("shape", [(8, 27), (64, 9), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_keep_their_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix[None])[0]
    middle = u.T @ found @ vh.T  # diagonal if the directions are kept
    assert (middle - middle.diag().diag()).abs().max() < 1e-4
    clear = s > 0.05 * s[0]  # smaller ones need more iterations
    assert middle.diag()[clear].min() > 0.5
    assert middle.diag().max() < 1.3


@pytest.mark.parametrize("shape", [(24, 216), (216, 24), (40, 120)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-7])
def test_long_matrices_come_out_as_of_five_iterations_in_double_precision(shape, smallest):
    rank = min(shape)
    draw = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(size, rank, generator=draw, dtype=torch.float64))[0] for size in shape)
    values = torch.logspace(0, math.log10(smallest), rank, dtype=torch.float64)
    matrix = (left * values) @ right.T
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = orthogonalise(matrix.float()[None])[0].double()
    torch.testing.assert_close(found, (left * values) @ right.T, rtol=0, atol=1e-3 if smallest < 1e-6 else 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (40, 2, 3, 3)])
def test_filters_step_as_matrices_do_under_torchs_muon(shape, bf16):
    draw = torch.Generator().manual_seed(1)
    filters = nn.Parameter(torch.randn(shape, generator=draw))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    ours = Muon([filters], lr=0.05, momentum=0.9, weight_decay=0.1, bf16=bf16)
    theirs = torch.optim.Muon([matrix], lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(4):
        gradient = torch.randn(shape, generator=draw)
        filters.grad, matrix.grad = gradient, gradient.flatten(1)
        ours.step()
        theirs.step()
    moved = (matrix.detach() - filters.detach().flatten(1)).norm() / (4 * 0.05 * min(matrix.shape) ** 0.5)
    assert moved < 0.02  # theirs computes in bf16


@pytest.mark.parametrize("bf16", [False, True])
def test_a_copy_and_one_with_an_earlier_state_step_as_the_original(bf16):
    draw = torch.Generator().manual_seed(1)
    filters = nn.Parameter(torch.randn(8, 4, 3, 3, generator=draw))
    filters.grad = torch.randn(8, 4, 3, 3, generator=draw)
    original = Muon([filters], bf16=bf16)
    twin = copy.deepcopy(original)
    twin.param_groups[0]["params"][0].grad = filters.grad.clone()
    original.step()
    twin.step()
    assert twin.param_groups[0]["params"][0].equal(filters)
    state = original.state_dict()
    del state["param_groups"][0]["bf16"]  # as before there was the setting
    twin.load_state_dict(state)
    twin.step()


def test_all_else_steps_as_under_adamw():
    first, second = nn.Linear(5, 3), nn.Linear(5, 3)
    second.load_state_dict(first.state_dict())
    groups = [
        [{"params": [net.weight]}, {"params": [net.bias], "weight_decay": 0.0}] for net in (first, second)
    ]  # fmt: skip
    filters = nn.Parameter(torch.zeros(1, 1, 1, 1))
    ours = Muon([{"params": [filters]}, *groups[0]], other_lr=0.01, weight_decay=0.2)
    theirs = torch.optim.AdamW(groups[1], lr=0.01, weight_decay=0.2)
    for _ in range(5):
        x = torch.randn(4, 5)
        for net, optimizer in ((first, ours), (second, theirs)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(first.weight, second.weight)
    torch.testing.assert_close(first.bias, second.bias)


def test_every_parameter_is_in_one_group_and_a_head_has_its_learning_rate():
    net = ResNet("basic", [1, 1], [8, 16], 1, 10, 28)
    optimizer = Muon(parameter_groups(net, head_lr=0.2), lr=0.02, other_lr=0.001)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(net.parameters()))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(net.conv1.weight)] == 0.02
    assert rates[id(net.bn1.weight)] == 0.001
    assert rates[id(net.fc.weight)] == 0.2


def test_a_net_without_filters_is_told_so(command, toy_smoke):
    outcome = command("train", *toy_smoke, "model=lenet300", "optim=muon")
    assert outcome.code == 2
    assert "use optim=adamw" in outcome.sentence


def test_matrices_step_as_under_torchs_muon_where_that_is_asked_for_and_embeddings_never():
    net = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5))
    table, matrix, bias = net.parameters()
    theirs_matrix = nn.Parameter(matrix.detach().clone())
    theirs = torch.optim.Muon([theirs_matrix], lr=0.05, weight_decay=0.01)
    ours = Muon(parameter_groups(net), lr=0.05, other_lr=0.001, matrices=True)
    before = table.detach().clone()
    for p in (table, matrix, bias):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    theirs_matrix.grad = matrix.grad.clone()
    ours.step()
    theirs.step()
    torch.testing.assert_close(matrix, theirs_matrix, atol=2e-3, rtol=0)  # theirs computes in bf16
    assert (table - before).abs().max() < 0.0011  # the first step of AdamW has the size of its learning rate
