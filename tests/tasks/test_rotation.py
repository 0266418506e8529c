import functools
import json

import numpy as np
import pytest
import torch
from torch import nn

from zoo.models.lenet import LeNet5
from zoo.optim.schedules import constant
from zoo.tasks.rotation import RotationPrediction, all_turns


def test_each_image_comes_in_four_ways_with_its_quarter_turns():
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    turned, quarters = all_turns(images)
    assert quarters.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for i, k in enumerate(quarters.tolist()):
        assert np.array_equal(turned[i], np.rot90(images[i % 2].numpy(), k, axes=(1, 2)))


def test_the_loss_is_over_turns_whatever_the_labels_say():
    net = LeNet5(num_classes=4)
    task = RotationPrediction(net, functools.partial(torch.optim.SGD, lr=0.1), constant)
    images = torch.randn(3, 1, 32, 32)
    turned, quarters = all_turns(images)
    expected = nn.functional.cross_entropy(net(turned), quarters)
    torch.testing.assert_close(task.training_step((images, torch.full((3,), 9)), 0), expected)


def test_what_it_learns_can_be_taken_up_but_not_evaluated_and_not_be_a_teacher(command, toy, tmp_path):
    toy = [a for a in toy if not a.startswith("name=")]
    assert command("train", *toy, "task=rotation", "name=turns").code == 0
    (product,) = tmp_path.glob("runs/turns/*/model.safetensors")
    outcome = command("train", *toy, "name=named", f"init_from={product}", "model.freeze=backbone")
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("runs/named/*")
    assert "classifier.5 starts from random values" in (folder / "log.txt").read_text()
    for script, line in (
        ("evaluate", [f"checkpoint={product}"]),
        ("train", [*toy, "task=distill", f"task.teacher={product}"]),
    ):
        outcome = command(script, *line)
        assert outcome.code == 2
        assert "task=rotation" in outcome.sentence
        assert "init_from" in outcome.sentence


@pytest.mark.parametrize("line", [["task=rotation", "model.num_classes=10"], ["model.num_classes=4"]])
def test_a_net_of_another_number_of_outputs_is_refused(command, toy_smoke, line):
    outcome = command("train", *toy_smoke, *line)
    assert outcome.code == 2
    assert "does not fit these data and task" in outcome.sentence


def test_upright_pictures_are_told_from_turned_ones(command, toy, tmp_path):
    """The toy images have horizontal bars at the height of their class: few of them show which way is up."""
    assert command("train", *toy, "task=rotation", "trainer.max_epochs=2").code == 0
    (result,) = tmp_path.glob("runs/toy/*/result.json")
    assert json.loads(result.read_text())["test"]["accuracy"] > 0.4  # horizontal or vertical: 0.5; by chance: 0.25
