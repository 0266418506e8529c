"""The metrics logged during training."""

import json
import math
import re
import time

import pytest
import torch
from conftest import scalars

from zoo.checkpoint.product_file import read_product
from zoo.tasks.classification import ImageClassification

SGD = ["optim=sgd", "optim.lr=0.1", "optim.momentum=0", "optim.nesterov=false", "optim.weight_decay=0"]


def slowly(task, batch):
    time.sleep(3)
    task.measure(batch)


@pytest.mark.parametrize("batches", [1, 2])
def test_the_norm_of_gradients_is_that_of_a_plain_step_over_the_learning_rate(
    command, toy, only_run, tmp_path, batches
):
    """For one batch and for the mean of several accumulated ones; without momentum a step is lr times gradient."""
    weights, norms = [], []
    for num_steps in (1, 2):
        line = [*toy, *SGD, "schedule=constant", "trainer.log_every_n_steps=1", "trainer.max_epochs=1"]
        line += [f"trainer.accumulate_grad_batches={batches}", f"trainer.limit_train_batches={num_steps * batches}"]
        assert command("train", *line).code == 0
        state = torch.load(only_run() / "last.ckpt", weights_only=True)["state_dict"]
        weights.append(torch.cat([w.flatten() for name, w in state.items() if name.startswith("net.")]))
        norms = [value for _, value in scalars(only_run())["while training/gradient_norm"]]
        only_run().rename(tmp_path / str(num_steps))
    assert len(norms) == 2
    assert float((weights[1] - weights[0]).norm()) / 0.1 == pytest.approx(norms[1], rel=1e-4)


def test_the_norm_of_gradients_is_taken_before_they_are_clipped(command, toy, only_run):
    assert command("train", *toy, "trainer.gradient_clip_val=0.001", "trainer.max_epochs=1").code == 0
    assert min(value for _, value in scalars(only_run())["while training/gradient_norm"]) > 0.01


def test_samples_a_second_leave_out_what_is_not_training(command, toy, only_run, monkeypatch):
    monkeypatch.setattr(ImageClassification, "validation_step", lambda self, batch, batch_idx: slowly(self, batch))
    assert command("train", *toy, "trainer.max_epochs=2", "trainer.log_every_n_steps=10").code == 0
    rates = [value for _, value in scalars(only_run())["while training/samples_per_second"]]
    assert len(rates) == 2
    assert rates[1] > 640 / 3  # the maximum if validation were included


def test_the_learning_rate_is_that_of_the_step_and_not_of_the_next(command, toy, only_run):
    """A half cosine over five steps, from the first, which has the whole rate."""
    line = [*toy, *SGD, "schedule=cosine", "schedule.warmup=0", "trainer.log_every_n_steps=1", "trainer.max_epochs=1"]
    assert command("train", *line, "trainer.limit_train_batches=5").code == 0
    rates = [value for _, value in scalars(only_run())["while training/lr"]]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * i / 5)) / 2 for i in range(5)], rel=1e-5)
    (accuracy,) = (value for _, value in scalars(only_run())["train/accuracy"])
    names, values = re.findall(r"DEBUG zoo:( +epoch .*| +1/1 .*)", (only_run() / "log.txt").read_text())
    for name, value in (("mean lr", f"{sum(rates) / 5:.3g}"), ("train accuracy", f"{accuracy:.2%}")):
        end = names.index(name) + len(name)
        assert values[:end].endswith(f" {value}")
    result = json.loads((only_run() / "result.json").read_text())
    assert result["num_samples"]["train"] == 5 * 64 < result["split_sizes"]["train"]


def test_epochs_without_validation_have_other_columns_and_say_so(command, toy, only_run):
    assert command("train", *toy, "trainer.max_epochs=4", "+trainer.check_val_every_n_epoch=2").code == 0
    lines = re.findall(r"DEBUG zoo:( +epoch .*| +\d/4 .*)", (only_run() / "log.txt").read_text())
    headers = [line.split()[0] == "epoch" for line in lines]
    assert headers == [True, False] * 4
    assert ["val loss" in line for line in lines[::2]] == [False, True] * 2


def test_a_run_that_ends_within_an_epoch_counts_its_time_and_says_what_was_not_validated(command, toy, only_run):
    toy = [a for a in toy if not a.startswith("trainer.log")] + ["trainer.log_every_n_steps=1"]
    outcome = command("train", *toy, "+trainer.max_steps=17")  # of ten steps per epoch
    assert outcome.code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert len(result["epoch_seconds"]) == 2
    assert result["seconds"] == sum(result["epoch_seconds"])
    assert result["images_per_second"] == pytest.approx(17 * 64 / result["seconds"])
    assert "The last 7 steps were not validated, and are not in the product." in outcome.err
    assert read_product(only_run() / "model.safetensors").facts["best"]["epoch"] == 0


def test_the_last_weights_are_kept_also_if_a_run_ends_within_an_epoch(command, toy, only_run, tmp_path):
    for name, steps in (("ten", 10), ("seventeen", 17)):
        line = ["callbacks.product.metric=null", f"+trainer.max_steps={steps}", "schedule=constant"]
        assert command("train", *toy, *line).code == 0
        only_run().rename(tmp_path / name)
    ten, seventeen = (read_product(tmp_path / name / "model.safetensors") for name in ("ten", "seventeen"))
    assert not torch.equal(ten.weights["classifier.5.weight"], seventeen.weights["classifier.5.weight"])
    assert seventeen.facts["best"] == {"epoch": 1, "metrics": {}}


def test_a_run_of_less_than_an_epoch_counts_the_samples_that_it_trained_on(command, toy, only_run):
    assert command("train", *toy, "+trainer.max_steps=4").code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert result["num_samples"]["train"] == 4 * 64
    assert 0 < result["images_per_second"] < 1e7
