"""Startup time."""

import subprocess
import sys
import tempfile
from typing import Any

import lightning
from omegaconf import DictConfig

from zoo.benchmarks.rounds import Suite, timed
from zoo.errors import ZooError
from zoo.paths import commands

REACHED = 77  # exit code after the first step


class LeaveAfterStep(lightning.Callback):
    """Exit immediately after the first optimizer step."""

    def on_train_batch_end(self, *args: Any) -> None:
        import os

        os._exit(REACHED)


def startup_suite(cfg: DictConfig) -> Suite:
    """Time a process up to its first step or the end of --help, compared with importing the required libraries."""

    def process(code: int, *line: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            where = [f"runs={folder}"] if code == REACHED else []
            command = [sys.executable, *line, *where]
            seconds = timed(lambda: done.append(subprocess.run(command, capture_output=True, text=True)))
        if done[-1].returncode != code:
            raise ZooError(f"{' '.join(command)} ended with {done[-1].returncode}: {done[-1].stderr[-300:]}")
        return seconds

    train = str(commands()["train"])
    done: list[subprocess.CompletedProcess[str]] = []
    clock = f"+callbacks.clock={{_target_: {__name__}.{LeaveAfterStep.__name__}}}"
    return Suite(
        {
            "import torch, torchvision, lightning": lambda: process(0, "-c", "import torch, torchvision, lightning"),
            "train.py trainer=smoke, first step": lambda: process(REACHED, train, "trainer=smoke", clock),
            "train.py --help": lambda: process(0, train, "--help"),
        }
    )
