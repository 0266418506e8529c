"""What an exported file says of itself, so that whoever has it needs nothing else: texts by name, in its metadata."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput
from zoo.facts import FORMAT, facts_text

INPUT = {
    False: "images, float32, N x channels x image_size x image_size: (pixel - mean) / std, with pixels from 0 to 255",
    True: "pixels from 0 to 255, uint8, N x channels x image_size x image_size; mean and std are in the graph",
}


@dataclass(frozen=True)
class Exported:
    """An exported file that was read: what it says, and a net that its own runtime computes, on the CPU."""

    path: Path
    facts: dict[str, Any]
    net: nn.Module


class Runtime(nn.Module):
    """Have another runtime compute logits (N, classes) of normalised images, also where the file takes pixels."""

    def __init__(self, run: Callable[[Tensor], Tensor], facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.run = run
        self.mean, self.std = (torch.tensor(facts["data"][name])[:, None, None] for name in ("mean", "std"))
        self.bake = facts["export"]["bake"]

    def forward(self, images: Tensor) -> Tensor:
        return self.run(pixels(images, self.mean, self.std) if self.bake else images)


class Baked(nn.Module):
    """A net that takes pixels, and normalises them itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images.float() - self.mean) / self.std)


def pixels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Give the pixels, uint8, that normalised images were made of."""
    return (images * std + mean).round().clamp(0, 255).to(torch.uint8)


def example(facts: Mapping[str, Any]) -> Tensor:
    """Give two made-up images of the size and type that the file is to take."""
    settings = facts["config"]["data"]
    shape = (2, settings["in_channels"], settings["image_size"], settings["image_size"])
    return torch.zeros(shape, dtype=torch.uint8 if facts["export"]["bake"] else torch.float32)


def labels(facts: Mapping[str, Any]) -> dict[str, str]:
    """Write down what a user of the file must know, and as `zoo` all that a product file says."""
    data, settings = facts["data"], facts["config"]["data"]
    plain = {
        "classes": data["classes"],
        "mean": data["mean"],
        "std": data["std"],
        "image_size": settings["image_size"],
        "channels": settings["in_channels"],
    }
    texts = {name: json.dumps(value) for name, value in plain.items()}
    return {**texts, "input": INPUT[facts["export"]["bake"]], "zoo": facts_text(facts)}


def read_labels(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Read the facts of an exported file; BadInput where there are none, or those of another version."""
    if "zoo" not in texts:
        raise BadInput(f"{path} was not written by scripts/export.py; only such files can be read here")
    try:
        facts = json.loads(texts["zoo"])
        known = facts["format"] == FORMAT and {"config", "data", "export"} <= facts.keys()
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        raise BadInput(f"{path} was written by another version of the zoo, which alone can read it")
    return facts


def check_shapes(path: Path, facts: Mapping[str, Any], taken: list[Any], given: list[Any]) -> None:
    """Raise BadInput where a graph does not take the images, or give the classes, of which its file tells."""
    images, classes = list(example(facts).shape[1:]), [len(facts["data"]["classes"])]
    if taken[1:] != images or given[1:] != classes:
        raise BadInput(
            f"{path} holds another net than it says: it takes {taken[1:]} and gives {given[1:]}, where its metadata "
            f"tell of {images} and {classes}; export it again"
        )
