"""int8: a net that computes what it computed, in a quarter of the bytes, and that comes back from its file."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from conftest import composed, inputs_of
from omegaconf import OmegaConf
from torch import nn

from zoo.checkpoint import Product, read_product, save_product
from zoo.compress.program import rebuilt
from zoo.compress.quantize import chosen, graph_of, layers_of, lower, ptq, traced
from zoo.errors import BadInput
from zoo.nets import bare_net, net_of


def float_net(model, data="mnist_5k"):
    torch.manual_seed(0)
    cfg = composed(model, data)
    return bare_net(cfg.model).eval(), cfg


def example_of(cfg):
    return tuple(x.to("meta") for x in inputs_of(cfg, 1))


def noise(cfg, num=8):
    """Give two batches of noise with labels."""
    return [(*inputs_of(cfg, num), torch.zeros(num, dtype=torch.long)) for _ in range(2)]


def quantized(model, float_layers=(), data="mnist_5k", batches=None, num_batches=2):
    """Give a net of random weights, its int8 one as a product, and two images."""
    net, cfg = float_net(model, data)
    trace = traced(net, example_of(cfg))
    batches = batches or noise(cfg)
    program, tensors = ptq(trace, batches, num_batches, chosen(float_layers, layers_of(trace)))
    step = {"pass": "ptq_int8", "program": program}
    facts = {"recipe": [step], "config": OmegaConf.to_container(cfg)}
    return net, Product("none", tensors, facts), batches[0][0]


@pytest.mark.parametrize("model", ["lenet5_caffe", "resnet20"])
def test_a_process_without_torchao_reads_an_equal_net_from_the_file(tmp_path, model):
    net, product, images = quantized(model)
    save_product(tmp_path / "model.safetensors", product.weights, product.facts)
    torch.save(images, tmp_path / "images.pt")
    with torch.no_grad():
        logits = net_of(product)(images)
        assert 0 < (logits - net(images)).abs().max() < 0.03 * net(images).abs().max()
    code = (
        "import sys, torch; sys.modules['torchao'] = None\n"
        "from zoo.checkpoint import read_product; from zoo.nets import net_of\n"
        "net = net_of(read_product('model.safetensors')).eval()\n"
        "print([float(v).hex() for v in net(torch.load('images.pt', weights_only=True)).flatten()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str([float(v).hex() for v in logits.flatten()])


def test_weights_are_rounded_to_127_steps_of_the_largest_of_their_output_channel():
    net, product, _ = quantized("lenet5_caffe")
    for layer in ("conv1", "conv2", "ip1", "ip2"):
        weight, number = net.get_parameter(f"{layer}.weight").detach(), product.weights[f"{layer}.weight"]
        scale = product.weights[f"{layer}.weight_scale"]
        assert number.dtype == torch.int8
        torch.testing.assert_close(scale, weight.flatten(1).abs().amax(1) / 127.5, rtol=1e-5, atol=1e-9)
        assert not product.weights[f"{layer}.weight_zero_point"].any()
        steps = weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
        assert (number - steps).abs().max() <= 0.501


def test_layers_that_are_to_stay_in_floats_do():
    _, product, images = quantized("resnet20", ["conv1", "layer3.*"])
    kept = {name for name, tensor in product.weights.items() if tensor.is_floating_point() and tensor.ndim > 1}
    assert kept == {"conv1.weight", *(f"layer3.{i}.conv{j}.weight" for i in range(3) for j in (1, 2))}
    assert net_of(product)(images).isfinite().all()


def test_tracing_leaves_the_net_as_it_was():
    net, cfg = float_net("vgg11_bn")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    traced(net, example_of(cfg))
    assert any(module.inplace for module in net.modules() if hasattr(module, "inplace"))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("model", ["lenet5_caffe", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_what_inductor_makes_of_int8_is_what_it_is_eagerly(model):
    # GoogLeNet's poolings round sizes up, which Inductor forgets of int8.
    _, product, images = quantized(model)
    net = net_of(product)
    with torch.no_grad():
        eager = net(images)
        lower(net, images)
        assert net._compiled_call_impl is not None
        assert (net(images) - eager).abs().max() < 0.02 * eager.abs().max()


def test_a_pooling_that_rounds_up_pools_what_it_did_without_rounding():
    torch.manual_seed(0)
    for size in range(6, 14):
        for kernel, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (3, 1, 1)):
            pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
            image = torch.randn(2, 3, size, size + 1) - 5  # below 0, so that zeros would show
            trace = traced(pool, (image[:1].to("meta"),))
            assert graph_of(trace)(image).equal(pool(image))
            assert "True" not in graph_of(trace).code


@pytest.mark.parametrize(
    ("model", "data", "change", "words"),
    [
        ("transformer", "reverse", {}, "reads sequences; take compress=weight_int8"),
        ("lenet5", "mnist_5k", {"batches": [(torch.zeros(2, 3, 28, 28), torch.zeros(2))]}, "are (3, 28, 28), and"),
        ("lenet5", "mnist_5k", {"num_batches": 3}, "the training data have only 2"),
        ("lenet5", "mnist_5k", {"num_batches": 0}, "must be at least 1"),
        ("lenet5", "mnist_5k", {"float_layers": ["features.1"]}, "is named 'features.1'"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_sentence(model, data, change, words):
    with pytest.raises(BadInput) as refusal:
        quantized(model, data=data, **change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ([["input"], ["aten.save.default", {"result": 0}, "file"], ["output", {"result": 0}]], "'aten.save.default'"),
        ([["input"], ["aten.relu.default", {"result": 5}], ["output", {"result": 1}]], "index"),
        ([["input"], ["aten.relu.default", {"tensor": "w"}], ["output", {"result": 1}]], "tensors"),
        ([["input"], ["operator.attrgetter", "x"], ["output", {"result": 1}]], "'operator.attrgetter'"),
    ],
)
def test_a_program_that_asks_for_anything_but_a_nets_arithmetic_is_refused(program, words):
    with pytest.raises(BadInput, match=words):
        rebuilt(program, {}, "model.safetensors")


def test_a_run_quantizes_tests_int8_and_tells_what_the_float_net_was(command, toy, teacher, tmp_path):
    line = [*(a for a in toy if not a.startswith(("name=", "trainer.max_epochs"))), "trainer.max_epochs=0"]
    assert command("train", *line, f"init_from={teacher}", "compress=ptq_int8", "name=int8").code == 0
    (folder,) = tmp_path.glob("runs/int8/*")
    result, before = (
        json.loads((folder / "result.json").read_text()),
        json.loads((teacher.parent / "result.json").read_text()),
    )
    told = result["compress"]["int8"]["float"]
    assert told["test"]["accuracy"] == pytest.approx(before["test"]["accuracy"], abs=1e-6)
    assert told["product_bytes"] == (folder / "trained.safetensors").stat().st_size
    assert result["product_bytes"] == (folder / "model.safetensors").stat().st_size < 0.35 * told["product_bytes"]
    assert (result["params"], result["macs"], result["epochs"], result["best_epoch"]) == (61_706, 416_520, 0, 0)
    assert abs(result["test"]["accuracy"] - told["test"]["accuracy"]) < 0.03
    assert command("evaluate", f"checkpoint={folder}/model.safetensors").code == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-6)
    assert read_product(folder / "trained.safetensors").weights.keys() == read_product(teacher).weights.keys()

    again = command("train", *line, f"init_from={folder}/model.safetensors", "compress=ptq_int8")
    assert again.code == 2
    assert "is in int8 already" in again.sentence


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["compress=ptq_int8"], "init_from=None was asked for"),
        (["compress=prune_channels"], "trainer.max_epochs=0 was asked for"),
        (["compress=ptq_int8", "compress.after_fit.int8.batches=3", "init_from=x"], "batches"),
    ],
)
def test_a_run_that_trains_nothing_needs_a_net_and_a_pass_for_afterwards(command, toy, settings, words):
    outcome = command("train", *toy, *settings, "trainer.max_epochs=0")
    assert outcome.code == 2
    assert words in outcome.sentence


def test_torchao_is_imported_by_nothing_but_quantization():
    code = "import sys, zoo.run, zoo.evaluation; print('torchao' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_loggers_that_are_hushed_speak_afterwards():
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    quantized("lenet300")
    assert logger.level == level
