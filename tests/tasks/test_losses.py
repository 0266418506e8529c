import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from zoo.errors import BadInput
from zoo.models.lenet import LeNet5
from zoo.models.vit import ViT
from zoo.optim.schedules import constant
from zoo.tasks.classification import ImageClassification
from zoo.tasks.losses import limit_norms, loss_function, weight_penalty


@pytest.mark.parametrize("power", [1, 2])
def test_hinge_losses_are_the_formula_written_out(power):
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    expected = 0.0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        margins = [max(0.0, 1 - scores[label] + score) ** power for j, score in enumerate(scores) if j != label]
        expected += sum(margins) / 5 / 7
    found = loss_function({1: "hinge", 2: "squared_hinge"}[power])(logits, labels)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_takes_shares_of_classes():
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    shares = torch.tensor([[0.25, 0.75, 0.0]])
    norm = math.log(sum(math.exp(x) for x in (1.0, 2.0, 0.5)))
    expected = 0.25 * (norm - 1.0) + 0.75 * (norm - 2.0)
    assert loss_function("cross_entropy")(logits, shares).item() == pytest.approx(expected)


def test_a_hinge_of_shares_or_of_smoothed_labels_is_refused():
    with pytest.raises(BadInput, match=r"data\.mix"):
        loss_function("hinge")(torch.randn(2, 3), torch.rand(2, 3))
    with pytest.raises(ValueError, match="label_smoothing"):
        loss_function("squared_hinge", 0.1)


def test_the_l2_penalty_is_what_sgd_calls_weight_decay():
    torch.manual_seed(0)
    decayed, penalised = nn.Linear(4, 3), nn.Linear(4, 3)
    penalised.load_state_dict(decayed.state_dict())
    x = torch.randn(8, 4)
    first = torch.optim.SGD([{"params": [decayed.weight], "weight_decay": 0.3}, {"params": [decayed.bias]}], lr=0.1)
    second = torch.optim.SGD(penalised.parameters(), lr=0.1)
    for _ in range(3):
        for net, optimizer, l2 in ((decayed, first, 0.0), (penalised, second, 0.3)):
            optimizer.zero_grad()
            (net(x).square().mean() + weight_penalty([net.weight], 0.0, l2)).backward()
            optimizer.step()
    torch.testing.assert_close(penalised.weight, decayed.weight)
    torch.testing.assert_close(penalised.bias, decayed.bias)


def test_the_gradient_of_the_l1_penalty_is_the_sign():
    weights = [torch.tensor([[1.5, -0.2], [0.0, 3.0]], requires_grad=True), torch.randn(2, 3, requires_grad=True)]
    weight_penalty(weights, 0.01, 0.0).backward()
    for weight in weights:
        torch.testing.assert_close(weight.grad, 0.01 * weight.detach().sign())


def test_only_units_beyond_the_limit_are_shrunk_to_it_and_keep_their_direction():
    weight = torch.randn(6, 3, 5, 5) * torch.linspace(0.01, 1, 6)[:, None, None, None]
    before = weight.clone()
    limit_norms([weight], 2.0)
    for old, new in zip(before, weight, strict=True):
        torch.testing.assert_close(new, old * min(1.0, 2.0 / old.norm().item()))


def test_no_unit_of_a_trained_net_is_beyond_max_norm(command, toy_smoke, only_run):
    line = [*toy_smoke, "optim=sgd", "optim.lr=1", "task.max_norm=0.5", "task.loss=hinge", "task.l1=0.001"]
    outcome = command("train", *[a for a in line if a != "optim.lr=0.003"])
    assert outcome.code == 0, outcome.err
    weights = [w for w in load_file(only_run() / "model.safetensors").values() if w.ndim > 1]
    norms = torch.cat([w.flatten(1).norm(dim=1) for w in weights])
    assert norms.max() <= 0.5 + 1e-5
    assert (norms > 0.49).any()


def test_embeddings_and_table_weights_are_no_units():
    for net, left in (
        (ViT(32, 1, 2, image_size=28, in_channels=1, num_classes=10), {"class_token", "encoder.pos_embedding"}),
        (LeNet5(c3="sparse"), {"features.3.weight"}),
    ):
        held = {id(w) for w in ImageClassification(net, torch.optim.SGD, constant, max_norm=1.0).weights}
        assert {name for name, p in net.named_parameters() if p.ndim > 2 and id(p) not in held} == left
