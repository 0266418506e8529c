"""All that a CUDA machine should show, in some minutes."""

import json
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
from zoo.errors import BadInput, reason

ROOT = Path(__file__).resolve().parents[2]
# What is timed: a suite and its settings
PARTS = {
    "10 steps of ResNet-50, 224 px, batches of 256": (
        "step",
        "model=resnet50",
        "reference=resnet50",
        "data=imagenet",
        "data.batch_size=256",
        "rounds=3",
        "only=[torchvision eager,channels_last,compiled]",
    ),
    "10 steps of ResNet-18, 32 px, batches of 1,024": (
        "step",
        "model=resnet18",
        "data=cifar10",
        "data.batch_size=1024",
        "rounds=5",
        "only=[channels_last,compiled with CUDA graphs]",
    ),
    "an epoch of LeNet-5 on Fashion-MNIST": (
        "train",
        "rounds=2",
        "only=['PIL transforms, DataLoader, Lightning',hand-written loop,train.py,train.py with CUDA graphs]",
    ),
    "an epoch of ResNet-18 on Fashion-MNIST, batches of 1,024": (
        "train",
        "model=resnet18",
        "data.batch_size=1024",
        "rounds=3",
        "only=[hand-written loop,train.py]",
    ),
    "pictures from JPEG files": ("loader", "rounds=3"),
}
RACES = ("experiment=fast_fashion_mnist", "experiment=fast_fashion_mnist compile=false")


def gpu_suite(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Give the figures of PARTS, each a suite's, and of RACES: training seconds and test accuracy of a recipe.

    A part that fails is told of in its place, and does not end the others.
    """
    if not torch.cuda.is_available():
        raise BadInput("suite=gpu is for a machine with CUDA, which is not to be had here; suite=step runs on any")
    for title, (suite, *settings) in PARTS.items():
        part = hydra.compose("benchmark", [f"suite={suite}", "trainer=gpu", f"data_root={cfg.data_root}", *settings])
        try:
            (figures,) = measured(part)
            yield {f"{title}: {name}": row for name, row in figures.items()}
        except Exception as error:
            yield {title: {"failed": reason(error)}}
        torch.cuda.empty_cache()
    for race in RACES:
        yield {f"train.py {race}": _race(race, cfg.data_root)}


def _race(race: str, data_root: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        line = [*race.split(), "trainer=gpu"]
        command = [sys.executable, "train.py", *line, f"runs={folder}", f"data_root={Path(data_root).resolve()}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return {"failed": done.stderr[-300:]}
        (file,) = Path(folder).glob("*/*/result.json")
        result = json.loads(file.read_text())
    seconds = result["seconds"]
    return {"seconds": [seconds], "median_seconds": seconds, "test_accuracy": result["test"]["accuracy"]}
