"""A small net and its facts, as stored in its product file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

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
        classes = [f"class {i}" for i in range(config["data"]["num_classes"])]
        data = {**FACTS["data"], "classes": classes, "mean": of_channel, "std": of_channel}
    else:
        data = {name: FACTS["data"][name] for name in ("split_hash", "num_samples")}
        data |= {"source_symbols": SYMBOLS, "target_symbols": SYMBOLS, "source_unit": "character"}
        data |= {"max_length": config["data"]["max_length"], "example": [5, 7]}
    return {**FACTS, "config": config, "data": data, "recipe": list(recipe), "export": None}


BAKED = {**FACTS, "export": {**FACTS["export"], "bake": True}}


def tiny() -> ResNet:
    """Draw a net with batch norm statistics other than 0 and 1, in eval mode."""
    torch.manual_seed(0)
    net = ResNet("basic", [1, 1], [4, 8], 1, 10, 28).eval()
    for name, buffer in net.named_buffers():
        if "running_mean" in name:
            buffer.uniform_(-0.1, 0.1)  # with larger values ReLUs would block everything that depends on the image
        elif "running_var" in name:
            buffer.uniform_(0.3, 1.2)
    return net


class Gate(nn.Module):
    """Scale each channel by a gate computed from all channels, as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(nn.functional.relu(self.fc1(nn.functional.adaptive_avg_pool2d(x, 1))))
        return x * nn.functional.hardsigmoid(scale)


class InvertedResidual(nn.Module):
    """Widen six times, apply a depthwise convolution, and narrow again (Sandler et al., "MobileNetV2", 2018)."""

    def __init__(self, num_in: int, num_out: int, stride: int, activation: type[nn.Module], gated: bool) -> None:
        super().__init__()
        wide = 6 * num_in
        self.expand = nn.Sequential(nn.Conv2d(num_in, wide, 1, bias=False), nn.BatchNorm2d(wide), activation())
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), activation())
        self.gate = Gate(wide) if gated else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(wide, num_out, 1, bias=False), nn.BatchNorm2d(num_out))
        self.adds = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


class ChannelShuffle(nn.Module):
    """Mix the channels of grouped convolutions (Zhang et al., "ShuffleNet", 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        return x.view(n, 4, channels // 4, height, width).transpose(1, 2).reshape(n, channels, height, width)


class MobileNet(nn.Module):
    """A small MobileNet for 28 px, with depthwise convolutions, hard activations, gates and a shuffle."""

    head_names = ("fc",)

    def __init__(self, gated: bool = False, shuffled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(16, 24, 2, nn.ReLU6, gated),
            InvertedResidual(24, 24, 1, nn.ReLU6, gated),
            InvertedResidual(24, 32, 2, nn.Hardswish, gated),
            InvertedResidual(32, 32, 1, nn.Hardswish, gated),
        )
        self.mix = nn.Sequential(nn.Conv2d(32, 32, 1, groups=4), ChannelShuffle()) if shuffled else nn.Identity()
        self.fc = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.mix(self.blocks(self.stem(images))).mean((2, 3)))


def said_alone(code: str, file: Path) -> Any:
    """Run code in a separate process with `file` as its argument, and return the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
