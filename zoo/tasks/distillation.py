"""Teach a net what another one knows."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.tasks.classification import ImageClassification


class Distillation(ImageClassification):
    """Train a net on labels and on a teacher's logits (Hinton et al., "Distilling the knowledge", 2015, section 2).

    The loss is (1 - alpha) times that of the labels plus alpha · T² times the Kullback-Leibler divergence from the
    teacher's classes to the net's, both softened by the temperature T. The teacher sees the same augmented images, in
    eval mode, and is in no checkpoint. All other arguments are ImageClassification's.
    """

    def __init__(self, *, teacher: nn.Module, temperature: float = 4.0, alpha: float = 0.9, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} must be a number above 0")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is the teacher's share of the loss, from 0 to 1")
        self.temperature, self.alpha = temperature, alpha
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple, so that it is no part of this module

    def on_fit_start(self) -> None:
        self._teacher[0].to(next(self.net.parameters()))  # device and precision

    def label_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._teacher[0](images)
        found, wanted = (nn.functional.log_softmax(x.float() / self.temperature, 1) for x in (logits, wanted))
        divergence = nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        hard = super().label_loss(logits, labels, images)
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence
