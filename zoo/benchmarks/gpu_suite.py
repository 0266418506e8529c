"""All GPU benchmarks, in a few minutes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from zoo.benchmarks.rounds import measured
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.paths import commands
from zoo.records.json_files import read_result

# By title: a suite and its settings
PARTS = {
    "ResNet-50 at 224 px": (
        "step",
        "model=resnet50",
        "reference=resnet50",
        "data=imagenet",
        "data.batch_size=256",
        "rounds=3",
        "only=[torchvision eager,channels_last,compiled]",
    ),
    "ResNet-18 at 32 px": (
        "step",
        "model=resnet18",
        "data=cifar10",
        "data.batch_size=1024",
        "rounds=5",
        "only=[channels_last,compiled with CUDA graphs]",
    ),
    "epoch of LeNet-5": (
        "train",
        "rounds=2",
        "only=['PIL transforms, DataLoader, Lightning',hand-written loop,train.py,train.py with CUDA graphs]",
    ),
    "epoch of ResNet-18": (
        "train",
        "model=resnet18",
        "data.batch_size=1024",
        "rounds=3",
        "only=[hand-written loop,train.py]",
    ),
    "JPEG files": ("loader", "rounds=3"),
}
RACES = {
    "fast_fashion_mnist": ("experiment=fast_fashion_mnist",),
    "fast_fashion_mnist eager": ("experiment=fast_fashion_mnist", "compile=false"),
}


def gpu_suite(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the figures of PARTS, each from a suite, and of RACES: training seconds and test accuracy of a recipe.

    `cfg.only` selects some of them. If a part fails, the error is its result, and the others still run.
    """
    if not torch.cuda.is_available():
        raise BadInput("suite=gpu needs CUDA, which is not available here; suite=step runs on any machine")
    for title in cfg.only or (*PARTS, *RACES):
        if title not in PARTS | RACES:
            raise BadInput(f"only={title} is not a part of suite=gpu; {choices(title, PARTS | RACES)}")
        try:
            yield _race(title, cfg.data_root) if title in RACES else _part(title, cfg.data_root)
        except Exception as error:
            yield {title: {"failed": reason(error)}}
        torch.cuda.empty_cache()


def _part(title: str, data_root: str) -> dict[str, dict[str, Any]]:
    suite, *settings = PARTS[title]
    part = hydra.compose("benchmark", [f"suite={suite}", "trainer=gpu", f"data_root={data_root}", *settings])
    (figures,) = measured(part)
    return {f"{title}: {name}": row for name, row in figures.items()}


def _race(title: str, data_root: str) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        line = [*RACES[title], "trainer=gpu"]
        command = [
            sys.executable,
            str(commands()["train"]),
            *line,
            f"runs={folder}",
            f"data_root={Path(data_root).resolve()}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ZooError(done.stderr[-300:])
        (file,) = Path(folder).glob("*/*/result.json")
        result = read_result(file)
    seconds = result["seconds"]
    return {title: {"seconds": [seconds], "median_seconds": seconds, "test_accuracy": result["test"]["accuracy"]}}
