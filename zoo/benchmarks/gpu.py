"""All that a CUDA machine should show, in some minutes."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from zoo.benchmarks.rounds import measured
from zoo.errors import BadInput, ZooError

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
    ),
    "10 steps of ResNet-18, 32 px, batches of 1,024": (
        "step",
        "model=resnet18",
        "data=cifar10",
        "data.batch_size=1024",
        "rounds=5",
    ),
    "an epoch of LeNet-5 on Fashion-MNIST": ("train", "rounds=3"),
    "an epoch of ResNet-18 on Fashion-MNIST, batches of 1,024": (
        "train",
        "model=resnet18",
        "data.batch_size=1024",
        "rounds=3",
        "only=[hand-written loop,train.py]",
    ),
    "pictures from JPEG files": ("loader", "rounds=3"),
}
RACES = ("fast_fashion_mnist",)


def gpu_suite(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Give the figures of PARTS, each a suite's, and of RACES: training seconds and test accuracy of a recipe."""
    if not torch.cuda.is_available():
        raise BadInput("suite=gpu is for a machine with CUDA, which is not to be had here; suite=step runs on any")
    figures: dict[str, dict[str, Any]] = {}
    for title, (suite, *settings) in PARTS.items():
        part = hydra.compose("benchmark", [f"suite={suite}", "trainer=gpu", f"data_root={cfg.data_root}", *settings])
        for name, row in measured(part).items():
            figures[f"{title}: {name}"] = row
        torch.cuda.empty_cache()
    for recipe in RACES:
        figures[f"train.py experiment={recipe}"] = _race(recipe, cfg.data_root)
    return figures


def _race(recipe: str, data_root: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        line = [f"experiment={recipe}", "trainer=gpu"]
        command = [sys.executable, "train.py", *line, f"runs={folder}", f"data_root={Path(data_root).resolve()}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ZooError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}")
        (file,) = Path(folder).glob("*/*/result.json")
        result = json.loads(file.read_text())
    seconds = result["seconds"]
    return {"seconds": [seconds], "median_seconds": seconds, "test_accuracy": result["test"]["accuracy"]}
