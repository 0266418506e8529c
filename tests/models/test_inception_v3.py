import pytest
import torch
import torchvision
from conftest import exchange_weights

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.inception_v3 import InceptionV3


@pytest.fixture(scope="module")
def pair():
    """Our net and torchvision's with the same weights, and no dropout, whose draws would differ."""
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(init_weights=False, dropout=0.0)
    ours = InceptionV3(dropout=0.0)
    exchange_weights(ours, theirs)
    return ours, theirs


def test_parameters_and_macs_are_torchvisions():
    net = InceptionV3()
    assert count_parameters(net) == 27_161_264
    assert round(count_macs(net, (3, 299, 299)) / 1e9, 3) == 5.713


def test_eval_logits_are_torchvisions(pair):
    ours, theirs = (net.eval() for net in pair)
    images = torch.randn(2, 3, 299, 299)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=0)


def test_auxiliary_logits_in_train_mode_are_torchvisions(pair):
    ours, theirs = (net.train() for net in pair)
    images = torch.randn(4, 3, 299, 299)
    with torch.no_grad():
        mine, other = ours(images), theirs(images)
    torch.testing.assert_close(mine.main, other.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.aux[0], other.aux_logits, atol=1e-4, rtol=1e-4)
