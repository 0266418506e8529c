"""int8: a net that computes nearly the same in a quarter of the bytes, and is restored from its file."""

import json
import logging
import time

import pytest
import torch
from conftest import composed, inputs_of, scalars
from small import FACTS, MobileNet, facts_of
from torch import nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.compress.context import Context
from zoo.errors import BadInput, ZooError
from zoo.models.lenet import LeNet300
from zoo.models.resnet import ResNet
from zoo.quantize.convert_int8 import converted
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.pooling import pad_integers, without_ceil_mode
from zoo.quantize.pt2e import chosen, graph_of, layers_of, lower, sums_int8_exactly, traced
from zoo.quantize.ptq_int8 import ptq
from zoo.quantize.qat_int8 import fake_quantized, qat_int8
from zoo.report.settings_row import simulates_int8
from zoo.run.model import build_bare_model
from zoo.run.quantize_product import ptq_int8
from zoo.run.result import measure_product
from zoo.run.trainer import resolve_precision


def float_net(model, data="mnist_5k"):
    torch.manual_seed(0)
    cfg = composed(model, data)
    return build_bare_model(cfg.model).eval(), cfg


def example_of(cfg):
    return tuple(x.to("meta") for x in inputs_of(cfg, 1))


def noise(cfg, num=8):
    """Return two batches of noise with labels."""
    return [(*inputs_of(cfg, num), torch.zeros(num, dtype=torch.long)) for _ in range(2)]


def quantized(model, float_layers=(), data="mnist_5k", batches=None, num_batches=2):
    """Return a net with random weights, its int8 version as a product, and two images."""
    net, cfg = float_net(model, data)
    trace = traced(net, example_of(cfg))
    batches = batches or noise(cfg)
    program, tensors = ptq(trace, batches, num_batches, chosen(float_layers, layers_of(trace)))
    step = {"pass": "ptq_int8", "program": program}
    return net, Product("none", tensors, facts_of(cfg, [step])), batches[0][0]


def with_statistics(net):
    """Return a net in eval mode with batch norm statistics other than 0 and 1."""
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.3, 1.2)
    return net.eval()


def tiny():
    """Draw a net with batch norms, one of them in a shortcut."""
    torch.manual_seed(0)
    return with_statistics(ResNet("basic", [1, 1], [4, 8], 1, 10, 28))


def googlenet():
    """Draw a net with batch norms whose eps is not torch's."""
    return with_statistics(float_net("googlenet")[0])


def tiny_int8(float_layers=()):
    """Return a tiny net, its int8 version as a product, and images."""
    net, images = tiny(), torch.randn(8, 1, 28, 28)
    trace = traced(net, (images[:1].to("meta"),))
    program, tensors = ptq(trace, [(images, None)], 1, chosen(float_layers, layers_of(trace)))
    step = {"pass": "ptq_int8", "program": program}
    return net, Product("none", tensors, {**FACTS, "recipe": [step]}), images


def test_a_net_in_int8_says_nearly_what_it_did():
    net, product, images = tiny_int8()
    with torch.no_grad():
        error = (load_model(product)(images) - net(images)).abs().max()
    assert 0 < error < 0.03 * net(images).abs().max()


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
    _, product, images = tiny_int8(["conv1", "layer2.*"])
    kept = {name for name, tensor in product.weights.items() if tensor.is_floating_point() and tensor.ndim > 1}
    assert kept == {"conv1.weight", *(f"layer2.0.{n}.weight" for n in ("conv1", "conv2", "downsample.0"))}
    assert load_model(product)(images).isfinite().all()


def test_tracing_leaves_the_net_as_it_was():
    net, cfg = float_net("vgg11_bn")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    traced(net, example_of(cfg))
    assert any(module.inplace for module in net.modules() if hasattr(module, "inplace"))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


