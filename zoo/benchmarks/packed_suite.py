"""Writing and reading packed files."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from zoo.benchmarks.rounds import Contender, Suite
from zoo.benchmarks.sizes_suite import Figures, sizes_suite
from zoo.models.vgg import VGG
from zoo.packed.packed_file import read_packed, save_packed


def packed_suite(cfg: DictConfig) -> Suite | Iterator[Figures]:
    """Time a packed file of VGG-16 for ImageNet: 138 M weights, 90 % zeros, 32 values per layer, one core.

    Seconds are CPU time of the process, so that other processes do not count. With `cfg.checkpoint`, that net in files
    of several kinds is compared instead; see zoo.benchmarks.sizes_suite.
    """
    if cfg.checkpoint:
        return sizes_suite(cfg)
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weights = VGG(16).state_dict()
    for weight in weights.values():
        if weight.ndim > 1:
            values = torch.randn(32, generator=draw)[torch.randint(32, weight.shape, generator=draw)]
            weight.copy_(values.where(torch.rand(weight.shape, generator=draw) < 0.1, 0.0))
    folder = tempfile.TemporaryDirectory()

    def of_process(work: Callable[[Path], object]) -> Contender:
        def seconds() -> float:
            start = time.process_time()
            work(Path(folder.name) / "model.zoo")
            return time.process_time() - start

        return seconds

    return Suite({"write": of_process(lambda file: save_packed(file, weights, {})), "read": of_process(read_packed)})
