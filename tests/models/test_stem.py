"""Which form of a net is built is a setting; by default it depends on the size of images, as in earlier versions."""

import functools
import inspect

import pytest
import torch
import torchvision
from conftest import CONFIGS, compose_run, options
from hydra.utils import get_object
from omegaconf import OmegaConf

import zoo
from zoo.checkpoint.pretrained import load_published
from zoo.errors import BadInput
from zoo.models.resnet import ResNet
from zoo.run.model import build_bare_model

LARGEST_SMALL = {"inception_v3": 74}  # px; 64 for all others
NETS = ["alexnet", "googlenet", "inception_v3", "resnet18", "vgg11", "vit_tiny"]


@functools.cache
def settings_of(net):
    return OmegaConf.to_container(compose_run(f"model={net}", "data=imagenet").model)


def build(net, image_size, stem="auto"):
    settings = settings_of(net) | {"image_size": image_size, "stem": stem}
    with torch.device("meta"):
        return build_bare_model(OmegaConf.create(settings))


def shapes(net):
    return {name: module.extra_repr() for name, module in net.named_modules()}


@pytest.mark.parametrize("net", NETS)
def test_auto_is_small_up_to_a_size_and_both_can_be_had_at_either(net):
    most = LARGEST_SMALL.get(net, 64)
    px = 16 if net == "vit_tiny" else 1
    for size, usual, other in ((most, "small", "large"), (most + px, "large", "small")):
        found = build(net, size)
        assert found.form == usual
        assert shapes(found) == shapes(build(net, size, usual))
        if (net, other) != ("inception_v3", "large"):
            assert shapes(found) != shapes(build(net, size, other))


def test_every_net_that_chooses_has_the_setting():
    for net in options("model"):
        model = OmegaConf.load(CONFIGS / "model" / f"{net}.yaml")
        parameters = inspect.signature(get_object(model._target_)).parameters
        assert ("stem" in model) == ("stem" in parameters), net


def test_the_large_form_at_32_px_is_torchvisions(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    net = ResNet("basic", [2, 2, 2, 2], [64, 128, 256, 512], image_size=32, stem="large").eval()
    settings = {"image_size": 32, "stem": "large"}
    load_published(net, "resnet18", str(tmp_path / "weights.pth"), settings)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), theirs(images))
    for size, stem in ((32, "auto"), (224, "small")):
        with pytest.raises(BadInput, match=r"model\.stem=large"):
            load_published(net, "resnet18", str(tmp_path / "weights.pth"), {"image_size": size, "stem": stem})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=alexnet", "model.stem=large"], "image_size=63 or more, got 28"),
        (["model=vgg11", "model.stem=large"], "image_size=32 or more, got 28"),
        (["model=resnet18", "model.stem=medium"], "model.stem"),
        (["model=vit_tiny", "model.stem=small", "model.patch_size=7"], "leave out patch_size=7"),
    ],
)
def test_a_form_that_cannot_be_is_one_sentence(command, toy_smoke, arguments, words):
    outcome = command("train", *toy_smoke, *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence


def test_the_first_lines_of_a_run_say_it_and_the_product_has_it(command, toy_smoke, only_run):
    line = ["model=resnet20", "model.depths=[1,1,1]", "model.stem=large"]
    outcome = command("train", *toy_smoke, *line)
    assert outcome.code == 0, outcome.err
    assert "Stem        large, for images of 28 px (model.stem=large)" in outcome.out
    net = zoo.load(str(only_run())).net
    assert net.form == "large"
    assert net.conv1.kernel_size == (7, 7)