def test_what_mobile_nets_are_made_of_has_an_int8_form():
    net, images = MobileNet(gated=True, shuffled=True).eval(), torch.randn(16, 1, 28, 28)
    trace = traced(net, (torch.empty(1, 1, 28, 28, device="meta"),))
    program, tensors = ptq(trace, [(images, None)], 1)
    asked = {name for name, *_ in program}
    assert {"aten.hardtanh.default", "aten.hardswish.default", "aten.hardsigmoid.default", "aten.mean.dim"} <= asked
    assert tensors["blocks.0.depthwise.0.weight"].shape == (96, 1, 3, 3)
    assert tensors["blocks.0.depthwise.0.weight"].dtype == torch.int8
    with torch.no_grad():
        logits, found = net(images), deserialize(program, tensors, "the net")(images)
    assert float((found - logits).abs().max()) < 0.05 * float(logits.std())  # int8 has 127 steps


@pytest.mark.skipif(not sums_int8_exactly(), reason="needs VNNI")
@pytest.mark.parametrize("model", ["lenet5_caffe", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_what_inductor_makes_of_int8_is_what_it_is_eagerly(model):
    # GoogLeNet's pooling layers use ceil_mode, which Inductor ignores in int8.
    _, product, images = quantized(model)
    net = load_model(product)
    with torch.no_grad():
        eager = net(images)
        lower(net, images)
        assert net._compiled_call_impl is not None
        assert (net(images) - eager).abs().max() < 0.02 * eager.abs().max()


def test_int8_is_not_compiled_for_a_cpu_that_would_cut_off_its_sums(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    _, product, images = tiny_int8()
    with pytest.raises(ZooError, match="this one has none"):
        lower(load_model(product), images)


def test_a_pooling_that_rounds_up_pools_what_it_did_without_rounding():
    torch.manual_seed(0)
    for size in (6, 7, 8):
        for kernel, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (3, 1, 1)):
            pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
            image = torch.randn(2, 3, size, size + 1) - 5  # below 0, so that padding with zeros would be noticed
            trace = traced(pool, (image[:1].to("meta"),))
            found = without_ceil_mode(graph_of(trace))
            assert found(image).equal(pool(image))
            assert "True" not in found.code


def test_integers_are_pooled_where_a_pooling_rounds_up():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 4, 3)).eval()
    images = torch.randn(4, 3, 10, 12)
    found = deserialize(*ptq(traced(net, (images[:1].to("meta"),)), [(images, None)], 1), "the net")
    with torch.no_grad():
        before = found(images)
        pad_integers(found)
        assert found(images).equal(before)
        assert (before - net(images)).abs().max() < 0.05 * float(net(images).std())
    (pool,) = found.graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default)
    kinds = []  # of the operations before the pooling, from the last to the first
    while pool.args and pool.op != "placeholder":
        pool = pool.args[0]
        kinds.append(str(pool.target).split(".")[-2] if pool.op == "call_function" else pool.op)
    assert kinds[:5] == ["dequantize_per_tensor", "pad", "quantize_per_tensor", "relu", "conv2d"]


@pytest.mark.parametrize(
    ("model", "data", "change", "words"),
    [
        ("transformer", "reverse", {}, "reads sequences; use compress=weight_int8 or dynamic_int8"),
        ("lenet5", "mnist_5k", {"batches": [(torch.zeros(2, 3, 28, 28), torch.zeros(2))]}, "are (3, 28, 28), and"),
        ("lenet5", "mnist_5k", {"num_batches": 3}, "num_batches=3: expected at most 2"),
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
        (
            [["input"], ["aten.relu.default", {"result": 5}], ["output", {"result": 1}]],
            "neither a tensor nor an earlier result",
        ),
        ([["input"], ["aten.relu.default", {"tensor": "w"}], ["output", {"result": 1}]], "tensors"),
        ([["input"], ["operator.attrgetter", "x"], ["output", {"result": 1}]], "'operator.attrgetter'"),
    ],
)
def test_a_program_that_asks_for_anything_but_a_nets_arithmetic_is_refused(program, words):
    with pytest.raises(BadInput, match=words):
        deserialize(program, {}, "model.safetensors")


