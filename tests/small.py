"""A small net and its facts, as its product file would tell them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from zoo.models.resnet import ResNet

FACTS = {
    "recipe": [],
    "config": {"model": {}, "data": {"in_channels": 1, "image_size": 28}, "choices": {"model": "tiny"}},
    "data": {"classes": [f"class {i}" for i in range(10)], "mean": [72.9], "std": [90.0]},
    "export": {"format": "pt2", "precision": "fp32", "bake": False},
}
BAKED = {**FACTS, "export": {**FACTS["export"], "bake": True}}


def tiny() -> ResNet:
    """Draw a net with batch norms whose statistics are not 0 and 1, in eval mode."""
    torch.manual_seed(0)
    net = ResNet("basic", [1, 1], [4, 8], 1, 10, 28).eval()
    for name, buffer in net.named_buffers():
        if "running_mean" in name:
            buffer.uniform_(-0.1, 0.1)  # more, and no ReLU would let through what depends on the image
        elif "running_var" in name:
            buffer.uniform_(0.3, 1.2)
    return net


def said_alone(code: str, file: Path) -> Any:
    """Run code in a process of its own, `file` as its argument, and give the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
