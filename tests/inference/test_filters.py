"""Images that activate filters most."""

import pytest
import torch
from torch import nn

from zoo.errors import BadInput
from zoo.inference.filters import convolution, maximal_images

FACTS = {"mean": [100.0], "std": [50.0]}


def test_filters_that_like_bright_dark_or_striped_images_get_these():
    net = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[[1.0, 1], [1, 1]], [[-1, -1], [-1, -1]], [[1, -1], [1, -1]]])[:, None]
    bright, dark, striped = maximal_images(net, "0", FACTS, 12).float()[:, 0]
    assert bright.mean() > dark.mean() + 100
    assert (striped[:, :-1] - striped[:, 1:]).abs().mean() > 1.5 * (striped[:-1] - striped[1:]).abs().mean()


def test_images_are_more_active_than_noise_and_repeat():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 40, 3))
    facts = {"mean": [120.0, 110.0, 100.0], "std": [60.0, 60.0, 60.0]}
    images = maximal_images(net, "2", facts, 16)
    assert (images.shape, images.dtype) == ((36, 3, 16, 16), torch.uint8)
    assert torch.equal(images, maximal_images(net, "2", facts, 16))
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
    noise = torch.randint(0, 256, (500, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = net((images - mean) / std).mean((2, 3)).diagonal()
        best = net((noise - mean) / std).mean((2, 3)).amax(0)[:36]
    assert (own > best).all()


def test_the_last_convolution_or_a_named_one_is_drawn_and_others_are_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3)), nn.Flatten(), nn.Linear(8, 2))
    assert (convolution(net, "last"), convolution(net, "0")) == ("1.0", "0")
    with pytest.raises(BadInput, match=r"^filters=3: expected last or a convolution"):
        convolution(net, "3")
    with pytest.raises(BadInput, match="no convolutions"):
        convolution(nn.Linear(2, 2), "last")
