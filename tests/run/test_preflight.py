"""Each planted fault is reported before epoch 1; a sound run has no warnings and trains as without the checks."""

import math
import re
import shutil

import pytest
import torch
from conftest import scalars, toy_images, write_idx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.checkpoint.product_file import read_product, save_product
from zoo.run import preflight_checks


def verdicts(folder):
    """Read the result of each check from log.txt: (state, sentence)."""
    found = re.findall(r"preflight, ([a-z ]+): (\w+)\. (.*)", (folder / "log.txt").read_text())
    return {name: (state, sentence) for name, state, sentence in found}


@pytest.fixture
def short(toy):
    return [*toy, "trainer.max_epochs=1", "preflight=true"]


def test_a_sound_net_passes_every_check_and_the_examples_are_drawn(command, short, only_run):
    outcome = command("train", *short)
    assert outcome.code == 0, outcome.err
    found = verdicts(only_run())
    assert {name: state for name, (state, _) in found.items() if state != "pass"} == {"labels": "look"}
    assert len(found) == 9
    assert "guessing among 10 gives 2.3" in found["initial loss"][1]
    assert "900 images" in found["splits"][1]
    assert (only_run() / "preflight.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(only_run()))
    events.Reload()
    assert "zoo diagnostics/examples before training" in events.Tags()["images"]


@pytest.mark.parametrize(
    "net", [["model=lenet5"], ["model=resnet20", "model.depths=[1,1,1]", "model.stochastic_depth=0.5"]]
)
def test_a_run_with_preflight_is_the_run_without_bit_for_bit(command, short, only_run, tmp_path, net):
    states = []
    for flag in ("true", "false"):
        assert command("train", *short, *net, f"preflight={flag}").code == 0
        states.append(torch.load(only_run() / "last.ckpt", weights_only=True))
        only_run().rename(tmp_path / flag)
    one, two = states
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert value.equal(two["state_dict"][name]), name
    for kind in ("torch", "python", "numpy"):
        assert str(one["random_states"][0][kind]) == str(two["random_states"][0][kind])
    assert scalars(tmp_path / "true")["train/loss"] == scalars(tmp_path / "false")["train/loss"]


@pytest.mark.parametrize(
    ("arguments", "check", "words"),
    [
        (["data.mean=[0]", "data.std=[1.01]"], "inputs", "not normalised"),
        (
            ["model=lenet300", "model._target_=faults.Deep", "trusted=[faults]", "model.activation=sigmoid"],
            "signal",
            "dies at layers",
        ),
        (
            ["model=lenet300", "model._target_=faults.Deep", "trusted=[faults]", "model.activation=sigmoid"],
            "overfitting",
            "cannot be memorised",
        ),
        (
            ["model._target_=faults.FirstFrozen", "trusted=[faults]"],
            "gradients",
            "features.0.weight, features.0.bias frozen",
        ),
    ],
    ids=["unnormalised", "signal of 20 sigmoids", "20 sigmoids learn nothing", "frozen"],
)
def test_a_fault_that_a_run_survives_is_named(command, short, only_run, monkeypatch, arguments, check, words):
    monkeypatch.setattr(preflight_checks, "MOST_SECONDS", math.inf)  # even if this machine is busy
    outcome = command("train", *short, *arguments)
    assert outcome.code == 0, outcome.err
    state, sentence = verdicts(only_run())[check]
    assert state == "warn"
    assert words in sentence
    assert check in outcome.out


def test_what_is_frozen_by_the_config_is_said_and_no_alarm(command, short, only_run):
    assert command("train", *short, "model.freeze=[features.0]").code == 0
    state, sentence = verdicts(only_run())["gradients"]
    assert (state, "frozen by model.freeze: features.0.weight" in sentence) == ("pass", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model._target_=faults.OneMore", "trusted=[faults]"], "11 outputs and the data have 10 classes"),
        (["model._target_=faults.WrongBackward", "trusted=[faults]"], "is off by 50"),
    ],
)
def test_a_fault_that_spoils_a_run_ends_it_before_it_begins(command, short, tmp_path, arguments, words):
    outcome = command("train", *short, *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("key", ["model.num_classes=7", "data.num_classes=7"])
def test_a_wrong_number_of_classes_in_the_config_is_refused_with_and_without(command, short, key):
    for flag in ("true", "false"):
        outcome = command("train", *short, key, f"preflight={flag}")
        assert outcome.code == 2
        assert key.split(".")[1] in outcome.sentence
        assert "10" in outcome.sentence


def test_weights_that_are_all_zero_end_a_run(command, toy_smoke, only_run, tmp_path):
    assert command("train", *toy_smoke).code == 0
    product = read_product(only_run() / "model.safetensors")
    zeros = {name: torch.zeros_like(weight) for name, weight in product.weights.items()}
    save_product(tmp_path / "zero.safetensors", zeros, product.facts)
    outcome = command("train", *toy_smoke, "preflight=true", f"init_from={tmp_path}/zero.safetensors")
    assert outcome.code == 2
    assert "no weight gets a gradient: the weights are all zero" in outcome.err
    assert "dies at features.0" in " ".join(outcome.out.replace("│", " ").split())


def test_a_test_image_in_the_training_split_is_found_and_numbered(command, short, only_run, fashion_root, tmp_path):
    shutil.copytree(fashion_root, tmp_path / "other")
    images, _ = toy_images(200, seed=1)
    others, _ = toy_images(700, seed=0)
    others[123] = images[45]
    write_idx(tmp_path / "other/FashionMNIST/raw/train-images-idx3-ubyte", others)
    line = [a for a in short if not a.startswith("data_root")] + [f"data_root={tmp_path}/other"]
    assert command("train", *line).code == 0
    state, sentence = verdicts(only_run())["splits"]
    assert state == "warn"
    assert "1 of 200 test images are in" in sentence
    assert "number 45 of test" in sentence


def test_checks_that_do_not_apply_to_sequences_say_so(command, only_run):
    line = ["data=reverse", "trainer=smoke", "trainer.accelerator=cpu", "preflight=true"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    found = verdicts(only_run())
    assert found["inputs"] == ("skip", "tokens are not normalised")
    assert "→" in found["labels"][1]
    assert {state for state, _ in found.values()} == {"pass", "skip", "look"}


def test_preflight_is_true_or_false(command):
    assert "preflight: expected true or false" in command("train", "preflight=maybe").sentence
