"""Measurements between epochs, compared with Lightning's own validation."""

import functools
from types import SimpleNamespace

import lightning
import pytest
import torch
from omegaconf import OmegaConf

from zoo.callbacks.budget import AccuracyBudget, accuracy_of
from zoo.data.module import ResidentData
from zoo.errors import BadInput
from zoo.models.lenet import LeNet300
from zoo.optim.schedules import constant
from zoo.run import passes
from zoo.tasks.classification import ImageClassification


class Loader(list):
    batch_size = 5


def batches():
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    return Loader(zip(images.split(5), labels.split(5), strict=True))


class Data(lightning.LightningDataModule):
    def __init__(self, loader):
        super().__init__()
        self.given = loader

    limited_batches = ResidentData.limited_batches

    def val_dataloader(self):
        return self.given

    def limited_loader(self, split, device, limit):
        return self.given


@pytest.mark.filterwarnings("ignore:You called `self.log")
@pytest.mark.parametrize(("limit", "num"), [(3, 15), (0.5, 20), (1.0, 40), (None, 40)])
def test_accuracy_is_measured_on_the_batches_that_the_trainer_validates(limit, num):
    torch.manual_seed(0)
    task = ImageClassification(LeNet300(1, 10, 8), functools.partial(torch.optim.SGD, lr=0.1), constant)
    loader = batches()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", limit_val_batches=limit, **quiet)
    (theirs,) = trainer.validate(task, Data(loader), verbose=False)
    assert float(trainer.callback_metrics["val/num_samples"]) == num
    run = SimpleNamespace(cfg=OmegaConf.create({"trainer": {"limit_val_batches": limit}}))
    found = passes._measured(run, task, Data(loader), task.net, "val")
    assert (found["num_samples"], found["accuracy"]) == (num, pytest.approx(theirs["val/accuracy"]))
    counts, measure = [], task.measure
    task.measure = lambda batch: counts.append(len(batch[1])) or measure(batch)
    like = SimpleNamespace(strategy=trainer.strategy, datamodule=Data(loader), num_val_batches=[num // 5])
    assert accuracy_of(like, task) == pytest.approx(theirs["val/accuracy"])
    assert sum(counts) == num


def test_a_budget_without_validation_is_refused_before_training():
    trainer = SimpleNamespace(limit_val_batches=0, callbacks=[])
    with pytest.raises(BadInput, match=r"trainer\.limit_val_batches=0"):
        AccuracyBudget().on_fit_start(trainer, SimpleNamespace(device_mesh=None))