def test_a_run_quantizes_tests_int8_and_tells_what_the_float_net_was(command, toy, teacher, tmp_path):
    line = [*(a for a in toy if not a.startswith(("name=", "trainer.max_epochs"))), "trainer.max_epochs=0"]
    assert (
        command("train", *line, f"init_from={teacher}", "compress=ptq_int8", "compress.max_drop=50", "name=int8").code
        == 0
    )
    (folder,) = tmp_path.glob("runs/int8/*")
    result, before = (
        json.loads((folder / "result.json").read_text()),
        json.loads((teacher.parent / "result.json").read_text()),
    )
    assert simulates_int8(result)
    assert not simulates_int8(before)
    told = result["compress"]["int8"]["float"]
    assert told["test"]["accuracy"] == pytest.approx(before["test"]["accuracy"], abs=1e-6)
    found = {key: result["compress"]["int8"][key] for key in ("max_drop", "float_layers", "sensitivity")}
    assert found == {"max_drop": 50, "float_layers": [], "sensitivity": {}}
    assert told["product_bytes"] == (folder / "trained.safetensors").stat().st_size
    assert result["product_bytes"] == (folder / "model.safetensors").stat().st_size < 0.35 * told["product_bytes"]
    assert (result["params"], result["macs"], result["epochs"], result["best_epoch"]) == (61_706, 416_520, 0, 0)
    assert abs(result["test"]["accuracy"] - told["test"]["accuracy"]) < 0.03
    assert command("evaluate", f"checkpoint={folder}/model.safetensors").code == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-6)
    assert read_product(folder / "trained.safetensors").weights.keys() == read_product(teacher).weights.keys()

    int8, words = f"init_from={folder}/model.safetensors", "is already quantized; use the float net"
    for settings in (["ptq_int8"], ["weight_int4"], ["qat_int8", "trainer.max_epochs=1"]):
        again = command("train", *line, int8, f"compress={settings[0]}", *settings[1:])
        assert (again.code, words in again.sentence) == (2, True), again.err


def in_training(net):
    """Return the net that trains with fake quantization, and images."""
    images = torch.randn(16, 1, 28, 28)
    return fake_quantized(net, [qat_int8(net, Context((images[:1].to("meta"),)))]), images


def test_a_layer_that_int8_ruins_stays_in_floats_and_no_other(tmp_path):
    torch.manual_seed(0)
    net, images = LeNet300().eval(), torch.randn(200, 1, 28, 28)
    images[:, :, 0, 0] = 1e4  # so all other pixels are below one quantization step
    with torch.no_grad():
        net.layers[1].weight[:, 0] = 0
        labels = net(images).argmax(1)

    def measure(net, split):
        with torch.no_grad():
            logits = net(images)
        hits = (logits.argmax(1) == labels).float().mean()
        return {"accuracy": float(hits), "loss": float(nn.functional.cross_entropy(logits, labels))}

    model = {"_target_": "zoo.models.lenet.LeNet300", "num_classes": 10}
    config = {**FACTS["config"], "model": model, "init_from": None}
    facts = {**FACTS, "config": config, "best": {"epoch": 0, "metrics": {}}}
    path = tmp_path / "model.safetensors"
    save_product(path, net.state_dict(), facts)
    context = Context((images[:1].to("meta"),), [(images, labels)], measure=measure)
    product, told = ptq_int8(read_product(path), context, num_batches=1, max_drop=2)
    assert told["float_layers"] == product.facts["recipe"][0]["float_layers"] == ["layers.1"]
    assert told["sensitivity"]["layers.1"] > 10 > 2 > max(told["sensitivity"][f"layers.{i}"] for i in (3, 5))
    assert measure(load_model(product), "val")["accuracy"] >= 0.98
    kinds = {name: tensor.dtype for name, tensor in product.weights.items() if name.endswith(".weight")}
    assert kinds == {f"layers.{i}.weight": torch.float32 if i == 1 else torch.int8 for i in (1, 3, 5)}


