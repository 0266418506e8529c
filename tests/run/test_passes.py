"""A run prunes before training, records its steps, and other runs start from its result."""

import functools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import compose_run
from torch import nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.compress import prune_channels
from zoo.compress.context import Context
from zoo.compress.latency_table import LatencyTable
from zoo.errors import BadInput
from zoo.measure.counts import count_parameters
from zoo.models.lenet import LeNet300
from zoo.run import passes
from zoo.run import result as run_result
from zoo.run.pack_product import pack

PRUNE = ["compress=prune_channels", "compress.before_fit.channels.macs=0.5"]


@pytest.fixture
def folders(tmp_path):
    def find(name):
        return sorted(path.parent for path in tmp_path.glob(f"runs/{name}/*/config.yaml"))

    return find


def test_a_run_prunes_and_the_next_one_builds_on_its_recipe(command, toy_smoke, folders, monkeypatch):
    base = [a for a in toy_smoke if not a.startswith("name=")]
    monkeypatch.setattr(run_result, "latencies_ms", lambda nets, *_, **__: [float(count_parameters(n)) for n in nets])
    assert command("train", *base, *PRUNE, "name=one").code == 0
    (one,) = folders("one")
    result, product = json.loads((one / "result.json").read_text()), read_product(one / "model.safetensors")
    assert result["macs"] == pytest.approx(0.5 * 416_520, rel=0.05)  # LeNet-5's
    assert product.facts["recipe"] == json.loads((one / "recipe.json").read_text())["steps"]
    assert list(result["before"]["repair"]) == ["before", "cut", "norms", "refit"]
    assert (result["before"]["latency_ms"], result["latency_ms"]) == (61_706, result["params"])  # timed in turn
    start = f"init_from={one}/model.safetensors"
    assert command("train", *base, *PRUNE, start, "name=two").code == 0
    (two,) = folders("two")
    steps = read_product(two / "model.safetensors").facts["recipe"]
    assert len(steps) == 2
    assert steps[:1] == product.facts["recipe"]
    of_two = json.loads((two / "result.json").read_text())
    assert of_two["macs"] == pytest.approx(0.25 * 416_520, rel=0.1)
    assert (of_two["before"]["latency_ms"], of_two["latency_ms"]) == (result["params"], of_two["params"])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # plain fine-tuning and evaluation do not need it
    assert command("train", *base, start, "name=three").code == 0
    (three,) = folders("three")
    assert read_product(three / "model.safetensors").facts["recipe"] == product.facts["recipe"]
    assert "latency_ms" not in json.loads((three / "result.json").read_text())["before"]  # it is as fast
    assert command("evaluate", f"checkpoint={two}/model.safetensors").code == 0


@pytest.fixture
def measured(monkeypatch):
    """Let the time of a net be the number of its parameters; return the batch size of each measurement."""
    measured = []

    def time_nets(nets, inputs, runtime):  # made up, so that other work on this machine does not matter
        measured.append(len(inputs[0]))
        return [float(count_parameters(net)) for net in nets]

    table = functools.partial(
        LatencyTable, time_layer=lambda layer, _: 1.0 * count_parameters(layer), time_nets=time_nets
    )
    monkeypatch.setattr(prune_channels, "LatencyTable", table)
    return measured


def test_what_a_pass_did_is_said_in_words():
    sizes = {"macs_before": 30821248, "macs": 15417800, "params_before": 269434, "params": 126502}
    step = {"pass": "prune_channels", "scope": "layer", "round_to": 4, **sizes, "layout": {"conv1": {}}}
    assert passes.described(step) == (
        "prune_channels with scope layer, round to 4; "
        "multiply-accumulates from 30,821,248 to 15,417,800, parameters from 269,434 to 126,502"
    )
    assert passes.described({"pass": "fold_norms", "layout": {}}) == "fold_norms"


@pytest.mark.slow
def test_a_run_prunes_for_a_latency_and_the_next_one_takes_over_its_times(command, toy_smoke, folders, measured):
    base = [a for a in toy_smoke if not a.startswith("name=")]
    channels = "compress.before_fit.channels"
    line = ["compress=prune_channels", f"{channels}.latency=0.8", f"{channels}.latency_batch=4"]
    assert command("train", *base, *line, "name=one").code == 0
    (one,) = folders("one")
    num_measured = len(measured)
    assert set(measured) == {4}
    assert command("train", *base, *line, "name=two", f"{channels}.latency_table={one}/latencies.json").code == 0
    (two,) = folders("two")
    assert len(measured) == num_measured
    steps = [json.loads((folder / "recipe.json").read_text())["steps"] for folder in (one, two)]
    assert steps[0] == steps[1]
    assert steps[0][0]["params"] == pytest.approx(0.8 * steps[0][0]["params_before"], rel=0.05)
    assert (one / "latencies.json").read_bytes() == (two / "latencies.json").read_bytes()


