"""Measure what training costs beside its arithmetic: `python scripts/benchmark.py suite=train`.

The contenders of a suite run in turn, round after round, and are compared round by round, so that a machine whose speed
drifts slows all of them alike. Printed are medians over the rounds and ratios to the suite's baseline.
"""

import statistics
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from zoo.cli import command

Contender = Callable[[], float]  # runs one epoch and gives its seconds


def train_suite(cfg: DictConfig) -> dict[str, Contender]:
    """LeNet-5 (or model=...) on Fashion-MNIST, batch 128, crop and flip: an epoch of training steps, no validation.

    The first contender is the baseline.
    """
    import functools
    import tempfile
    import time
    from pathlib import Path

    import lightning
    import torch
    import torchmetrics
    import torchvision
    from torchvision import transforms

    from zoo import nets, run
    from zoo.build import build
    from zoo.callbacks.monitor import TrainingMonitor
    from zoo.folder import Run
    from zoo.tasks.base import parameter_groups

    data = build(cfg.data, "data")
    facts = data.load()

    def hand_written() -> float:
        net = nets.bare_net(cfg.model).to(memory_format=torch.channels_last)
        optimizer, loader = build(cfg.optim, "optim")(parameter_groups(net)), data.loader("train", "cpu")
        factor = build(cfg.schedule, "schedule")(len(loader))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        start = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            schedule.step()
        return time.perf_counter() - start

    def train_py() -> float:
        with tempfile.TemporaryDirectory() as folder:
            this = Run(Path(folder), cfg)
            trainer = run.build_trainer(this)
            task = run.build_task(this, nets.build_net(this))
            run.fit(this, trainer, task, data)
            return run.callback_of(trainer, TrainingMonitor).epoch_seconds[0]

    class UsualModule(lightning.LightningModule):
        """What a Lightning tutorial would write."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nets.bare_net(cfg.model)
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            logits = self.net(batch[0])
            loss = torch.nn.functional.cross_entropy(logits, batch[1])
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

    mean, std = facts.mean[0] / 255, facts.std[0] / 255
    steps = [transforms.RandomCrop(28, padding=2), transforms.RandomHorizontalFlip()]
    pipeline = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    usual_data = torch.utils.data.Subset(
        torchvision.datasets.FashionMNIST(cfg.data_root, train=True, transform=pipeline),
        range(len(data.splits["train"])),
    )

    def pil_dataloader(num_workers: int) -> float:
        loader = torch.utils.data.DataLoader(usual_data, 128, shuffle=True, drop_last=True, num_workers=num_workers)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False
        )
        module = UsualModule()
        trainer.fit(module, loader)
        return module.seconds

    return {
        "hand-written loop": hand_written,
        "train.py": train_py,
        "PIL transforms, DataLoader, Lightning": functools.partial(pil_dataloader, 0),
        "the same with 2 workers": functools.partial(pil_dataloader, 2),
    }


def zoo_suite(cfg: DictConfig) -> dict[str, Contender]:
    """One image's forward pass of every net in the zoo, at the size it was made for, in eval mode and fp32, on the CPU.

    The baseline is ResNet-18. A round of a net is the fastest of three passes, so that a cold cache does not count.
    """
    import time

    import torch

    from zoo.catalogue import catalogue
    from zoo.nets import bare_net

    def contender(entry: Any) -> Contender:
        def forward() -> float:
            net = bare_net(entry.cfg.model).eval().to(memory_format=torch.channels_last)  # not kept: all are 6 GB
            image = torch.randn(1, *entry.image_shape).to(memory_format=torch.channels_last)
            seconds = []
            with torch.inference_mode():
                for _ in range(3):
                    start = time.perf_counter()
                    net(image)
                    seconds.append(time.perf_counter() - start)
            return min(seconds)

        return forward

    contenders = {entry.name: contender(entry) for entry in catalogue()}
    return {"resnet18": contenders.pop("resnet18"), **contenders}


def augment_suite(cfg: DictConfig) -> dict[str, Contender]:
    """Resized crop, flip, colour jitter, normalisation and erasing of 2,048 colour images of 32 px, on the CPU.

    The baseline takes batches of data.batch_size at once; the others image by image, as tensors and as PIL's.
    """
    import time

    import torch
    from torchvision.transforms import v2
    from torchvision.transforms.v2.functional import to_pil_image

    from zoo.data.augment import ColorJitter, RandomErasing, RandomFlip, RandomResizedCrop
    from zoo.data.loader import BatchLoader

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8, generator=draw)
    pictures = [to_pil_image(image) for image in images]
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    ours = [RandomResizedCrop(), RandomFlip(), ColorJitter(), RandomErasing()]
    theirs = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(32, antialias=False),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((mean / 255).tolist(), (std / 255).tolist()),
            v2.RandomErasing(0.5, value="random"),
        ]
    )
    on_pil = v2.Compose([*theirs.transforms[1:4], theirs.transforms[0], *theirs.transforms[4:]])
    loader = BatchLoader(
        images, torch.zeros(2048, dtype=torch.long), cfg.data.batch_size, mean, std, shuffle=True, augmentations=ours
    )

    def seconds(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return {
        "a batch at once": lambda: seconds(lambda: list(loader)),
        "image by image, tensors": lambda: seconds(lambda: [theirs(image) for image in images]),
        "image by image, PIL": lambda: seconds(lambda: [on_pil(picture) for picture in pictures]),
    }


def packed_suite(cfg: DictConfig) -> dict[str, Contender]:
    """A packed file of VGG-16 for ImageNet, written and read: 138 M weights, 90 % zeros, 32 values a layer, one core.

    Seconds are the process's own, so that others on the machine do not count.
    """
    import tempfile
    import time
    from pathlib import Path

    import torch

    from zoo.models.vgg import VGG
    from zoo.packed import read_packed, save_packed

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weights = VGG(16).state_dict()
    for weight in weights.values():
        if weight.ndim > 1:
            values = torch.randn(32, generator=draw)[torch.randint(32, weight.shape, generator=draw)]
            weight.copy_(values.where(torch.rand(weight.shape, generator=draw) < 0.1, 0.0))
    folder = tempfile.TemporaryDirectory()

    def write() -> float:
        start = time.process_time()
        save_packed(Path(folder.name) / "model.zoo", weights, {})
        return time.process_time() - start

    def read() -> float:
        start = time.process_time()
        read_packed(Path(folder.name) / "model.zoo")
        return time.process_time() - start

    return {"write": write, "read": read}


SUITES = {"train": train_suite, "zoo": zoo_suite, "augment": augment_suite, "packed": packed_suite}


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, Any]:
    """Run each contender once a round, the first round not counted, and compare them round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, run_once in contenders.items():
            once = run_once()
            if i > 0:
                seconds[name].append(once)
    base = next(iter(contenders))
    return {
        name: {
            "seconds": times,
            "median_seconds": statistics.median(times),
            "ratio": statistics.median(t / b for t, b in zip(times, seconds[base], strict=True)),
            "ratio_range": [f(t / b for t, b in zip(times, seconds[base], strict=True)) for f in (min, max)],
        }
        for name, times in seconds.items()
    }


@command("benchmark")
def main(cfg: DictConfig) -> None:
    import logging
    import warnings

    import torch
    from rich.console import Console
    from rich.table import Table

    from zoo.checkpoint import provenance
    from zoo.errors import BadInput, choices
    from zoo.files import write_json

    if cfg.suite not in SUITES:
        raise BadInput(f"suite={cfg.suite} is no suite; {choices(str(cfg.suite), SUITES)}")
    if type(cfg.rounds) is not int or cfg.rounds < 1:
        raise BadInput(f"rounds={cfg.rounds} was asked for; it must be a whole number, at least 1")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    figures = measure(SUITES[cfg.suite](cfg), cfg.rounds)
    table = Table(title=f"suite={cfg.suite}, medians of {cfg.rounds} rounds, {torch.get_num_threads()} threads")
    for column in ("", "seconds", "ratio", "least", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in figures.items():
        ratios = (row["ratio"], *row["ratio_range"])
        table.add_row(name, f"{row['median_seconds']:.2f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)
    if cfg.out:
        header = {"suite": cfg.suite, "rounds": cfg.rounds, "threads": torch.get_num_threads(), **provenance()}
        write_json(cfg.out, {**header, "figures": figures})


if __name__ == "__main__":
    main()