def all_tensors(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changed(net, before):
    return {name.rpartition(".")[2] for name, tensor in net.state_dict().items() if not tensor.equal(before[name])}


@pytest.mark.parametrize("draw", [tiny, pytest.param(googlenet, marks=pytest.mark.slow)])
def test_what_is_converted_is_what_was_trained(draw):
    net = draw()
    trained, images = in_training(net)
    for module in trained.fake_quantizers():
        module.disable_fake_quant()
    with torch.no_grad():
        trained.norms_move = False
        trained.train()(images)  # sets the activation ranges
        torch.testing.assert_close(trained.eval()(images), net(images), rtol=1e-3, atol=1e-4)  # GoogLeNet's eps, too
        for module in trained.fake_quantizers():
            module.enable_fake_quant()
        rounded = trained(images)
        int8 = deserialize(*converted(trained), "the net")(images)
        error = (rounded - net(images)).abs().max()
        assert 0 < error < 0.2 * net(images).abs().max()
        off = (int8 - rounded).abs().amax(1)  # by image; at most a sum that rounds differently in another order
        assert off.max() < (0.3 if draw is tiny else 0.5) * error
        assert off.median() < 1e-3 * error


def test_ranges_and_statistics_move_in_train_mode_until_they_are_held_and_never_in_eval_mode():
    net, images = in_training(tiny())
    net.train()(images)
    state = all_tensors(net)
    net.eval()(2 * images)
    assert changed(net, state) == {"observer_enabled"}
    net.training = True  # as set by Lightning after validation
    net(2 * images)
    assert {"running_mean", "running_var", "min_val", "max_val", "scale"} <= changed(net, state)
    state, net.norms_move = all_tensors(net), False
    net(3 * images)
    assert {"min_val", "max_val", "scale"} <= changed(net, state) <= {"min_val", "max_val", "scale", "zero_point"}
    net.observes = False
    state = all_tensors(net)
    net(4 * images).sum().backward()
    assert changed(net, state) == {"observer_enabled"}
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_run_trains_with_fake_quantization_and_tests_int8(command, toy, teacher, tmp_path, monkeypatch):
    measure, seen = measure_product, []

    def watched(this, trainer, task, data):
        before = task.net, trainer.precision_plugin
        result = measure(this, trainer, task, data)
        seen.append([one is other for one, other in zip(before, (task.net, trainer.precision_plugin), strict=True)])
        return result

    monkeypatch.setattr("zoo.run.result.measure_product", watched)
    line = [a for a in toy if not a.startswith(("name=", "optim.lr"))]
    line += [f"init_from={teacher}", "compress=qat_int8", "optim.lr=1e-4", "trainer.precision=bf16-mixed"]
    assert command("train", *line, "name=qat").code == 0
    assert seen == [[True, True]]  # the net and precision of training are restored
    (folder,) = tmp_path.glob("runs/qat/*")
    result, before = (json.loads((f / "result.json").read_text()) for f in (folder, teacher.parent))
    assert result["compress"]["int8"]["float"]["test"]["accuracy"] == pytest.approx(before["test"]["accuracy"])
    assert result["test"]["accuracy"] > before["test"]["accuracy"] - 0.03
    assert result["product_bytes"] < 0.35 * before["product_bytes"]
    assert result["precision"] == resolve_precision("bf16-mixed", "cpu")  # of training
    found = []
    for name, ending in (("trained", "_trained.safetensors"), ("model", "")):
        assert command("evaluate", f"checkpoint={folder}/{name}.safetensors").code == 0
        found.append(json.loads((folder / f"evaluation{ending}.json").read_text()))
    assert found[1]["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-6)
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-3)
    curves = scalars(folder)
    assert [value for _, value in curves["while compressing/norms_move"]] == [1, 0, 0]
    assert [value for _, value in curves["while compressing/ranges_move"]] == [1, 1, 0]

    assert command("train", f"resume={folder}", "trainer.max_epochs=4").code == 0
    assert json.loads((folder / "result.json").read_text())["epochs"] == 4
    again = command("train", *line, f"init_from={folder}/trained.safetensors")
    assert (again.code, "is already quantized" in again.sentence) == (2, True)


def test_a_net_of_fewer_channels_is_trained_and_taught_on_as_int8(command, toy_smoke, tmp_path):
    line = [a for a in toy_smoke if not a.startswith("name=")]
    settings = ["compress=prune_channels", "compress.before_fit.channels.round_to=1", "name=pruned"]
    assert command("train", *line, *settings).code == 0
    (pruned,) = tmp_path.glob("runs/pruned/*/model.safetensors")
    settings = [f"init_from={pruned}", "task=distill", f"task.teacher={pruned}", "compress=qat_int8", "name=int8"]
    assert command("train", *line, *settings).code == 0
    (file,) = tmp_path.glob("runs/int8/*/model.safetensors")
    one, two = (read_product(path) for path in (pruned, file))
    assert [step["pass"] for step in two.facts["recipe"]] == ["prune_channels", "qat_int8", "convert_int8"]
    layers = [name for name in one.weights if name.endswith("weight")]
    assert all(two.weights[name].dtype == torch.int8 for name in layers)
    assert all(two.weights[name].shape == one.weights[name].shape for name in layers)
    assert sorted(len(two.weights[name]) for name in layers) == [3, 8, 10, 42, 60]  # of 6, 16, 10, 84, 120
    assert command("evaluate", f"checkpoint={file}").code == 0


@pytest.mark.slow
def test_killed_while_ranges_are_held_it_ends_as_if_it_had_not_been(command, process, toy, only_run, tmp_path):
    line = [a for a in toy if not a.startswith(("trainer.", "data.batch_size"))]
    line += ["trainer.max_epochs=5", "data.batch_size=16", "compress=qat_int8", "callbacks.resume.every_minutes=0.0002"]
    assert command("train", *line).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")
    running = process("train", *line)
    saved = tmp_path / "runs"
    while not any(torch.load(f, weights_only=True)["global_step"] > 160 for f in saved.glob("*/*/last.ckpt")):
        time.sleep(0.02)
        assert running.poll() is None, running.communicate()[1]
    running.kill()
    running.communicate()
    assert command("train", f"resume={only_run()}").code == 0
    for name in ("trained", "model"):
        one, two = (read_product(f / f"{name}.safetensors") for f in (undisturbed, only_run()))
        assert all(tensor.equal(two.weights[key]) for key, tensor in one.weights.items())
    assert one.facts["recipe"] == two.facts["recipe"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["compile=true"], "compile does not work with compress=qat_int8"),
        (["model.freeze=backbone"], "model.freeze does not work with compress=qat_int8"),
        (["trainer.precision=bf16-true"], "use bf16-mixed"),
        (["callbacks=ema"], "callbacks=ema would undo compress"),
        (["compress.freeze_norms=0.9"], "expected moments in increasing order"),
        (["compress.before_fit.int8.float_layers=[features.1]"], "is named 'features.1'"),
        (["trainer.max_epochs=0"], "trainer.max_epochs: expected"),
        (["compress.before_fit.int8=null"], "convert_int8 is for a net of compress=qat_int8"),
    ],
)
def test_what_fake_quantization_does_not_go_with_is_refused_in_one_sentence(command, toy, tmp_path, settings, words):
    outcome = command("train", *toy, "compress=qat_int8", *settings)
    assert outcome.code == 2
    sentence = outcome.err.strip().splitlines()[-1]  # after the messages of the previous pass
    assert sentence.startswith("error: ")
    assert words in sentence
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["compress=semi_structured"],
            "is for linear layers whose sides are multiples of 16, and LeNet5 has none here",
        ),
        (["compress=qat_int8", "data=reverse"], "int8 activations are for image nets, and Transformer reads"),
        (
            ["compress=ptq_int8", "data=reverse"],
            "compress.after_fit.int8 is for images, and data=reverse has sequences",
        ),
    ],
)
def test_compression_that_does_not_fit_the_net_is_refused_before_anything_is_trained(command, toy, settings, words):
    if "data=reverse" in settings:
        toy = ["trainer=cpu"]
    outcome = command("train", *toy, *settings)
    assert (outcome.code, words in outcome.sentence) == (2, True), outcome.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["compress=ptq_int8"], "init_from: expected"),
        (["compress=prune_channels"], "trainer.max_epochs: expected"),
        (["compress=ptq_int8", "compress.after_fit.int8.batches=3", "init_from=x"], "batches"),
    ],
)
def test_a_run_that_trains_nothing_needs_a_net_and_a_pass_for_afterwards(command, toy, settings, words):
    outcome = command("train", *toy, *settings, "trainer.max_epochs=0")
    assert outcome.code == 2
    assert words in outcome.sentence


def test_loggers_that_are_hushed_speak_afterwards():
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    quantized("lenet300")
    assert logger.level == level
