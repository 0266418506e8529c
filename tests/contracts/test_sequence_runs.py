"""The contract of every sequence net in a run: it learns, stops and resumes, and its file is self-contained."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.catalogue import matches
from zoo.checkpoint.product_file import read_product
from zoo.tasks.transduction import Transduction

NETS = [model for model, data in matches() if data == "reverse"]


def toy(model, **more):
    """Return the arguments of a run of a few seconds, with two epochs of 5 steps."""
    settings = {"data": "reverse", "data.num_pairs": 500, "model.width": 16, "trainer": "cpu", "trainer.max_epochs": 2}
    settings |= {"trainer.log_every_n_steps": 3, "name": "toy", "model": model, **more}
    return [f"{key}={value}" for key, value in settings.items()]


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("model", NETS)
def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(command, only_run, tmp_path, monkeypatch, model):
    assert command("train", *toy(model)).code == 0
    whole, result = weights(only_run()), json.loads((only_run() / "result.json").read_text())
    only_run().rename(tmp_path / "whole")
    step = Transduction.training_step

    def and_stop(self, batch, batch_idx):
        if self.trainer.global_step == 7:  # in the second epoch
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Transduction, "training_step", and_stop)
    assert command("train", *toy(model)).code == 143
    monkeypatch.setattr(Transduction, "training_step", step)
    outcome = command("train", f"resume={only_run()}")
    assert outcome.code == 0, outcome.err
    again = weights(only_run())
    assert whole.keys() == again.keys()
    assert all(w.equal(again[name]) for name, w in whole.items())
    assert json.loads((only_run() / "result.json").read_text())["test"] == result["test"]


def test_weights_of_a_net_with_other_positions_are_taken_with_a_warning(command, only_run, tmp_path):
    assert command("train", *toy("transformer", **{"model.positions": "rotary"})).code == 0
    file = only_run().rename(tmp_path / "rotary") / "model.safetensors"
    assert command("train", *toy("transformer"), f"init_from={file}").code == 0
    log = (only_run() / "log.txt").read_text()
    assert "init_from was trained with model.positions=rotary, and this run has sinusoidal" in log


@pytest.mark.parametrize("model", NETS)
def test_another_process_needs_nothing_but_the_file_and_finds_the_same_rates(command, only_run, tmp_path, model):
    outcome = command("train", *toy(model))
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    assert f"{result['test']['wer']:.2%}" in outcome.out
    file = tmp_path / "elsewhere.safetensors"
    (only_run() / "model.safetensors").rename(file)
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={file}", "accelerator=cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "evaluation_elsewhere.safetensors.json").read_text())
    assert {key: evaluation[key] for key in ("wer", "per")} == pytest.approx(
        {key: result["test"][key] for key in ("wer", "per")}
    )
    heading, *rows = (tmp_path / "worst_elsewhere.safetensors.tsv").read_text().splitlines()
    assert heading == "source\tedits\twritten\treferences"
    assert 0 < len(rows) <= 50
    source, edits, written, reference = rows[0].split("\t")
    assert reference == " ".join(reversed(source))
    assert written != reference
    assert int(edits) > 0
    facts = read_product(file).facts["data"]
    assert facts["source_symbols"][3:] == list("abcdefgh")


@pytest.mark.parametrize("model", NETS)
def test_a_picture_of_where_it_looks_is_drawn_each_epoch(command, only_run, model):
    outcome = command("train", *toy(model, **{"callbacks.attention.sources": "[abc,hag]"}))
    assert outcome.code == 0, outcome.err
    events = EventAccumulator(str(only_run()), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["with attention/abc", "with attention/hag"]
    assert [image.step for image in events.Images("with attention/abc")] == [4, 9]


def test_a_transformer_learns_to_write_backwards(command, only_run):
    """Attention can look anywhere: within a minute the net makes almost no mistakes on unseen words."""
    line = toy("transformer", **{"data.num_pairs": 3000, "model.width": 64, "model.mlp_width": 128})
    more = ["trainer.max_epochs=12", "optim=muon", "optim.matrices=true", "optim.lr=0.02", "model.dropout=0"]
    outcome = command("train", *line, *more)
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    assert result["test"]["wer"] < 0.1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("model=transformer data=cifar10", "model=transformer does not fit data=cifar10: it takes data=cmudict, pairs"),
        ("model=resnet18 data=cmudict", "data=cmudict takes model=lstm_seq2seq, transformer"),
        ("task=transduction", "task=transduction does not fit data=mnist_5k"),
        ("data=reverse task=classification", "task=classification is for images, and data=reverse has sequences"),
        ("data=reverse task=rotation", "task=rotation is for images"),
        ("data=reverse model.pretrained=true", "there are no published weights for sequences"),
        ("data=pairs", "data.path is required; set data.path=..."),
        ("data=pairs data.path=absent.tsv", "data.path=absent.tsv cannot be read"),
        (
            "data=reverse model.num_target_tokens=5",
            "model.num_target_tokens=5 does not fit these data and task; use 11",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_that_says_what_does(command, tmp_path, line, sentence):
    outcome = command("train", *line.split())
    assert outcome.code == 2
    assert sentence in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_persons_own_pairs_are_learnt_from_their_file(command, only_run, tmp_path):
    words = [f"{a}{b}{c}" for a in "abcd" for b in "abcd" for c in "abcd"]
    (tmp_path / "pairs.tsv").write_text("".join(f"{word}\t{' '.join(word.upper())}\n" for word in words))
    outcome = command(
        "train",
        "data=pairs",
        "data.path=pairs.tsv",
        "data.batch_size=16",
        "model.width=16",
        "trainer=cpu",
        "name=own",
        "trainer.log_every_n_steps=2",
    )
    assert outcome.code == 0, outcome.err
    assert read_product(only_run() / "model.safetensors").facts["data"]["target_symbols"][3:] == list("ABCD")
