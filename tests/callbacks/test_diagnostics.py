"""Problems of a run are reported in a sentence at its end; a sound run has none, and trains as without diagnostics."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import scalars, toy_images, write_idx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from zoo.callbacks.board import DIAGNOSTICS as GROUP
from zoo.callbacks.resume import ResumeCheckpoint
from zoo.checkpoint.product_file import read_product, save_product
from zoo.errors import Diverged


def reading(folder):
    return " ".join(json.loads((folder / "diagnostics.json").read_text())["reading"])


@pytest.fixture
def watched(toy):
    return [*toy, "callbacks=diagnostics", "callbacks.diagnostics.every=4"]


def test_of_a_sound_run_nothing_stands_out_and_all_figures_are_in_tensorboard(command, watched, only_run):
    outcome = command("train", *watched)
    assert outcome.code == 0, outcome.err
    assert "Diagnostics\n  Nothing stands out.\n" in outcome.out
    assert reading(only_run()) == "Nothing stands out."
    layers = ["features.0", "features.3", "classifier.1", "classifier.3", "classifier.5"]
    tags = scalars(only_run())
    for layer in layers:
        assert [step for step, _ in tags[f"{GROUP}/update_ratio/{layer}"]] == [0, 4, 8, 10, 14, 18, 20, 24, 28]
        assert [step for step, _ in tags[f"{GROUP}/singular_value/{layer}"]] == [9, 19, 29]
    assert all(value == pytest.approx(1e-3) for _, value in tags[f"{GROUP}/update_ratio/rule_of_thumb"])
    assert {tag for tag in tags if tag.startswith(f"{GROUP}/dead_units/")} == {
        f"{GROUP}/dead_units/{layer}" for layer in layers[:-1]
    }
    events = EventAccumulator(str(only_run()), size_guidance={"histograms": 0})
    events.Reload()
    for kind, times in (("activations", 9), ("gradients", 9), ("weights", 3)):
        assert all(len(events.Histograms(f"{GROUP}/{kind}/{layer}")) == times for layer in layers)
    assert {f"{GROUP}/filters/features.0", f"{GROUP}/update_ratio of all layers"} <= set(events.Tags()["images"])
    (text,) = events.Tensors("diagnostics/what is measured/text_summary")
    explained = re.findall(r"(?m)^\| `(\w+)` \|", make_ndarray(text.tensor_proto)[0].decode())
    shown = {tag.split("/")[1] for tag in tags if tag.startswith(f"{GROUP}/")}
    assert shown - {"saturation", "update_ratio of all layers"} <= set(explained)
    (weights,) = (e.histogram_value for e in events.Histograms(f"{GROUP}/weights/features.0")[-1:])
    state = torch.load(only_run() / "last.ckpt", weights_only=True)["state_dict"]["net.features.0.weight"]
    assert (weights.min, weights.max) == pytest.approx((float(state.min()), float(state.max())))
    assert sum(weights.bucket) == state.numel()


@pytest.mark.parametrize(
    "net",
    [[], ["model=resnet20", "model.depths=[1,1,1]", "model.stochastic_depth=0.5", "trainer.accumulate_grad_batches=2"]],
    ids=["lenet5", "norms, draws and accumulation"],
)
def test_watching_leaves_training_as_it_is_bit_for_bit(command, watched, only_run, tmp_path, net):
    states = []
    for choice in (["callbacks=default"], ["callbacks=diagnostics", "callbacks.diagnostics.every=2"]):
        line = [a for a in watched if not a.startswith("callbacks")] + choice
        assert command("train", *line, *net, "trainer.max_epochs=2").code == 0
        states.append(torch.load(only_run() / "last.ckpt", weights_only=True))
        only_run().rename(tmp_path / choice[0])
    one, two = states
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert value.equal(two["state_dict"][name]), name
    assert one["random_states"][0]["torch"].equal(two["random_states"][0]["torch"])


def test_a_run_resumed_in_mid_epoch_ends_as_one_that_was_not_stopped(command, watched, only_run, tmp_path, monkeypatch):
    assert command("train", *watched).code == 0
    only_run().rename(tmp_path / "whole")
    go_on = ResumeCheckpoint.on_train_batch_end

    def stop_after_16(self, trainer, *args):
        if trainer.global_step == 16:
            self._signal = signal.SIGTERM
        go_on(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ResumeCheckpoint, "on_train_batch_end", stop_after_16)
        assert command("train", *watched).code == 143
    assert not (only_run() / "diagnostics.json").exists()
    assert command("train", f"resume={only_run()}").code == 0
    one, two = tmp_path / "whole", only_run()
    assert (one / "diagnostics.json").read_text() == (two / "diagnostics.json").read_text()
    states = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (one, two)]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    tag = f"{GROUP}/update_ratio/features.0"
    assert scalars(one)[tag] == scalars(two)[tag]


def test_a_compiled_net_is_watched_and_not_compiled_again(command, watched, only_run, monkeypatch):
    compilations = []

    def count(module, inputs):
        compilations.append(module)
        return module.forward

    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode=None: compile_(self, backend=count))
    numbers = []
    for choice in ("default", "diagnostics"):
        torch._dynamo.reset()
        compilations.clear()
        line = [a for a in watched if not a.startswith("callbacks")]
        assert command("train", *line, f"callbacks={choice}", "compile=true", "trainer.max_epochs=1").code == 0
        numbers.append(len(compilations))
        folder = only_run()
        folder.rename(folder.parent.parent.parent / choice)
    assert numbers[0] == numbers[1] > 0


def test_a_learning_rate_of_100_is_named_though_the_run_ends_in_nan(command, watched, only_run):
    line = [a for a in watched if not a.startswith("optim.")]
    outcome = command("train", *line, "optim=sgd", "optim.lr=100")
    assert outcome.code == Diverged.exit_code
    assert "the loss became nan" in outcome.sentence
    assert "The run ended early: the loss became nan" in reading(only_run())
    assert "with a learning rate of" in reading(only_run())
    assert "Diagnostics\n  The run ended early" in outcome.out


def test_a_learning_rate_of_100_is_named_where_adam_survives_it(command, watched, only_run):
    assert command("train", *watched, "optim.lr=100").code == 0
    assert "of their size, while 0.001 is usual" in reading(only_run())
    assert reading(only_run()).endswith("Try optim.lr=10; if that is not enough, trainer.gradient_clip_val=1.")
    assert "The training loss rose" in reading(only_run())


def test_a_net_of_20_sigmoids_is_named_for_its_dead_signal_and_its_vanished_gradient(command, watched, only_run):
    line = ["model=lenet300", "model._target_=faults.Deep", "trusted=[faults]", "model.activation=sigmoid"]
    assert command("train", *watched, *line).code == 0
    assert "the output is almost the same for every input" in reading(only_run())
    assert re.search(r"layers\.\d+: the gradient has vanished", reading(only_run()))
    assert "Try model.activation=relu" in reading(only_run())


def test_a_saturated_net_is_named(command, watched, only_run):
    line = ["model.activation=tanh", "data.mean=[0]", "data.std=[1.01]", "model.init=orthogonal"]
    assert command("train", *watched, *line).code == 0
    assert "of activations are saturated" in reading(only_run())


def test_a_frozen_layer_is_named(command, watched, only_run):
    assert command("train", *watched, "model.freeze=[features.0]").code == 0
    assert "features.0: frozen, so the weights did not change" in reading(only_run())


def test_weights_that_are_all_zero_are_named(command, watched, toy_smoke, only_run, tmp_path):
    assert command("train", *toy_smoke).code == 0
    product = read_product(only_run() / "model.safetensors")
    shutil.rmtree(tmp_path / "runs")
    zeros = {name: torch.zeros_like(weight) for name, weight in product.weights.items()}
    save_product(tmp_path / "zero.safetensors", zeros, product.facts)
    assert command("train", *watched, f"init_from={tmp_path}/zero.safetensors").code == 0
    assert "features.0: the output is almost the same for every input; 0 of its size" in reading(only_run())
    assert "features.0: all weights are zero; 4 more layers as well." in reading(only_run())
    assert reading(only_run()).endswith("Try model.init=he.")


def test_shuffled_labels_can_be_learnt_by_heart_only_and_that_is_said(
    command, watched, only_run, fashion_root, tmp_path
):
    shutil.copytree(fashion_root, tmp_path / "other")
    _, labels = toy_images(700, seed=0)
    raw = tmp_path / "other/FashionMNIST/raw"
    write_idx(raw / "train-labels-idx1-ubyte", np.random.default_rng(5).permutation(labels))
    line = [a for a in watched if not a.startswith(("data_root", "data.num_validation", "callbacks.d", "data.batch"))]
    line += [f"data_root={tmp_path}/other", "data.num_validation=300", "data.augment.crop=null", "model=lenet300"]
    assert command("train", *line, "data.batch_size=40", "trainer.max_epochs=20").code == 0
    assert "memorised" in reading(only_run())
    assert "validation stays at chance" in reading(only_run())
    assert "the labels may not match their images" in reading(only_run())


def test_sequence_nets_are_watched(command, only_run):
    line = ["data=reverse", "trainer=smoke", "trainer.accelerator=cpu", "callbacks=diagnostics"]
    assert command("train", *line).code == 0
    tags = scalars(only_run())
    assert {
        f"{GROUP}/update_ratio/source_embedding",
        f"{GROUP}/dead_units/decoder.layers.1.linear1",
    } <= tags.keys()
    assert reading(only_run())
