"""A product file in, numbers out: its net and its data built again, and a split of them measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from zoo import report
from zoo.build import build, check_targets
from zoo.checkpoint import PRODUCT, Product, read_product
from zoo.compress.semi_structured import use_sparse_kernels
from zoo.data.module import ResidentData, Split
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput, choices
from zoo.export.reading import SUFFIXES, Exported, read_export
from zoo.nets import net_of
from zoo.writing import transcribe


def read(path: str) -> Product | Exported:
    """Read a product or a packed file or, by the ending of its name, an exported one."""
    if Path(path).suffix not in SUFFIXES:
        return read_product(path)
    if not Path(path).is_file():
        raise BadInput(f"there is no file {path}; scripts/export.py leaves its files beside the checkpoint")
    return read_export(Path(path))


def rebuild(source: Product | Exported, cfg: DictConfig) -> tuple[nn.Module, ResidentData]:
    """Build the net of a file with its weights, and its data with the very split it was trained on.

    An exported net is computed by its own runtime, on the CPU. BadInput where the file asks for code from outside the
    zoo, or the data found are not the data it knows.
    """
    if isinstance(source, Product):
        return net_of(source), rebuild_data(source.facts, cfg)
    if cfg.accelerator not in ("auto", "cpu"):
        raise BadInput(f"accelerator={cfg.accelerator}: exported files are computed on the CPU; auto and cpu may be")
    cfg.accelerator = "cpu"
    return source.net, rebuild_data(source.facts, cfg)


def rebuild_data(facts: Mapping[str, Any], cfg: DictConfig) -> ResidentData:
    """Build the data that a file's facts tell of, with the very split; BadInput as `rebuild`."""
    check_targets(facts["config"]["data"], ("zoo.data",))
    config = OmegaConf.create(facts["config"])
    place = config.data if "root" in config.data else config.data.get("source", {})
    if cfg.data_root and "root" in place:
        root, old = Path(place.root), Path(config.data_root)
        below = root.relative_to(old) if root.is_relative_to(old) else Path()
        place.root = str(Path(cfg.data_root) / below)
    config.data.eval_batch_size = cfg.batch_size
    data: ResidentData = build(config.data, "data")
    if data.load().split_hash != facts["data"]["split_hash"]:
        raise BadInput("the data found are not those the net was trained on: their samples, labels or split differ")
    return data


def evaluate(net: nn.Module, data: ResidentData, cfg: DictConfig) -> dict[str, Any]:
    """Measure a split as cfg says: what images are taken for, or what is written for sequences; in fp32.

    With `sparse` in fp16, and with CUDA's kernels for layers of which two in every four weights are zero.
    """
    if cfg.split not in ("test", "val"):
        raise BadInput(f"split={cfg.split} is no split to evaluate; {choices(str(cfg.split), ['test', 'val'])}")
    if type(cfg.beam) is not int or cfg.beam < 1:
        raise BadInput(f"beam={cfg.beam} was asked for; it must be a whole number, at least 1")
    device = put_on(net, cfg.accelerator)
    if cfg.sparse:
        if device.type != "cuda":
            raise BadInput(f"sparse=true is for CUDA's kernels, and this is accelerator={device.type}")
        if not use_sparse_kernels(net):
            raise BadInput(
                "sparse=true: no layer has two zeros in every four weights; compress=semi_structured does that"
            )
    if isinstance(data, SequenceData):
        return transcribe(net, data, cfg.split, device, cfg.beam)
    logits, labels = predict(net, data, cfg.split, device)
    return report.evaluate(logits, labels, data.load().classes)


def ending_of(path: Path, cfg: DictConfig) -> str:
    """Return what tells the files of an evaluation from others in its folder: nothing for a product's test."""
    words = {
        path.name: path.name != PRODUCT,
        cfg.split: cfg.split != "test",
        f"beam{cfg.beam}": cfg.beam != 1,
        "sparse": cfg.sparse,
    }
    return "".join(f"_{word}" for word, is_so in words.items() if is_so)


def put_on(net: nn.Module, accelerator: str) -> torch.device:
    """Put a net on cpu, cuda or, with auto, the better of those there are, in eval mode, and say where that is."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(auto if accelerator == "auto" else accelerator)
        net.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"accelerator={accelerator} is not to be had here; auto, cpu and cuda may be") from error
    return device


def predict(net: nn.Module, data: ResidentData, split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the logits (N, classes) and labels (N,) of a split of images, on the CPU."""
    with torch.inference_mode():
        pairs = [(net(images).float().cpu(), labels.cpu()) for images, labels in data.loader(split, device)]
    logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(labels)
