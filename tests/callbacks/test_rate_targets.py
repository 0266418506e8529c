"""What training for bytes is held against: the accuracy of the original net, and the order of nets by its targets."""

import functools
import logging
from types import SimpleNamespace

import lightning
import pytest
import torch

from zoo.callbacks.rate_schedule import RateTraining
from zoo.optim.schedules import constant
from zoo.tasks.classification import ImageClassification


class Loader(list):
    batch_size = 5


class Data(lightning.LightningDataModule):
    def __init__(self, loader):
        super().__init__()
        self.given = loader

    def val_dataloader(self):
        return self.given


class RightFor(torch.nn.Module):
    """A net that is right for a share of each batch of images whose pixels are their label."""

    def __init__(self, share):
        super().__init__()
        self.share, self.bias = share, torch.nn.Parameter(torch.zeros(10))

    def forward(self, images):
        right = images[:, 0, 0, 0].long() % 10
        known = torch.arange(len(images)) < self.share * len(images)
        return torch.nn.functional.one_hot(torch.where(known, right, (right + 1) % 10), 10).float() + self.bias


def test_accuracy_is_lost_from_the_net_before_its_channels_were_removed():
    labels = torch.arange(40) % 10
    images = labels.float().view(40, 1, 1, 1).expand(40, 1, 8, 8)
    loader = Loader(zip(images.split(5), labels.split(5), strict=True))
    pruned, original = RightFor(0.2), RightFor(0.8)
    task = ImageClassification(pruned, functools.partial(torch.optim.SGD, lr=0.1), constant)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    like = SimpleNamespace(strategy=trainer.strategy, datamodule=Data(loader), num_val_batches=[8])
    training = RateTraining(max_drop=0.5)
    assert training._accuracy_before(like, task) == pytest.approx(0.2)
    training.original = lambda: original
    assert training._accuracy_before(like, task) == pytest.approx(0.8)
    assert task.net is pruned


# Nets as (bytes of their file, validation accuracy), the best first, by what is asked for. The reference is 0.90.
IN_BOTH, LESS_ACCURATE, SMALLER = (900, 0.91), (800, 0.90), (500, 0.80)
TOO_LARGE, FAR_TOO_LARGE = (1100, 0.95), (2000, 0.99)
ORDERS = {
    "bytes": ({"bytes": 1000}, [IN_BOTH, LESS_ACCURATE, SMALLER, TOO_LARGE, FAR_TOO_LARGE], 3),
    "max_drop": ({"max_drop": 1.0}, [LESS_ACCURATE, IN_BOTH, TOO_LARGE, FAR_TOO_LARGE, (600, 0.85), SMALLER], 4),
    "both": (
        {"bytes": 1000, "max_drop": 1.0},
        [IN_BOTH, LESS_ACCURATE, (950, 0.88), SMALLER, TOO_LARGE, FAR_TOO_LARGE],
        2,
    ),
    "neither": ({}, [FAR_TOO_LARGE, TOO_LARGE, IN_BOTH, LESS_ACCURATE, SMALLER], 5),
}


@pytest.mark.parametrize(("targets", "nets", "num_met"), ORDERS.values(), ids=ORDERS)
def test_the_run_keeps_the_net_that_the_targets_ask_for(targets, nets, num_met):
    training = RateTraining(**targets)
    training.reference = 0.90
    ranked = []
    for size, accuracy in nets:
        training.file = {**training.file, "bytes": size}
        metrics = {"val/accuracy": torch.tensor(accuracy, dtype=torch.float64)}
        trainer = SimpleNamespace(global_step=10, estimated_stepping_batches=10, callback_metrics=metrics)
        ranked.append(training._ranked(trainer, accuracy))
    ranks = [one["rank"] for one in ranked]
    assert ranks == sorted(ranks, reverse=True)
    assert len({tuple(rank) for rank in ranks}) == len(nets)
    assert [one["met"] for one in ranked] == [i < num_met for i in range(len(nets))]


@pytest.mark.parametrize(
    ("targets", "best", "sentence"),
    [
        ({"bytes": 1000}, {"met": True, "bytes": 900}, None),
        (
            {"bytes": 1000},
            {"met": False, "bytes": 1100},
            "b=1000 was not reached: the nearest file has 1100 bytes, 100",
        ),
        ({"max_drop": 0.5}, {"met": False, "bytes": 9, "points_lost": 1.25}, "d=0.5 was not kept: the nearest file lo"),
        ({"bytes": 9, "max_drop": 1.0}, {"met": False, "bytes": 8, "points_lost": 1.5}, "d=1.0 was not kept with b=9"),
        ({"bytes": 9, "max_drop": 1.0}, {"met": False, "bytes": 10, "points_lost": 0.5}, "b=9 was not reached"),
    ],
)
def test_a_target_that_was_missed_is_told_in_one_sentence(monkeypatch, targets, best, sentence):
    messages: list[str] = []
    monkeypatch.setattr(logging.getLogger("zoo"), "warning", lambda text, *values: messages.append(text % values))
    training = RateTraining(**targets)
    training.keys, training.best = {"bytes": "b", "max_drop": "d"}, best
    training.on_train_end(SimpleNamespace(), SimpleNamespace())
    assert [sentence in message for message in messages] == ([True] if sentence else [])
