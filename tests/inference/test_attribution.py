"""Explanations, compared with captum, torch's own attention weights, scipy and closed forms."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from scipy import ndimage
from torch import nn

import zoo
from zoo.inference.attribution import (
    deletion_and_insertion,
    explanations,
    feature_layer,
    grad_cam,
    gradient_times_input,
    rollout,
)
from zoo.models.attention import Attention
from zoo.models.vit import ViT
from zoo.report.explanation_plot import Explained, draw_explanations

EARLIER = ROOT / "tests" / "earlier"


def net_of(name, size, channels=3, **settings):
    torch.manual_seed(0)
    net = zoo.create_model(name, num_classes=10, in_channels=channels, image_size=size, **settings).eval()
    return net, torch.randn(2, channels, size, size), torch.tensor([3, 7])


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("resnet18", 64, "layer4"),
        ("resnet18", 32, "layer3"),
        ("vgg11", 64, "features.18"),
        ("vgg11_bn", 32, "features.14"),
    ],
)
def test_grad_cam_is_captums(name, size, layer):
    captum = pytest.importorskip("captum.attr")
    net, images, targets = net_of(name, size)
    images, targets = images.repeat(3, 1, 1, 1), torch.arange(6)
    found = grad_cam(net, images, targets, net.get_submodule(layer))
    attribution = captum.LayerGradCam(net, net.get_submodule(layer))
    expected = attribution.attribute(images, targets, relu_attributions=True)[:, 0]
    assert found.amax() > 0
    assert (found - expected).abs().max() < 1e-4 * found.amax()


@pytest.mark.parametrize(
    ("name", "size", "channels", "layer"),
    [
        ("resnet18", 128, 3, "layer4"),
        ("vgg11", 128, 3, "features"),
        ("vgg11_bn", 32, 3, "features.20"),  # before the pooling to 2 px
        ("resnet20", 28, 1, "layer3"),
        ("lenet5", 28, 1, "features"),
        ("lenet300", 28, 1, None),
    ],
)
def test_the_last_feature_maps_large_enough_are_shown(name, size, channels, layer):
    net, images, _ = net_of(name, size, channels)
    assert feature_layer(net, images[:1]) == layer
    methods = ["Grad-CAM", "gradient × input"] if layer else ["gradient × input"]
    assert list(explanations(net, images)) == methods


def test_rollout_multiplies_torchs_attention_weights():
    torch.manual_seed(0)
    net, images = ViT(width=16, depth=3, num_heads=4, in_channels=1, image_size=20, num_classes=5).eval(), None
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    images = torch.randn(2, 1, 20, 20)
    weights, hooks = [], []

    def keep(module, inputs):
        x = inputs[0].transpose(0, 1)
        _, shares = nn.functional.multi_head_attention_forward(
            *(x, x, x, 16, 4, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0),
            *(module.out_proj.weight, module.out_proj.bias),
            training=False,
        )
        weights.append(shares.numpy())

    hooks += [one.register_forward_pre_hook(keep) for one in net.modules() if isinstance(one, Attention)]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    assert len(weights) == 3
    expected = np.eye(26)[None]
    for shares in weights:
        expected = (shares + np.eye(26)) / 2 @ expected
    found = rollout(net, images)
    assert found.shape == (2, 5, 5)
    assert np.abs(found.flatten(1).numpy() - expected[:, 0, 1:]).max() < 1e-5
    method = explanations(net, images)["attention rollout"]
    assert method(net, images, torch.tensor([0, 1])).shape == (2, 20, 20)


class Linear(nn.Module):
    """Two logits, each a weighted sum of pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return torch.einsum("nchw,kchw->nk", images, self.weight)


def test_gradient_times_input_of_a_linear_net_is_each_pixels_share_of_the_logit():
    net, images, targets = Linear(), torch.randn(3, 2, 6, 6), torch.tensor([1, 0, 1])
    found = gradient_times_input(net, images, targets)
    torch.testing.assert_close(found, (net.weight[targets] * images).sum(1).detach())
    torch.testing.assert_close(found.sum((1, 2)), net(images).gather(1, targets[:, None])[:, 0].detach())


