"""Regression: images whose labels are numbers."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.measure.accuracy import has_nan
from zoo.measure.number_scores import Scale, scores
from zoo.optim.schedules import Factor
from zoo.ranges import NotNegative
from zoo.tasks.base import Task
from zoo.tasks.losses import weight_penalty, widened
from zoo.tasks.metrics import WholeMeter

NumberLoss = Literal["mse", "l1", "huber"]
LOSSES: Mapping[NumberLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.functional.mse_loss,
    "l1": nn.functional.l1_loss,
    "huber": nn.functional.smooth_l1_loss,  # quadratic up to one standard deviation, then linear
}


class Regression(Task):
    """Train a net on (images, labels), with labels (N, numbers) float32: each output is for one number.

    Outputs are standardized with the mean and standard deviation of the training labels, `number_scale`, which is also
    stored in the product file. Validation and test log, in the units of the labels, `mae`, the mean absolute error, and
    `rmse`, the root mean squared error; `r2`, the coefficient of determination; and `loss`, the mean squared error of
    standardized numbers, whatever the training loss. For several numbers, they are averaged.
    `aux_weight` and all other arguments are those of ImageClassification and Task.
    """

    kind = "images"
    regression = True
    unregularised: ClassVar[Mapping[str, Any]] = {**Task.unregularised, "loss": "mse"}

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        number_scale: Scale,
        loss: NumberLoss = "mse",
        aux_weight: NotNegative = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(net, optimizer, schedule, **settings)
        self.loss, self.aux_weight = LOSSES[loss], aux_weight
        self.standard = Standard(number_scale)
        self.meter = NumberMeter(number_scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        output = self.net(images)
        numbers, aux = output if isinstance(output, tuple) else (output, ())
        target = self.standard(labels)
        loss = self.loss(widened(numbers), target)
        for head in aux:
            loss = loss + self.aux_weight * self.loss(widened(head), target)
        return loss + weight_penalty(self.weights, self.l1, self.l2)

    def on_train_epoch_end(self) -> None:
        """Log nothing: numbers have no accuracy."""

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.meter.update(self.net(images).float(), labels)


class Standard(nn.Module):
    """Standardize labels (N, C) on their device, in float32 whatever the precision of the task."""

    mean: Tensor
    std: Tensor

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(scale[name]), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self

    def forward(self, labels: Tensor) -> Tensor:
        return (labels - self.mean) / self.std


class NumberMeter(WholeMeter):
    """Keep outputs and labels on the device until they are measured together, in the units of the labels."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def __deepcopy__(self, memo: Any) -> Self:
        """Return an empty meter, for copies of a task."""
        return type(self)(self.scale)

    @property
    def names(self) -> list[str]:
        """Return the names of all metrics."""
        return ["loss", "mae", "rmse", "r2"]

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics so far over all processes, and reset."""
        outputs, labels = self.gathered()
        self.reset()
        self.num_samples, self.num_nan = len(labels), int(has_nan(outputs).sum())
        return scores(outputs, labels, self.scale)
