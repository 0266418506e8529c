"""A run that was stopped and resumed, however often and whenever, ends where an undisturbed one ends, bit for bit."""

import csv
import random
import signal
import time

import pytest
import torch

from zoo.checkpoint import read_product

LONG = ["trainer.max_epochs=6", "callbacks=ema", "trainer.log_every_n_steps=5", "data.batch_size=16"]


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
            if key not in ("epoch_seconds", "so_far"):  # the clock is the one thing that may differ
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
            rows.append([{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)])
    assert len(rows[0]) == len(rows[1])
    for row, expected in zip(*rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_random_sigkills_change_nothing(command, process, toy, only_run, tmp_path, kills):
    line = slow_enough(toy)
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
        arguments = [f"resume={only_run()}"]
    assert command("train", f"resume={only_run()}").code == 0
    assert_same_run(only_run(), undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_exits_cleanly_and_the_run_goes_on(
    command, process, toy, only_run, tmp_path, signum
):
    line = slow_enough(toy)
    assert command("train", *line).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")

    running = process("train", *line)
    while not list(tmp_path.glob("runs/*/*/last.ckpt")):
        time.sleep(0.02)
        assert running.poll() is None, running.communicate()[1]
    running.send_signal(signum)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signum
    (sentence,) = err.strip().splitlines()
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


def test_dropout_draws_go_on_after_mid_epoch_resume(command, toy, only_run, tmp_path, monkeypatch):
    """Dropout draws from torch's global generator, whose state Lightning does not save by itself."""
    from torch import nn

    from zoo.models.lenet import LeNet300

    init = LeNet300.__init__

    def with_dropout(self, **settings):
        init(self, **settings)
        self.layers.insert(3, nn.Dropout(0.5))

    monkeypatch.setattr(LeNet300, "__init__", with_dropout)
    line = [*toy, "model=lenet300"]
    assert command("train", *line).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")

    from zoo.callbacks.resume import ResumeCheckpoint

    steps = ResumeCheckpoint.on_train_batch_end

    def stop_at_14(self, trainer, *args):
        if trainer.global_step == 14:
            self._signal = signal.SIGTERM
        steps(self, trainer, *args)

    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", stop_at_14)
    assert command("train", *line).code == 143
    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", steps)
    assert command("train", f"resume={only_run()}").code == 0
    assert_same_run(only_run(), undisturbed)
