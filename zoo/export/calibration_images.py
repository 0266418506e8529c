"""Training images from which the scales of activations in int8 are found."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.export.export_format import Job
from zoo.export.read_export import pixels


def calibration_images(job: Job) -> Iterator[Tensor]:
    """Yield `calibration_batches` augmented batches (N, C, H, W) of training images as the file takes them."""
    mean, std = (torch.tensor(job.facts["data"][name])[:, None, None] for name in ("mean", "std"))
    for images, _ in itertools.islice(job.data.loader("train", "cpu"), job.cfg.calibration_batches):
        yield pixels(images, mean, std) if job.cfg.bake else images
