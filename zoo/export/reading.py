"""Exported files as nets: their own runtimes compute them, and all else of the zoo calls them as any other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput
from zoo.export.onnx import open_onnx
from zoo.export.opened import Opened, Run
from zoo.export.pt2 import open_pt2

SUFFIXES: dict[str, Callable[[Path], Opened]] = {".pt2": open_pt2, ".onnx": open_onnx}
PARTS = ("encoder", "step")  # of a net of sequences, each in a file that is named after it


@dataclass(frozen=True)
class Exported:
    """An exported file that was read: what it says, and a net that its own runtime computes, on the CPU."""

    path: Path
    facts: dict[str, Any]
    net: nn.Module


class Classifier(nn.Module):
    """Have a runtime compute logits (N, classes) of normalised images, also where it takes pixels."""

    def __init__(self, run: Run, facts: Mapping[str, Any], bake: bool) -> None:
        super().__init__()
        self.run, self.bake = run, bake
        self.mean, self.std = (torch.tensor(facts["data"][name])[:, None, None] for name in ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        return self.run(pixels(images, self.mean, self.std) if self.bake else images)[0]


class Writer(nn.Module):
    """Have a runtime write, as zoo.models.decoding wants it; `length` is that of sources, where they must be padded."""

    def __init__(self, encoder: Run, step: Run, length: int | None) -> None:
        super().__init__()
        self.encoder, self.next, self.length = encoder, step, length

    def begin(self, source: Tensor) -> tuple[Tensor, ...]:
        if self.length:
            source = nn.functional.pad(source, (0, self.length - source.shape[1]))
        return self.encoder(source)

    def step(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, *state_after = self.next(tokens, *state)
        return logits, tuple(state_after)


def pixels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Give the pixels, uint8, that normalised images were made of."""
    return (images * std + mean).round().clamp(0, 255).to(torch.uint8)


def read_export(path: Path) -> Exported:
    """Read an exported file, of sequences both; BadInput for what is cut short, changed or foreign, or does not fit."""
    opened = SUFFIXES[path.suffix](path)
    facts = opened.facts
    part = facts["export"].get("part")
    if part not in PARTS:
        size, channels = (facts["config"]["data"][name] for name in ("image_size", "in_channels"))
        _check(opened, [channels, size, size], [len(facts["data"]["classes"])])
        return Exported(path, facts, Classifier(opened.run, facts, facts["export"]["bake"]))
    other = path.with_name(path.name.replace(part, PARTS[part == "encoder"]))
    if not other.is_file():
        raise BadInput(f"{path} is the {part} of a net that writes, and {other.name} is not beside it")
    both = {part: opened, PARTS[part == "encoder"]: SUFFIXES[path.suffix](other)}
    told = [{**one.facts, "export": {**one.facts["export"], "part": None}} for one in both.values()]
    if told[0] != told[1]:
        raise BadInput(f"{path} and {other.name} are of different nets; export both again")
    _check(both["step"], [], [len(facts["data"]["target_symbols"])])
    length = both["encoder"].takes[0][1]
    net = Writer(both["encoder"].run, both["step"].run, length if isinstance(length, int) else None)
    return Exported(path, facts, net)


def _check(opened: Opened, takes: list[int], gives: list[int]) -> None:
    """Raise BadInput where a graph's first input and output, but for the batch, are not what its file tells of."""
    found = opened.takes[0][1:], opened.gives[0][1:]
    if found != (takes, gives):
        raise BadInput(
            f"{opened.path} holds another net than it says: it takes {found[0]} and gives {found[1]}, where its "
            f"metadata tell of {takes} and {gives}; export it again"
        )
