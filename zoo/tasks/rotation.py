"""Teach a net to see which way is up, so that it learns shapes without labels."""

import torch
from torch import Tensor

from zoo.tasks.classification import Batch, ImageClassification


class RotationPrediction(ImageClassification):
    """Train a net of four outputs to tell by how many quarter turns an image was turned (Gidaris et al., 2018).

    Every image comes in all four ways at once, so that a batch is four times as large; its own label is not looked at.
    All else is as in ImageClassification, and `init_from` takes up what was learnt, but for the head.
    """

    num_outputs = 4

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(all_turns(batch[0]), batch_idx)

    def measured(self, split: str) -> dict[str, Tensor]:
        metrics = super().measured(split)
        return {**metrics, "num_samples": metrics["num_samples"] / 4}

    def measure(self, batch: Batch) -> None:
        super().measure(all_turns(batch[0]))


def all_turns(images: Tensor) -> Batch:
    """Turn square images (N, C, S, S) by 0, 1, 2 and 3 quarters: (4N, C, S, S), and the quarters (4N,)."""
    turned = torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))
