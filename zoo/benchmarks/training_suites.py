"""The overhead of the training loop, the speed of training steps by memory format and compilation, and that of Muon."""

import functools
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchvision import datasets, models, transforms
from torchvision.models import get_model, list_models

from zoo.benchmarks.rounds import Contender, Suite
from zoo.callbacks.monitor import TrainingMonitor
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices
from zoo.instantiate import build
from zoo.measure.counts import count_macs_of
from zoo.measure.device import synchronize
from zoo.optim.muon import Muon
from zoo.ranges import height_width
from zoo.run.directory import Run
from zoo.run.fit import fit
from zoo.run.model import apply_layout, build_bare_model, build_model
from zoo.run.task import build_task
from zoo.run.trainer import build_trainer, callback_of
from zoo.tasks.base import parameter_groups

STEPS = 10  # timed together


def train_suite(cfg: DictConfig) -> Suite:
    """Time an epoch of training without validation: hand-written, with train.py, and as in tutorials (Fashion-MNIST).

    The hand-written loop has the same net, batches, optimizer, schedule and precision as train.py.
    """
    data: ResidentData = build(cfg.data, "data")
    num_batches = cfg.trainer.limit_train_batches or data.load().num_samples["train"] // cfg.data.batch_size
    device, precision = _trainer_of(cfg).strategy.root_device, _trainer_of(cfg).precision_plugin

    def hand_written() -> float:
        net = apply_layout(build_bare_model(cfg.model), cfg).to(device)
        optimizer = build(cfg.optim, "optim")(parameter_groups(net))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, build(cfg.schedule, "schedule")(num_batches))
        start = time.perf_counter()
        for images, labels in itertools.islice(data.loader("train", device), num_batches):
            optimizer.zero_grad()
            with precision.forward_context():
                loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        synchronize(device)
        return time.perf_counter() - start

    def train_py(settings: DictConfig) -> float:
        with tempfile.TemporaryDirectory() as folder:
            this = Run(Path(folder), settings)
            trainer = build_trainer(this)
            task = build_task(this, build_model(this, data), data)
            fit(this, trainer, task, data)
            return callback_of(trainer, TrainingMonitor).epoch_seconds[-1]

    contenders: dict[str, Contender] = {"hand-written loop": hand_written, "train.py": functools.partial(train_py, cfg)}
    if device.type == "cuda":
        # the second epoch, since the first one compiles
        graphed: Any = OmegaConf.merge(cfg, {"compile": "reduce-overhead", "trainer": {"max_epochs": 2}})
        contenders["train.py with CUDA graphs"] = functools.partial(train_py, graphed)
    if cfg.data.source.get("dataset") == "FashionMNIST":
        contenders |= _as_tutorials_have_it(cfg, data)
    return Suite(contenders, num_batches * cfg.data.batch_size)


def _trainer_of(cfg: DictConfig) -> lightning.Trainer:
    return build_trainer(Run(Path(tempfile.gettempdir()), cfg))


