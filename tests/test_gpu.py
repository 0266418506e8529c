"""Tests that need a CUDA device; run with -m gpu."""

import json
import shutil
import signal

import pytest
import torch
from conftest import scalars

from zoo.callbacks.resume import ResumeCheckpoint
from zoo.run.trainer import resolve_precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_a_run_in_automatic_precision_learns_on_the_card(command, toy, only_run):
    line = [a for a in toy if not a.startswith("trainer=")]
    assert command("train", *line).code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert result["precision"] in ("bf16-mixed", "16-mixed")
    assert result["device"] == torch.cuda.get_device_name()
    assert result["test"]["accuracy"] > 0.9
    peaks = [value for _, value in scalars(only_run())["while training/peak_gpu_gb"]]
    assert 0 < peaks[0] <= peaks[-1] < torch.cuda.get_device_properties(0).total_memory / 1e9


def test_the_norm_of_gradients_is_free_of_fp16s_scale(command, toy, only_run, tmp_path):
    """The scale starts at 65,536, and the fused optimizer removes it."""
    norms = []
    for precision in ("32-true", "16-mixed"):
        line = [a for a in toy if not a.startswith("trainer=")]
        assert command("train", *line, "trainer.limit_train_batches=4", f"trainer.precision={precision}").code == 0
        norms.append(scalars(only_run())["while training/gradient_norm"][0][1])
        only_run().rename(tmp_path / precision)
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


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
    from zoo.instantiate import build
    from zoo.run.model import build_bare_model
    from zoo.tasks.base import parameter_groups

    cfg = compose(*toy, *settings)
    data = build(cfg.data, "data")
    net = build_bare_model(cfg.model).cuda()
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


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # intentionally off
@pytest.mark.parametrize("choice", [[], ["task=distill"]], ids=["alone", "distilled"])
def test_cuda_graphs_train_as_eager_does(command, toy, only_run, tmp_path, request, choice):
    """In fp32 without TF32, for a few epochs with validation, so that graphs are recorded and then replayed."""
    if choice:
        teacher = request.getfixturevalue("teacher")
        choice = [*choice, f"task.teacher={teacher.rename(tmp_path / teacher.name)}"]
        shutil.rmtree(tmp_path / "runs")
    weights = []
    for mode in ("false", "reduce-overhead"):
        line = [a for a in toy if not a.startswith(("trainer=", "optim."))]
        line += [*choice, "optim=sgd", "optim.lr=0.01", "trainer.precision=32-true", "tf32=false", f"compile={mode}"]
        assert command("train", *line).code == 0
        weights.append(torch.load(only_run() / "last.ckpt", weights_only=True)["state_dict"])
        only_run().rename(tmp_path / mode)
    eager, graphed = weights
    torch.testing.assert_close(graphed, eager, atol=1e-3, rtol=1e-2)


def test_the_card_decodes_pictures_upright_and_cuts_them_as_the_cpu_does(tmp_path):
    import numpy as np
    from PIL import Image

    from zoo.data.augment import RandomResizedCrop
    from zoo.data.folders import ImageFolders

    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for orientation in range(1, 9):
                exif = Image.Exif()
                exif[0x0112] = orientation
                corners = np.random.default_rng(orientation).integers(0, 256, (2, 3, 3), dtype=np.uint8)
                picture = Image.fromarray(corners).resize((160, 90), Image.Resampling.BICUBIC)
                picture.save(tmp_path / split / name / f"{orientation}.jpg", quality=95, exif=exif)
    settings = {"root": str(tmp_path), "image_size": 32, "num_classes": 2, "in_channels": 3, "num_validation": 0}
    settings |= {"batch_size": 16, "num_workers": 2, "augment": {"crop": RandomResizedCrop()}}
    settings |= {"mean": [0.0] * 3, "std": [2.0] * 3, "cache": "none"}
    card, cpu = ImageFolders(**settings, decoder="cuda"), ImageFolders(**settings)
    for (images, labels), (wanted, theirs) in zip(card.loader("test", "cuda"), cpu.loader("test", "cpu"), strict=True):
        assert torch.equal(labels.cpu(), theirs)
        assert float((images.cpu() - wanted).abs().mean()) < 1
    for device, data in (("cuda", card), ("cuda", ImageFolders(**{**settings, "cache": "device"}))):
        assert next(iter(data.loader("train", device)))[0].shape == (16, 3, 32, 32)
