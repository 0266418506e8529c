import functools

import pytest
import torch
import torchmetrics.functional.classification as oracle
from torch import nn

from zoo.models.lenet import LeNet5
from zoo.models.resnet import ResNet
from zoo.optim.schedules import constant
from zoo.tasks.base import parameter_groups
from zoo.tasks.classification import ImageClassification
from zoo.tasks.metrics import ClassificationMeter


def task(net, **changes):
    return ImageClassification(net, functools.partial(torch.optim.SGD, lr=0.1), constant, **changes)


@pytest.mark.parametrize("num_classes", [3, 5, 6, 10])
def test_metrics_over_uneven_batches_equal_torchmetrics_over_all(num_classes):
    logits, labels = torch.randn(70, num_classes), torch.randint(num_classes, (70,))
    meter = ClassificationMeter()
    for part in (slice(0, 32), slice(32, 64), slice(64, 70)):
        losses = nn.functional.cross_entropy(logits[part], labels[part], reduction="none")
        meter.update(logits[part], labels[part], losses)
    found = meter.compute()
    top5 = functools.partial(oracle.multiclass_accuracy, num_classes=num_classes, average="micro")
    assert float(found["accuracy"]) == pytest.approx(float(top5(logits, labels)))
    if num_classes > 5:
        assert float(found["top5"]) == pytest.approx(float(top5(logits, labels, top_k=5)))
    names = {"loss", "accuracy", "balanced_accuracy", "macro_f1"}
    assert found.keys() == names | ({"top5"} if num_classes > 5 else set())
    assert float(found["loss"]) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert not meter.sums.any()


def test_a_training_step_never_waits_for_the_device():
    """The meta device has no values, so any transfer to the host raises."""
    net = LeNet5().to("meta")
    one = task(net, label_smoothing=0.1).to("meta")
    batch = torch.empty(8, 1, 32, 32, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    loss = one.training_step(batch, 0)
    loss.backward()
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()


def test_auxiliary_losses_are_added_with_their_weight():
    class TwoHeads(nn.Module):
        def forward(self, x):
            return x[:, 0], (x[:, 1], x[:, 2])

    x, y = torch.randn(4, 3, 10), torch.tensor([0, 1, 2, 3])
    main, first, second = (nn.functional.cross_entropy(x[:, i], y) for i in range(3))
    torch.testing.assert_close(task(TwoHeads(), aux_weight=0.3).training_step((x, y), 0), main + 0.3 * (first + second))


def test_biases_and_norms_are_not_decayed_and_every_parameter_is_in_one_group():
    net = ResNet("basic", [1, 1], [8, 16], 1, 10, 28)
    weights, rest = parameter_groups(net)
    assert rest["weight_decay"] == 0.0
    assert "weight_decay" not in weights
    assert len(weights["params"]) + len(rest["params"]) == len(list(net.parameters()))
    scales = {id(p) for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert {id(p) for p in rest["params"]} == scales | {id(net.fc.bias)}


def test_frozen_parameters_are_left_out():
    net = LeNet5()
    net.features.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net)) == 6


def test_the_training_loss_is_smoothed_as_torch_smooths():
    net = LeNet5()
    x, y = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])
    expected = nn.functional.cross_entropy(net(x), y, label_smoothing=0.2)
    assert torch.equal(task(net, label_smoothing=0.2).training_step((x, y), 0), expected)
