"""Self-supervised rotation prediction."""

import torch
from torch import Tensor

from zoo.tasks.classification import Batch, ImageClassification


class RotationPrediction(ImageClassification):
    """Train a net with four outputs to predict by how many quarter turns an image was rotated (Gidaris et al., 2018).

    Each batch has all four rotations of every image, so it is four times as large; labels are not used. Otherwise as in
    ImageClassification; `init_from` transfers the learnt weights except those of the head.
    """

    num_outputs = 4
    turns_images = True  # which must be squares

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(all_turns(batch[0]), batch_idx)

    def measured(self, split: str) -> dict[str, Tensor]:
        metrics = super().measured(split)
        return {**metrics, "num_samples": metrics["num_samples"] / 4}

    def measure(self, batch: Batch) -> None:
        super().measure(all_turns(batch[0]))


def all_turns(images: Tensor) -> Batch:
    """Rotate square images (N, C, S, S) by 0, 1, 2 and 3 quarter turns: (4N, C, S, S), and the turns (4N,)."""
    turned = torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))
