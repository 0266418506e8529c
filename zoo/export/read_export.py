"""Exported files as nets: computed by their own runtimes, and called by the zoo like any other net."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import Product, read_product
from zoo.errors import BadInput
from zoo.export.export_format import openers
from zoo.export.runtime import LoadedGraph, Run
from zoo.ranges import height_width

PARTS = ("encoder", "step")  # of a sequence net, each in a file named after it


@dataclass(frozen=True)
class Exported:
    """An exported file that was read: its facts, and a net computed by its own runtime on the CPU."""

    path: Path
    facts: dict[str, Any]
    net: nn.Module


class OnCpu(nn.Module):
    """A net that a runtime computes, on the CPU only."""


class Classifier(OnCpu):
    """Compute logits (N, classes) of normalised images with a runtime, even if that takes pixels.

    Logits that the runtime has divided by a temperature are multiplied by it: they are those of the checkpoint.
    """

    def __init__(self, run: Run, facts: Mapping[str, Any], bake: bool) -> None:
        super().__init__()
        self.run, self.bake = run, bake
        self.temperature = facts["temperature"] if facts["export"].get("calibrated") else 1.0
        self.mean, self.std = (torch.tensor(facts["data"][name])[:, None, None] for name in ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.run(pixels(images, self.mean, self.std) if self.bake else images)[0]
        return logits if self.temperature == 1 else logits * self.temperature


class Writer(OnCpu):
    """Decode with a runtime, as zoo.models.decoding requires; sources are padded to `length`, if given."""

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
    """Return the uint8 pixels of normalised images."""
    return (images * std + mean).round().clamp(0, 255).to(torch.uint8)


def read_net(path: str) -> Product | Exported:
    """Read a product or packed file or, by its suffix, an exported one; for a run folder, its product."""
    file = file_of(path)
    if file.suffix not in openers():
        return read_product(file)
    if not file.is_file():
        raise BadInput(f"there is no file {file}; scripts/export.py writes exported files next to the checkpoint")
    return read_export(file)


def net_of(source: Product | Exported) -> nn.Module:
    """Build the net of a file with its weights; one that was exported is computed by its own runtime."""
    return load_model(source) if isinstance(source, Product) else source.net


def read_export(path: Path) -> Exported:
    """Read an exported file, or both of a sequence net; raise BadInput if one is damaged, foreign or does not fit."""
    opened = openers()[path.suffix](path)
    facts, part = opened.facts, opened.facts["export"].get("part")
    if (part in PARTS) != ("classes" not in facts["data"]):
        raise BadInput(f"{path} claims to be {_words(part)}, and describes data of the other kind; export it again")
    if part not in PARTS:
        return Exported(path, facts, _classifier(opened))
    name = path.name.replace(part, PARTS[part == "encoder"])
    if name == path.name:
        raise BadInput(f"{path} is the {part} of a sequence net, and its name must show this; export both again")
    if not path.with_name(name).is_file():
        raise BadInput(f"{path} is the {part} of a sequence net, and {name} is not next to it")
    both = {part: opened, PARTS[part == "encoder"]: openers()[path.suffix](path.with_name(name))}
    for half, one in both.items():
        if one.facts["export"].get("part") != half:
            raise BadInput(f"{one.path} is not the {half}, as its name says; export both again")
    comparable = [{**one.facts, "export": {**one.facts["export"], "part": None}} for one in both.values()]
    if comparable[0] != comparable[1]:
        raise BadInput(f"{path} and {name} are of different nets; export both again")
    return Exported(path, facts, _writer(both["encoder"], both["step"]))


def _words(part: str | None) -> str:
    return f"the {part} of a sequence net" if part in PARTS else "an image net"


def _classifier(opened: LoadedGraph) -> Classifier:
    """Return the image net of a file; raise BadInput if its graph does not fit its images and classes."""
    facts = opened.facts
    size, channels = (facts["config"]["data"][name] for name in ("image_size", "in_channels"))
    takes = torch.uint8 if facts["export"]["bake"] else torch.float32
    logits = [None, len(facts["data"]["classes"])]
    run = opened.checked([([None, channels, *height_width(size)], takes)], [(logits, torch.float32)])
    return Classifier(run, facts, facts["export"]["bake"])


def _writer(encoder: LoadedGraph, step: LoadedGraph) -> Writer:
    """Return the net of two files; raise BadInput if their graphs do not match the symbols or each other's state."""
    facts = encoder.facts
    is_fixed = any(isinstance(size, int) for shape in encoder.takes for size in shape[1:])
    length = facts["data"]["max_length"] if is_fixed else None
    state = [([None] * len(shape), dtype) for shape, dtype in zip_longest(encoder.gives, encoder.gives_dtypes)]
    logits = [None, len(facts["data"]["target_symbols"])]
    begin = encoder.checked([([None, length], torch.int64)], state)
    following = step.checked([([None], torch.int64), *state], [(logits, torch.float32), *state])
    return Writer(begin, following, length)
