"""What only a CUDA device can show; run with -m gpu."""

import json
import signal

import pytest
import torch

from zoo.callbacks.resume import ResumeCheckpoint
from zoo.run import resolve_precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_a_run_in_automatic_precision_learns_on_the_card(command, toy, only_run):
    line = [a for a in toy if not a.startswith("trainer=")]
    assert command("train", *line).code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert result["precision"] in ("bf16-mixed", "16-mixed")
    assert result["device"] == torch.cuda.get_device_name()
    assert result["test"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["optim=muon", "optim.lr=0.02", "task.loss=hinge", "task.l1=0.001", "task.max_norm=3"],
        ["data.mix={_target_: zoo.data.mix.CutMix}"],
        ["+data.augment.policy={_target_: zoo.data.policies.TrivialAugment}"],
        ["+data.augment.crop2={_target_: zoo.data.augment.RandomResizedCrop}"],
    ],
    ids=["plain", "muon", "cutmix", "policy", "resized_crop"],
)
def test_a_training_step_forces_no_sync(compose, toy, settings):
    from zoo.build import build
    from zoo.run import bare_net
    from zoo.tasks.classification import parameter_groups

    cfg = compose(*toy, *settings)
    data = build(cfg.data, "data")
    net = bare_net(cfg.model).cuda()
    given = {"net": net, "optimizer": build(cfg.optim, "optim"), "schedule": build(cfg.schedule, "schedule")}
    task = build(cfg.task, "task", **given).cuda()
    optimizer = task.optimizer(parameter_groups(net))
    loader = data.loader("train", "cuda")
    batches = iter(loader)
    for i in range(len(loader)):
        torch.cuda.set_sync_debug_mode("error" if i else "default")
        try:
            task.training_step(next(batches), i).backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_run_is_resumed_in_mid_epoch_on_the_card_with_clipped_gradients(command, toy, only_run, monkeypatch):
    end = ResumeCheckpoint.on_train_batch_end

    def signal_after_14(self, trainer, *args):
        if trainer.global_step == 14:
            self._signal = signal.SIGTERM
        end(self, trainer, *args)

    line = [a for a in toy if not a.startswith("trainer=")]
    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", signal_after_14)
    assert command("train", *line, "trainer.gradient_clip_val=1", "callbacks=ema").code == 143
    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", end)
    assert command("train", f"resume={only_run()}").code == 0


def test_precision_follows_the_card():
    assert resolve_precision("auto", "gpu") in ("bf16-mixed", "16-mixed")
