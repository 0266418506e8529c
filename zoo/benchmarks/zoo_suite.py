"""Inference time of all nets."""

import torch
from omegaconf import DictConfig

from zoo.benchmarks.rounds import Contender, Suite, timed
from zoo.catalogue import Entry, catalogue
from zoo.run.model import build_bare_model


def zoo_suite(cfg: DictConfig) -> Suite:
    """Time the forward pass of one image for every net, at its own image size, in eval mode and fp32, on the CPU.

    The baseline is ResNet-18. The fastest of three passes per round counts, so that a cold cache has no effect.
    """

    def contender(entry: Entry) -> Contender:
        def forward() -> float:
            net = (
                build_bare_model(entry.cfg.model).eval().to(memory_format=torch.channels_last)
            )  # not kept: all together take 6 GB
            image = torch.randn(1, *entry.image_shape).to(memory_format=torch.channels_last)
            with torch.inference_mode():
                return min(timed(lambda: net(image)) for _ in range(3))

        return forward

    contenders = {entry.name: contender(entry) for entry in catalogue()}
    return Suite({"resnet18": contenders.pop("resnet18"), **contenders})
