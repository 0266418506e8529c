"""Steps of several batches, compared with plain torch on one batch of all their samples."""

import copy
import functools

import lightning
import pytest
import torch
from torch import nn

from zoo.models.decoding import greedy
from zoo.models.lenet import LeNet300
from zoo.models.transformer import Transformer
from zoo.optim.schedules import constant
from zoo.tasks.classification import ImageClassification
from zoo.tasks.transduction import Transduction

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Loader(list):
    batch_size = 4


def train(task, batches, num):
    """Train for one epoch in steps of `num` batches, and return the weights."""
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=num,
        limit_val_batches=0,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(task, Loader(batches), Loader(batches))
    return list(task.net.parameters())


@pytest.mark.parametrize("num_lost", [0, 1])
def test_every_step_equals_that_of_one_large_batch_also_the_last_of_an_epoch(num_lost):
    """Five batches in steps of three; one lacks a sample, as if a file could not be read."""
    torch.manual_seed(0)
    net = LeNet300(1, 10, 8).double()
    images, labels = torch.randn(20, 1, 8, 8, dtype=torch.float64), torch.arange(20) % 10
    parts = torch.arange(20 - num_lost).split(4)
    theirs = copy.deepcopy(net)
    optimizer = SGD(theirs.parameters())
    for rows in (torch.cat(parts[:3]), torch.cat(parts[3:])):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images[rows]), labels[rows]).backward()
        optimizer.step()
    found = train(ImageClassification(net, SGD, constant), [(images[p], labels[p]) for p in parts], 3)
    for ours, wanted in zip(found, theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-8)  # a step is scaled in float32


def test_every_token_of_accumulated_sequences_counts_alike():
    """The batches have 5, 11 and 3 tokens: a mean of means would weight the tokens of the last one most."""
    torch.manual_seed(0)
    net = Transformer(9, 7, 8, 1, 1, 2, 16, dropout=0.0).double()
    source = torch.randint(3, 9, (6, 4))
    lengths = [3, 2, 6, 5, 1, 2]
    target = torch.tensor([[1, *[3] * (n - 1), 2, *[0] * (6 - n)] for n in lengths])
    theirs = copy.deepcopy(net)
    optimizer = SGD(theirs.parameters())
    nn.functional.cross_entropy(
        theirs(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten(), ignore_index=0
    ).backward()
    optimizer.step()
    task = Transduction(net, SGD, constant, functools.partial(greedy, max_length=5))
    found = train(task, list(zip(source.split(2), target.split(2), strict=True)), 4)
    for ours, wanted in zip(found, theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-9)