def test_deletion_and_insertion_are_means_over_steps_of_replacing():
    net, images, targets = Linear(), torch.randn(2, 2, 6, 6), torch.tensor([1, 0])
    maps = gradient_times_input(net, images, targets)
    found = deletion_and_insertion(net, images, targets, maps, temperature=2.0)
    for n in range(2):
        image = images[n].numpy()
        blurred = ndimage.gaussian_filter(image, (0, 0.75, 0.75), mode="nearest", truncate=4)
        order = np.argsort(-maps[n].flatten().numpy(), kind="stable")
        for score, (start, end) in zip(found, ((image, blurred), (blurred, image)), strict=True):
            curve = []
            for step in range(21):
                mixed = start.reshape(2, 36).copy()
                chosen = order[: round(step / 20 * 36)]
                mixed[:, chosen] = end.reshape(2, 36)[:, chosen]
                with torch.no_grad():
                    logits = net(torch.tensor(mixed.reshape(1, 2, 6, 6)))
                curve.append(float((logits / 2).softmax(1)[0, targets[n]]))
            assert float(score[n]) == pytest.approx(np.trapezoid(curve, dx=1 / 20), abs=1e-5)
    assert (found[0] < found[1]).all()


@pytest.mark.parametrize(("num", "rows", "columns"), [(1, 1, 3), (4, 4, 3), (5, 3, 6)])
def test_many_pictures_are_drawn_in_two_columns(num, rows, columns):
    maps = {"Grad-CAM": torch.rand(8, 8), "gradient × input": torch.zeros(8, 8)}
    scores = dict.fromkeys(maps, (0.25, 0.75))
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    found = [Explained(f"{i}.png", picture, "a", 0.5, maps, scores) for i in range(num)]
    figure = draw_explanations(found, "model.zoo")
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("a, 50.0%") == titles.count("Grad-CAM") == num
    assert figure.axes[1].get_xlabel() == "deletion 0.25, insertion 0.75"


def test_a_grid_and_scores_are_written(command, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(draw.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    line = ["checkpoint=zoo:lenet5_mnist_5k", str(ROOT / "docs/digit.png"), "0.png", "1.png", "out=maps"]
    done = command("scripts/explain", *line)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "maps/explanation_lenet5_mnist_5k.zoo.json").read_text())
    assert [one["name"] for one in found["pictures"]] == ["digit.png", "0.png", "1.png"]
    first = found["pictures"][0]
    assert first["class"] == "7"
    assert first["probability"] > 0.99
    assert list(found["mean"]) == ["Grad-CAM", "gradient × input", "random order"]
    assert list(first["scores"]) == ["Grad-CAM", "gradient × input"]
    scores = first["scores"]["gradient × input"]
    assert 0 < scores["deletion"] < 0.5 < scores["insertion"] < 1
    with Image.open(tmp_path / "maps/explanation_lenet5_mnist_5k.zoo.png") as picture:
        assert picture.size[0] > 600
        assert picture.size[1] > 800
    done = command("scripts/explain", *line, "of_class=1")
    assert (
        json.loads((tmp_path / "maps/explanation_lenet5_mnist_5k.zoo.json").read_text())["pictures"][0]["class"] == "1"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["checkpoint=zoo:lenet5_mnist_5k"], "inputs: expected image files"),
        (["checkpoint=zoo:lenet5_mnist_5k", "missing.png"], "'missing.png': no such file"),
        (["checkpoint=zoo:lenet5_mnist_5k", "text.png"], "'text.png' cannot be read as an image"),
        (["checkpoint=zoo:lenet5_mnist_5k", str(ROOT / "docs/digit.png"), "of_class=10"], "of_class=10 is not a class"),
        (["checkpoint=zoo:lenet5_mnist_5k", "many"], "inputs: expected 1 to 32 pictures for one grid, got 33"),
        ([f"checkpoint={EARLIER / 'lstm.zoo'}", "x.png"], "reads sequences; explanations are for nets that classify"),
        ([f"checkpoint={EARLIER / 'resnet.onnx'}", "x.png"], "computed by a runtime that has no gradients"),
        ([f"checkpoint={EARLIER / 'ptq_int8.safetensors'}", "x.png"], "is quantized and has no gradients"),
    ],
    ids=["none", "missing", "text", "class", "many", "sequences", "exported", "quantized"],
)
def test_what_cannot_be_explained_is_told_in_one_sentence(command, tmp_path, line, words):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "many").mkdir()
    for i in range(33):
        (tmp_path / "many" / f"{i}.png").touch()
    done = command("scripts/explain", *line)
    assert (done.code, words in done.sentence) == (2, True), done.err
    assert not list(tmp_path.rglob("explanation*"))
