"""Every image net can be pruned to a number of multiply-accumulates, saved, and read back."""

import functools
import subprocess
import sys

import pytest
import torch
from conftest import composed, inputs_of
from small import facts_of

from zoo.catalogue import matches
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.compress import prune_channels as module
from zoo.compress.context import Context
from zoo.compress.latency_table import LatencyTable
from zoo.compress.prune_channels import prune_channels
from zoo.compress.rate_rounding import update_norms
from zoo.measure.counts import count_macs, count_macs_of, count_parameters
from zoo.models.vit import ViT
from zoo.run.model import build_bare_model

MODELS = [model for model, data in matches() if data == "fashion_mnist"]
LARGE = [model for model, data in matches() if data == "imagenet"]


def pruned(model, data, macs=0.5):
    """Return a pruned net with random weights, its config, its recipe step and its MACs before pruning."""
    torch.manual_seed(0)
    cfg = composed(model, data)
    net = build_bare_model(cfg.model)
    example = (torch.empty(1, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size, device="meta"),)
    macs_before = count_macs_of(net, example)
    return net, cfg, prune_channels(net, Context(example), macs=macs), macs_before


def check(net, cfg, step, macs_before, path, share=0.5):
    """Compare a pruned net with the requested size, and with itself after saving and reading it back."""
    shape = (cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size)
    assert count_macs(net, shape) == pytest.approx(share * macs_before, rel=0.05)
    save_product(path, net.state_dict(), facts_of(cfg, [step]))
    (images,) = inputs_of(cfg, 2)
    with torch.no_grad():
        logits = net.eval()(images)
        assert logits.shape == (2, cfg.data.num_classes)
        assert logits.isfinite().all()
        del net
        assert load_model(read_product(path)).eval()(images).equal(logits)
    return images, logits


@pytest.mark.parametrize("model", MODELS)
def test_macs_fall_by_the_ratio_asked_and_the_product_comes_back_equal(tmp_path, model):
    net, *facts = pruned(model, "fashion_mnist")
    check(net, *facts, tmp_path / "model.safetensors")
    output = net.train()(*inputs_of(facts[0], 2))
    for head in (output[0], *output[1]) if isinstance(output, tuple) else [output]:
        assert head.shape == (2, 10)


def test_a_vit_whose_activation_works_in_place_can_be_pruned():
    net = ViT(32, 2, 2, in_channels=1, num_classes=10, image_size=12, activation="relu")
    before = count_macs(net, (1, 12, 12))
    prune_channels(net, Context((torch.empty(1, 1, 12, 12, device="meta"),)), macs=0.5)
    assert count_macs(net, (1, 12, 12)) == pytest.approx(0.5 * before, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("model", LARGE)
def test_so_it_is_at_the_size_of_imagenet(tmp_path, model):
    check(*pruned(model, "imagenet"), tmp_path / "model.safetensors")


@pytest.mark.parametrize("model", ["resnet20", "vit_tiny", "lenet5_1998"])
def test_another_process_reads_it_back_without_torch_pruning(tmp_path, model):
    images, logits = check(*pruned(model, "fashion_mnist", 0.3), tmp_path / "model.safetensors", 0.3)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.modules['torch_pruning'] = None\n"
        "from zoo.checkpoint.product_file import read_product\n"
        "from zoo.checkpoint.load_model import load_model\n"
        "net = load_model(read_product('model.safetensors')).eval()\n"
        "print([float(v).hex() for v in net(torch.load('images.pt', weights_only=True)).flatten()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str([float(v).hex() for v in logits.flatten()])


@pytest.mark.parametrize("model", ["lenet5_1998", "googlenet", "resnet20", "vit_tiny"])
def test_a_pruned_net_can_be_exported(model):
    net, cfg, *_ = pruned(model, "fashion_mnist")
    inputs = inputs_of(cfg, 2)
    exported = torch.export.export(net.eval(), inputs, strict=True).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*inputs), net(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_it_is_pruned_for_a_latency_and_repaired(model, monkeypatch):
    def time_nets(nets, inputs, runtime):  # made up, as are those of layers
        return [float(count_parameters(one)) for one in nets]

    table = functools.partial(
        LatencyTable, time_layer=lambda layer, shape: float(count_parameters(layer)), time_nets=time_nets
    )
    monkeypatch.setattr(module, "LatencyTable", table)
    torch.manual_seed(0)
    cfg = composed(model, "fashion_mnist")
    net, images = build_bare_model(cfg.model).eval(), inputs_of(cfg, 64)[0]
    update_norms(net, [(images,)])
    with torch.no_grad():
        expected = net(images)

    def error(part):
        with torch.no_grad():
            return float((part(images) - expected).square().mean())

    example = (torch.empty(1, *images.shape[1:], device="meta"),)
    context = Context(example, [(images, None)], accuracy=error)
    step = prune_channels(net, context, latency=0.6, repair="refit")
    assert step["params"] == pytest.approx(0.6 * step["params_before"], rel=0.05)
    assert 0 <= step["accuracy"]["refit"] < step["accuracy"]["cut"]