@pytest.mark.slow
def test_a_file_of_the_bytes_in_the_time_that_were_asked_for(command, toy, folders, measured):
    base = [a for a in toy if not a.startswith(("name=", "data.num"))] + ["data.num_validation=250"]
    assert command("train", *base, "trainer.max_epochs=8", "name=dense").code == 0
    (dense,) = folders("dense")
    line = [f"init_from={dense}/model.safetensors", "compress=auto", "compress.rate.every=4", "trainer.max_epochs=16"]
    targets = ["compress.target.latency=0.7", "compress.target.bytes=6000", "compress.max_drop=20"]
    assert command("train", *base, *line, *targets, "name=small").code == 0
    (small,) = folders("small")
    before, result = (json.loads((folder / "result.json").read_text()) for folder in (dense, small))
    rate = result["compress"]["rate"]
    assert rate["met"]
    assert rate["reference_accuracy"] == pytest.approx(before["validation"]["accuracy"])  # of all channels
    assert (small / "model.zoo").stat().st_size <= 6000
    assert result["params"] <= 0.7 * 1.05 * before["params"]
    assert measured
    outcome = command("train", *base, *line, "compress.target.latency=0.0001", "name=none")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: compress.target.latency=0.0001: ")
    assert not folders("none")


def test_a_resumed_run_has_the_net_it_had_and_does_not_prune_anew(command, toy, folders, monkeypatch):
    line = [*(a for a in toy if not a.startswith("trainer.max_epochs")), *PRUNE]
    assert command("train", *line, "trainer.max_epochs=2").code == 0
    (whole,) = folders("toy")
    short = [a for a in line if not a.startswith("name=")] + ["name=short", "schedule=constant"]
    assert command("train", *short, "trainer.max_epochs=1").code == 0
    (folder,) = folders("short")
    before = (folder / "recipe.json").read_bytes()
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert command("train", f"resume={folder}", "trainer.max_epochs=2").code == 0
    assert (folder / "recipe.json").read_bytes() == before == (whole / "recipe.json").read_bytes()
    assert json.loads((folder / "result.json").read_text())["epochs"] == 2


