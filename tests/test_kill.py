"""A run that was stopped and resumed, however often and at any time, ends bitwise equal to an undisturbed one."""

import csv
import random
import signal
import time

import pytest
import torch
from conftest import scalars, sentence_of
from torch import nn

from zoo.callbacks.resume import ResumeCheckpoint
from zoo.checkpoint.product_file import read_product
from zoo.models.lenet import LeNet300
from zoo.tasks.classification import ImageClassification

LONG = ["trainer.max_epochs=6", "callbacks=ema", "trainer.log_every_n_steps=5", "data.batch_size=16"]
# What may differ: times, and the size of a file that holds the config, with callbacks.resume.every_minutes as it was
CLOCK = {"train/samples_per_second", "while training/samples_per_second"}
CLOCK |= {"with the result/latency, ms", "with the result/minutes", "with the result, more/images per second"}


def slow_enough(toy):
    """Settings of a run of some seconds with crops, EMA, a schedule and six epochs of 40 steps."""
    return [a for a in toy if not a.startswith(("trainer.", "data.batch_size"))] + LONG


def state_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_equal(one, two):
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            if key not in ("epoch_seconds", "so_far"):  # only times may differ
                assert_equal(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    else:
        assert one == two


def assert_same_run(resumed, undisturbed):
    """Weights, optimizer, schedule, averages and random states are equal, and the curves have the same points."""
    a, b = state_of(resumed), state_of(undisturbed)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "callbacks", "global_step"):
        assert_equal(a[key], b[key])
    one, two = (read_product(folder / "model.safetensors") for folder in (resumed, undisturbed))
    assert_equal(one.weights, two.weights)
    assert one.facts["best"] == two.facts["best"]
    rows = []
    for folder in (resumed, undisturbed):
        with open(folder / "metrics.csv", newline="") as file:
            rows.append([{k: float(v) for k, v in row.items() if v and k not in CLOCK} for row in csv.DictReader(file)])
    assert len(rows[0]) == len(rows[1])
    for row, expected in zip(*rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    one, two = (scalars(folder) for folder in (resumed, undisturbed))
    assert one.keys() == two.keys()
    for tag in one.keys() - CLOCK:
        assert [step for step, _ in one[tag]] == [step for step, _ in two[tag]], tag
        assert [v for _, v in one[tag]] == pytest.approx([v for _, v in two[tag]], rel=1e-6), tag


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_random_sigkills_change_nothing(command, process, toy, only_run, tmp_path, kills):
    line = [*slow_enough(toy), f"trainer.max_epochs={12 * kills}"]  # long enough for every kill
    assert command("train", *line).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")

    # Saving every hundredth of a second puts the kills before, within and after the writing of many a last.ckpt.
    line = [*line, "callbacks.resume.every_minutes=0.0002"]
    draw = random.Random(0)
    arguments = line
    for _ in range(kills):
        running = process("train", *arguments)
        while not list(tmp_path.glob("runs/*/*/last.ckpt")):
            time.sleep(0.05)
            assert running.poll() is None, running.communicate()[1]
        before = only_run().joinpath("last.ckpt").stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while only_run().joinpath("last.ckpt").stat().st_mtime_ns == before and time.monotonic() < deadline:
            if running.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL, "the run had ended before it could be killed"
        arguments = [f"resume={only_run()}"]
    assert command("train", f"resume={only_run()}").code == 0
    assert_same_run(only_run(), undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_exits_cleanly_and_the_run_goes_on(
    command, process, toy, only_run, tmp_path, signum
):
    line = [*slow_enough(toy), "trainer.max_epochs=24"]  # long enough for every signal
    assert command("train", *line).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")

    running = process("train", *line)
    while not list(tmp_path.glob("runs/*/*/last.ckpt")):
        time.sleep(0.02)
        assert running.poll() is None, running.communicate()[1]
    running.send_signal(signum)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signum
    sentence = sentence_of(err)
    assert sentence.startswith(f"error: stopped by {signum.name} after step ")
    assert f"python train.py resume={only_run().relative_to(tmp_path)}" in sentence
    step = state_of(only_run())["global_step"]
    assert f"after step {step};" in sentence
    assert command("train", f"resume={only_run()}").code == 0
    assert_same_run(only_run(), undisturbed)


def test_a_run_killed_before_its_first_checkpoint_starts_again_in_its_folder(command, toy, only_run, tmp_path):
    assert command("train", *toy).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")
    resumed = tmp_path / "runs/toy/x"
    resumed.mkdir()
    (resumed / "config.yaml").write_bytes((undisturbed / "config.yaml").read_bytes())
    assert command("train", f"resume={resumed}").code == 0
    assert_same_run(resumed, undisturbed)


@pytest.fixture
def stop_once(command, toy, only_run, tmp_path, monkeypatch):
    """Run undisturbed, then again with a signal after a batch, resume, and compare the two."""

    def run(*arguments: str, batch: int) -> None:
        line = [*toy, *arguments]
        assert command("train", *line).code == 0
        undisturbed = only_run().rename(tmp_path / "undisturbed")
        end = ResumeCheckpoint.on_train_batch_end
        seen = []

        def signal_after(self, trainer, *args):
            seen.append(trainer.global_step)
            if len(seen) == batch:
                self._signal = signal.SIGTERM
            end(self, trainer, *args)

        monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", signal_after)
        assert command("train", *line).code == 143
        monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", end)
        assert command("train", f"resume={only_run()}").code == 0
        assert_same_run(only_run(), undisturbed)

    return run


def test_dropout_draws_go_on_after_mid_epoch_resume(stop_once, monkeypatch):
    """Dropout draws from torch's global generator, whose state Lightning does not save."""
    init = LeNet300.__init__

    def with_dropout(self, **settings):
        init(self, **settings)
        self.layers.insert(3, nn.Dropout(0.5))

    monkeypatch.setattr(LeNet300, "__init__", with_dropout)
    stop_once("model=lenet300", batch=14)


def test_what_is_frozen_stays_so_after_a_resume(stop_once, only_run):
    line = ["model=resnet20", "model.depths=[1,1,1]", "model.freeze={until: layer3}", "task.head_lr=0.01"]
    stop_once(*line, batch=14)
    weights = read_product(only_run() / "model.safetensors").weights
    assert not weights["layer2.0.bn1.running_mean"].any()  # as initialised
    assert weights["layer3.0.bn1.running_mean"].any()


def test_muon_mixed_images_and_policies_go_on_after_mid_epoch_resume(stop_once):
    policy = "+data.augment.policy={_target_: zoo.data.policies.RandAugment}"
    stop_once("optim=muon", "optim.lr=0.02", "data.mix={_target_: zoo.data.mix.CutMix}", policy, batch=14)


# Of thirty steps: while pruning, after it, on the last step before sharing and the first with it, and near the end.
@pytest.mark.parametrize("batch", [8, 18, 22, 23, 27])
def test_zeros_and_shared_values_go_on_at_any_stage(stop_once, only_run, batch):
    line = ["compress.prune.every=3", "compress.prune.sparsity=0.8", "compress.share.bits=3"]
    stop_once("compress=deep_compression", *line, batch=batch)
    weights = read_product(only_run() / "model.safetensors").weights
    filters = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    assert sum(int((w == 0).sum()) for w in filters.values()) == round(0.8 * sum(w.numel() for w in filters.values()))
    assert all(len(weight[weight != 0].unique()) <= 8 for weight in filters.values())


@pytest.mark.parametrize("batch", [5, 25])
def test_a_budget_of_accuracy_goes_on(stop_once, teacher, only_run, tmp_path, batch):
    dense = only_run().rename(tmp_path / "dense") / "model.safetensors"
    stop_once(f"init_from={dense}", "compress=auto", "compress.max_drop=5", batch=batch)


@pytest.mark.parametrize("batch", [2, 8, 14, 29])  # before the first rounding, and after it
def test_integers_their_steps_and_their_price_go_on(stop_once, batch):
    line = ["compress.rate.bytes=20000", "compress.rate.every=3", "compress.rate.begin=0.1", "callbacks=ema"]
    stop_once("compress=rate", *line, batch=batch)


@pytest.mark.parametrize("batch", [6, 7, 12])
def test_scores_and_regrowth_go_on_after_a_resume(stop_once, batch):
    line = ["compress.prune.score=movement", "compress.prune.every=3", "compress.prune.regrow=0.3"]
    stop_once("compress=prune", *line, "optim=sgd", batch=batch)


@pytest.mark.parametrize("batch", [5, 6, 7, 8, 10, 12])
def test_no_half_summed_gradient_is_lost(stop_once, batch):
    stop_once("trainer.accumulate_grad_batches=4", "callbacks=ema", batch=batch)


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_epochs_that_are_cut_short_begin_at_their_beginning(stop_once, batch):
    stop_once("trainer.limit_train_batches=3", "trainer.log_every_n_steps=2", batch=batch)


def test_a_run_that_was_stopped_early_stays_so(command, toy, only_run):
    """Killed after its last epoch and before its result, it must not train on."""
    line = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=50"]
    assert command("train", *toy, *line, "schedule=constant", "optim.lr=1e-9").code == 0
    step = state_of(only_run())["global_step"]
    (only_run() / "result.json").unlink()
    assert command("train", f"resume={only_run()}").code == 0
    assert state_of(only_run())["global_step"] == step
    assert (only_run() / "result.json").exists()
    assert command("train", f"resume={only_run()}", "trainer.max_epochs=3").code == 0  # but may on request
    assert state_of(only_run())["global_step"] > step


@pytest.mark.parametrize("moment", ["on_train_start", "on_train_epoch_end", "on_train_end", "test_step"])
def test_a_signal_at_any_moment_ends_a_sweep_and_not_just_the_run_in_hand(command, toy, tmp_path, monkeypatch, moment):
    """In addition to our handlers, Lightning has one that records SIGTERM and continues."""
    hook = getattr(ImageClassification, moment)

    def and_signal(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return hook(self, *args)

    monkeypatch.setattr(ImageClassification, moment, and_signal)
    line = [a for a in toy if not a.startswith("name=")]
    outcome = command("train", "-m", "model=lenet5,lenet300", *line, "trainer.max_epochs=1")
    assert outcome.code == 143
    assert outcome.err.startswith("error: stopped by SIGTERM")
    assert len(outcome.err.strip().splitlines()) == 1
    assert list(tmp_path.glob("runs/lenet5*"))
    assert not list(tmp_path.glob("runs/lenet300*"))


def test_a_signal_between_runs_ends_a_command_in_one_sentence(process, tmp_path):
    running = process("train", "name=x", "trainer.max_epochs=1000")
    while not list(tmp_path.glob("runs/*/*/config.yaml")):
        time.sleep(0.01)
        assert running.poll() is None, running.communicate()[1]
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert err.strip().splitlines()[-1].startswith("error: stopped by SIGTERM")