class _UsualModule(lightning.LightningModule):
    """A module as in Lightning tutorials."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def on_train_epoch_start(self) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds = time.perf_counter() - self.start


def _as_tutorials_have_it(cfg: DictConfig, data: ResidentData) -> dict[str, Contender]:
    facts = data.load()
    mean, std = facts.mean[0] / 255, facts.std[0] / 255
    steps = [transforms.RandomCrop(28, padding=2), transforms.RandomHorizontalFlip()]
    pipeline = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    images = datasets.FashionMNIST(cfg.data_root, train=True, transform=pipeline)
    part = torch.utils.data.Subset(images, range(facts.num_samples["train"]))

    def epoch(num_workers: int) -> float:
        loader = torch.utils.data.DataLoader(
            part, cfg.data.batch_size, shuffle=True, drop_last=True, num_workers=num_workers
        )
        trainer = lightning.Trainer(
            accelerator=cfg.trainer.accelerator,
            max_epochs=1,
            limit_train_batches=cfg.trainer.limit_train_batches,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        module = _UsualModule(build_bare_model(cfg.model))
        trainer.fit(module, loader)
        return module.seconds

    return {
        "PIL transforms, DataLoader, Lightning": functools.partial(epoch, 0),
        "the same with 2 workers": functools.partial(epoch, 2),
    }


def step_suite(cfg: DictConfig) -> Suite:
    """Time ten SGD steps on one batch of noise of the data's shape, by memory format and compilation.

    The baseline is torchvision's net `cfg.reference`, contiguous and eager as in its reference script, or without it
    ours in the same way. Compiled nets are in channels_last.
    """
    known = list_models(models)
    if cfg.reference and cfg.reference not in known:
        raise BadInput(f"reference={cfg.reference} is not a torchvision net; {choices(str(cfg.reference), known)}")
    trainer = _trainer_of(cfg)
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    shape = (cfg.data.in_channels, *height_width(cfg.data.image_size))
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(cfg.data.batch_size, *shape, generator=draw).to(device)
    labels = torch.randint(cfg.model.num_classes, (cfg.data.batch_size,), generator=draw).to(device)

    contender = functools.partial(_steps, images, labels, precision.forward_context)

    def ours(**layout: Any) -> Contender:
        settings = OmegaConf.create({"channels_last": False, "compile": False, **layout})
        return contender(lambda: apply_layout(build_bare_model(cfg.model), settings))

    contenders: dict[str, Contender] = {}
    if cfg.reference:
        settings = {"num_classes": cfg.model.num_classes}
        contenders["torchvision eager"] = contender(lambda: get_model(cfg.reference, **settings))
    contenders |= {
        "eager": ours(),
        "channels_last": ours(channels_last=True),
        "compiled": ours(channels_last=True, compile=True),
    }
    if device.type == "cuda":
        contenders["compiled with CUDA graphs"] = ours(channels_last=True, compile="reduce-overhead")
    macs = count_macs_of(build_bare_model(cfg.model), (torch.empty(1, *shape, device="meta"),))
    return Suite(contenders, STEPS * cfg.data.batch_size, macs)


def _steps(images: Tensor, labels: Tensor, context: Callable[[], Any], build_net: Callable[[], nn.Module]) -> Contender:
    """Return a function that makes training steps with a net, and returns the seconds that they took."""

    @functools.cache  # built and compiled only once
    def prepared() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = build_net().to(images.device).train()
        return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def steps() -> float:
        net, optimizer = prepared()
        synchronize(images.device)
        start = time.perf_counter()
        for _ in range(STEPS):
            with context():
                output = net(images)
                loss = nn.functional.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronize(images.device)
        return time.perf_counter() - start

    return steps


def muon_suite(cfg: DictConfig) -> Suite:
    """Time ten steps of Muon for the filters of `cfg.model`. All contenders have the same random gradients.

    The baseline is torch.optim.Muon, which computes in bf16 on every device. It gets the filters as matrices, since it
    takes nothing else.
    """
    if "image_size" not in cfg.data:
        raise BadInput("suite=muon is for image nets; choose data of images, such as data=mnist_5k")
    device = _trainer_of(cfg).strategy.root_device
    filters = [p.detach().to(device) for p in build_bare_model(cfg.model).parameters() if p.ndim == 4]
    if not filters:
        raise BadInput("suite=muon: this net has no convolutions; choose another one with model=")

    def steps(optimizer: Callable[..., torch.optim.Optimizer], tensors: list[Tensor]) -> Contender:
        parameters = [nn.Parameter(tensor.clone()) for tensor in tensors]
        draw = torch.Generator().manual_seed(0)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=draw).to(device)
        stepper = optimizer(parameters, lr=1e-3)

        def run_once() -> float:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                stepper.step()
            synchronize(device)
            return time.perf_counter() - start

        return run_once

    matrices = [tensor.flatten(1) for tensor in filters]
    return Suite(
        {
            "torch.optim.Muon": steps(torch.optim.Muon, matrices),
            "optim=muon": steps(Muon, filters),
            "optim=muon optim.bf16=true": steps(functools.partial(Muon, bf16=True), filters),
        }
    )
