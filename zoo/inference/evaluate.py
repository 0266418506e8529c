"""Evaluate a product file: rebuild its net and data, and measure a split."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.checkpoint.product_file import Product
from zoo.checkpoint.stored_config import stored_data
from zoo.compress.semi_structured import use_sparse_kernels
from zoo.data.module import ResidentData, Split
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput
from zoo.export.read_export import Exported, OnCpu, net_of
from zoo.measure import evaluation
from zoo.measure.device import device_for
from zoo.measure.number_scores import evaluate_numbers
from zoo.measure.several_labels import evaluate_labels
from zoo.paths import PRODUCT
from zoo.tasks.transcribe import transcribe


def rebuild(source: Product | Exported, cfg: DictConfig) -> tuple[nn.Module, ResidentData]:
    """Build the net of a file with its weights, and its data with the same split it was trained on.

    Raises BadInput if the file names code from outside the zoo, or the data found are different.
    """
    return net_of(source), stored_data(source.facts, cfg)


def evaluate(
    net: nn.Module, data: ResidentData, cfg: DictConfig, temperature: float = 1.0, thresholds: Tensor | None = None
) -> dict[str, Any]:
    """Measure a split according to cfg: classes or numbers of images, or generated sequences; in fp32.

    Probabilities of classes are those of the logits divided by `temperature`. Where an image may have several labels,
    each is predicted if its probability is above its one of the `thresholds` (C,).

    With `sparse`, in fp16 and with CUDA's kernels for layers in which two of every four weights are zero.
    """
    device = to_device(net, cfg.accelerator)
    if cfg.sparse:
        if device.type != "cuda":
            raise BadInput(f"sparse=true needs CUDA's kernels, got accelerator={device.type}")
        if not use_sparse_kernels(net):
            raise BadInput(
                "sparse=true: no layer has two zeros in every four weights; train with compress=semi_structured"
            )
    if isinstance(data, SequenceData):
        return transcribe(net, data, cfg.split, device, cfg.beam)
    logits, labels = predict(net, data, cfg.split, device)
    if (scale := data.number_scale) is not None:
        return evaluate_numbers(logits, labels, data.load().classes, scale)
    if thresholds is not None:
        return evaluate_labels(logits, labels, data.load().classes, thresholds)
    return evaluation.evaluate(logits, labels, data.load().classes, temperature)


def ending_of(path: Path, cfg: DictConfig) -> str:
    """Return the suffix that distinguishes an evaluation's files in their folder: empty for a product's test."""
    words = {
        path.name: path.name != PRODUCT,
        cfg.split: cfg.split != "test",
        f"beam{cfg.beam}": cfg.beam != 1,
        "sparse": cfg.sparse,
    }
    return "".join(f"_{word}" for word, is_so in words.items() if is_so)


def to_device(net: nn.Module, accelerator: str) -> torch.device:
    """Move a net in eval mode to cpu, cuda or, with auto, the better available one, and return the device."""
    is_on_cpu = isinstance(net, OnCpu)
    if is_on_cpu and accelerator not in ("auto", "cpu"):
        raise BadInput(f"accelerator={accelerator}: exported files are computed on the CPU; use auto or cpu")
    device = device_for("cpu" if is_on_cpu else accelerator)
    net.to(device).eval()
    return device


def predict(net: nn.Module, data: ResidentData, split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the logits (N, classes) and labels (N,) or (N, classes) of a split of images, on the CPU."""
    logits, labels = zip(*evaluation.predictions(net, data.loader(split, device)), strict=True)
    return torch.cat(logits), torch.cat(labels)
