"""A run prunes before it trains, keeps what it did, and is taken on from there."""

import json
import sys

import pytest
import torch

from zoo.checkpoint import read_product
from zoo.nets import net_of

PRUNE = ["compress=prune_channels", "compress.before_fit.channels.macs=0.5"]


@pytest.fixture
def folders(tmp_path):
    def find(name):
        return sorted(path.parent for path in tmp_path.glob(f"runs/{name}/*/config.yaml"))

    return find


def test_a_run_prunes_and_the_next_one_builds_on_its_recipe(command, toy_smoke, folders, monkeypatch):
    base = [a for a in toy_smoke if not a.startswith("name=")]
    assert command("train", *base, *PRUNE, "name=one").code == 0
    (one,) = folders("one")
    result, product = json.loads((one / "result.json").read_text()), read_product(one / "model.safetensors")
    assert result["macs"] == pytest.approx(0.5 * 416_520, rel=0.05)  # LeNet-5's
    assert product.facts["recipe"] == json.loads((one / "recipe.json").read_text())
    start = f"init_from={one}/model.safetensors"
    assert command("train", *base, *PRUNE, start, "name=two").code == 0
    (two,) = folders("two")
    steps = read_product(two / "model.safetensors").facts["recipe"]
    assert len(steps) == 2
    assert steps[:1] == product.facts["recipe"]
    assert json.loads((two / "result.json").read_text())["macs"] == pytest.approx(0.25 * 416_520, rel=0.1)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # plain fine-tuning and evaluation do without it
    assert command("train", *base, start, "name=three").code == 0
    (three,) = folders("three")
    assert read_product(three / "model.safetensors").facts["recipe"] == product.facts["recipe"]
    assert command("evaluate", f"checkpoint={two}/model.safetensors").code == 0


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
    one, two = (net_of(product).eval() for product in products)
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