def test_two_processes_train_the_same_pruned_net(process, toy_smoke, folders):
    line = [a for a in toy_smoke if not a.startswith("name=")]
    line += [
        *PRUNE,
        "trainer.accelerator=cpu",
        "callbacks.progress=null",
        "compress.before_fit.channels.importance=taylor",
    ]
    for name, devices in (("alone", 1), ("two", 2)):
        running = process("train", *line, f"name={name}", f"trainer.devices={devices}")
        _, err = running.communicate(timeout=300)
        assert running.returncode == 0, err
    products = [read_product(folders(name)[0] / "model.safetensors") for name in ("alone", "two")]
    one, two = (load_model(product).eval() for product in products)
    assert str(one) == str(two)
    images = torch.randn(4, 1, 28, 28)
    assert products[1].facts["recipe"][0]["macs"] < 0.55 * 416_520
    assert two(images).isfinite().all()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_of_every_four_weights_stay_zero_while_the_net_trains_and_is_resumed(
    command, toy_smoke, folders, optimizer
):
    line = [a for a in toy_smoke if not a.startswith("name=")] + ["model=vgg11", f"optim={optimizer}"]
    assert command("train", *line, "compress=semi_structured", "name=fours", "schedule=constant").code == 0
    (folder,) = folders("fours")
    first = read_product(folder / "model.safetensors").weights
    assert command("train", f"resume={folder}", "trainer.max_epochs=2").code == 0
    product = read_product(folder / "model.safetensors")
    assert product.facts["recipe"] == [{"pass": "semi_structured", "layers": ["classifier.0", "classifier.3"]}]
    for name in ("classifier.0.weight", "classifier.3.weight"):
        weight = product.weights[name]
        assert (weight.unflatten(1, (-1, 4)) != 0).sum(2).le(2).all()
        assert (weight == 0).equal(first[name] == 0)
    assert float((product.weights["classifier.0.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


QAT = [{"pass": "qat_int8", "shape": [1, 28, 28], "float_layers": []}]


@pytest.mark.parametrize(
    ("choice", "setting", "words"),
    [
        ("ptq_int8", "num_batches=0", "num_batches: expected a whole number of at least 1"),
        ("ptq_int8", "num_batches=11", "num_batches=11: expected at most 10"),
        ("ptq_int8", "float_layers=[conv9]", "'conv9'"),
        ("ptq_int8", "float_layers=layers.0", "float_layers: expected a list"),
        ("ptq_int8", "float_layers=['*']", "leaves no layer in int8"),
        ("ptq_int8", "max_drop=-1", "max_drop: expected a number of at least 0 and below 100"),
        ("ptq_int8", "max_drop=nan", "max_drop: expected a number of at least 0 and below 100"),
        ("ptq_int8", "max_drop=100", "max_drop: expected a number of at least 0 and below 100"),
        ("weight_int4", "bits=5", "bits: expected one of 4, 8"),
        ("weight_int4", "group=0", "group: expected a whole number of at least 1"),
        ("weight_int8", "float_layers=[conv9]", "'conv9'"),
        ("weight_int8", "float_layers=['*']", "no layer left"),
        ("dynamic_int8", "group=64", "dynamic=true"),
    ],
)
def test_a_wrong_setting_of_what_comes_after_the_fit_is_told_before_it(choice, setting, words):
    name = "int4" if choice == "weight_int4" else "int8"
    cfg = compose_run("model=lenet300", f"compress={choice}", f"++compress.after_fit.{name}.{setting}")
    with pytest.raises(BadInput, match=rf"^compress\.after_fit\.{name}[:.].*{re.escape(words)}"):
        check(cfg, LeNet300())


def check(cfg, net, recipe=()):
    """Run the checks of a config's passes before the fit, with data of ten batches."""
    image = (torch.empty(1, 1, 28, 28, device="meta"),)
    data = SimpleNamespace(loader=lambda split, device: [None] * 10, example=lambda: image)
    passes._check_after_fit(passes._built(SimpleNamespace(cfg=cfg), "after_fit"), net, data, recipe)


def test_int8_is_asked_of_the_net_before_the_fit():
    ptq, qat, weights = (compose_run(f"compress={name}") for name in ("ptq_int8", "qat_int8", "weight_int8"))
    check(ptq, LeNet300())
    check(weights, LeNet300())
    check(qat, LeNet300(), QAT)
    with pytest.raises(BadInput, match="convert_int8 is for a net of compress=qat_int8"):
        check(qat, LeNet300())
    with pytest.raises(BadInput, match="needs a float net"):
        check(ptq, LeNet300(), QAT)
    odd = LeNet300()
    odd.layers.append(nn.LogSigmoid())
    with pytest.raises(BadInput, match=r"^compress\.after_fit\.int8: int8 does not support aten\.log_sigmoid\.default"):
        check(ptq, odd)


def test_nothing_is_trained_where_what_follows_would_be_refused(command, toy, only_run):
    done = command("train", *toy, "compress=ptq_int8", "compress.after_fit.int8.num_batches=99")
    assert (done.code, "num_batches=99: expected at most 10" in done.sentence) == (2, True)
    assert not list(Path("runs").rglob("metrics.csv"))


def test_a_packed_net_without_the_channels_that_no_weight_reads_is_tested_as_it_is(command, toy, tmp_path):
    assert command("train", *toy, "model=lenet300", "name=dense").code == 0
    product = read_product(tmp_path / "runs/dense")
    product.weights["layers.3.weight"][:, 100:] = 0  # of 300 units, 200 are not read
    save_product(tmp_path / "some.safetensors", product.weights, product.facts)
    line = ["init_from=some.safetensors", "trainer.max_epochs=0", "name=small", "compress=packed"]
    outcome = command("train", *line, "compress.after_fit.pack.remove_unread=true")
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("runs/small/*")
    result = json.loads((folder / "result.json").read_text())
    assert result["macs"] == 784 * 100 + 100 * 100 + 100 * 10
    assert result["params"] == result["macs"] + 100 + 100 + 10
    assert command("evaluate", f"checkpoint={folder}/model.zoo", "accelerator=cpu").code == 0
    found = json.loads((folder / "evaluation_model.zoo.json").read_text())
    assert found["accuracy"] == pytest.approx(result["test"]["accuracy"])

    # Where nearly all weights are 0, and zeros cost nothing, a list of what was removed would take more bytes.
    dense = read_product(tmp_path / "runs/dense").weights
    weights = {name: (weight.abs() == weight.abs().max()).float() for name, weight in dense.items()}
    few = Product(tmp_path / "few", weights, product.facts)
    context = Context((torch.empty(1, 1, 28, 28, device="meta"),))
    assert [pack(few, context, remove_unread=one)[0].facts["recipe"] for one in (True, False)] == [[], []]
