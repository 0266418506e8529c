"""Knowledge distillation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.ranges import Positive, Share
from zoo.tasks.classification import ImageClassification


class Distillation(ImageClassification):
    """Train a net on labels and teacher outputs (Hinton et al., "Distilling the knowledge", 2015, section 2).

    The loss is (1 - alpha) times the label loss plus alpha · T² times the Kullback-Leibler divergence from the averaged
    probabilities of the teachers to those of the net, all softened by the temperature T. Teachers get the same
    augmented images, in eval mode, and are not in checkpoints. For repeated images (data.distinct_epochs), their
    outputs are computed once and cached on the device: 4 bytes per class, image and distinct epoch (Shen and Xing, "A
    fast knowledge distillation framework", 2022). All other arguments are those of ImageClassification.
    """

    unregularised: ClassVar[Mapping[str, Any]] = {**ImageClassification.unregularised, "alpha": 0.0}

    def __init__(
        self,
        *,
        teacher: nn.Module | Sequence[nn.Module],
        temperature: Positive = 4.0,
        alpha: Share = 0.9,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.temperature, self.alpha = temperature, alpha
        self._teachers = teachers_of(teacher)  # in a tuple, they are not submodules
        self._cached: dict[int, Tensor] = {}

    def on_fit_start(self) -> None:
        for teacher in self._teachers:
            teacher.to(next(self.net.parameters()))  # device and precision

    def label_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        found, targets = self._soft(logits), self._targets(images)
        divergence = nn.functional.kl_div(found, targets, reduction="batchmean", log_target=True)
        hard = super().label_loss(logits, labels, images)
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence

    def _targets(self, images: Tensor) -> Tensor:
        """Return the log of the teachers' mean probabilities, cached or computed: (N, classes)."""
        loader: Any = self._trainer and self._trainer.train_dataloader
        number = loader.number_of(images) if hasattr(loader, "number_of") else None
        if number in self._cached:
            return self._cached[number]
        with torch.no_grad():
            targets = log_of_mean([self._soft(teacher(images)) for teacher in self._teachers])
        if number is not None:
            self._cached[number] = targets
        return targets

    def _soft(self, logits: Tensor) -> Tensor:
        return nn.functional.log_softmax(logits.float() / self.temperature, 1)


def teachers_of(teacher: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Return one or several nets, in eval mode and without gradients."""
    several = [teacher] if isinstance(teacher, nn.Module) else teacher
    return tuple(one.eval().requires_grad_(False) for one in several)


def log_of_mean(logs: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of probabilities, from the logarithms of each net's."""
    return torch.stack(list(logs)).logsumexp(0) - math.log(len(logs))
