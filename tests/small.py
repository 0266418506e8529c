"""A small net and its facts, as its product file would tell them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from zoo.models.resnet import ResNet

FACTS = {
    "recipe": [],
    "config": {
        "model": {"_target_": "zoo.models.resnet.ResNet", "block": "basic", "depths": [1, 1], "widths": [4, 8]}
        | {"in_channels": 1, "num_classes": 10, "image_size": 28},
        "data": {"_target_": "zoo.data.images.ImageData", "in_channels": 1, "image_size": 28},
        "choices": {"model": "tiny", "data": "made_up"},
    },
    "data": {
        "classes": [f"class {i}" for i in range(10)],
        "mean": [72.9],
        "std": [90.0],
        "split_hash": "0123456789abcdef",
        "num_samples": {"train": 100, "val": 10, "test": 10},
    },
    "versions": {"zoo": "0.1.0"},
    "commit": None,
    "export": {"format": "pt2", "precision": "fp32", "bake": False},
}
SYMBOLS = ["<pad>", "<start>", "<end>", *"abcdefgh"]


def facts_of(cfg: Any, recipe: list[Any] | tuple[()] = ()) -> dict[str, Any]:
    """Return the facts that a product file of a composed config would have."""
    config = OmegaConf.to_container(cfg, resolve=True)
    config["choices"] = {"model": "some", "data": "some"}
    if "image_size" in config["data"]:
        of_channel = [1.0] * config["data"]["in_channels"]
        data = {**FACTS["data"], "mean": of_channel, "std": of_channel}
    else:
        data = {name: FACTS["data"][name] for name in ("split_hash", "num_samples")}
        data |= {"source_symbols": SYMBOLS, "target_symbols": SYMBOLS, "source_unit": "character"}
        data |= {"max_length": config["data"]["max_length"], "example": [5, 7]}
    return {**FACTS, "config": config, "data": data, "recipe": list(recipe), "export": None}


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
