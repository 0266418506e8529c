"""Teach a net to name what is in an image."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from zoo.errors import BadInput
from zoo.measure.accuracy import is_right
from zoo.optim.schedules import Factor
from zoo.ranges import BelowOne, NotNegative
from zoo.tasks.base import Task
from zoo.tasks.losses import LossName, loss_function, weight_penalty
from zoo.tasks.metrics import ClassificationMeter

Batch = tuple[Tensor, Tensor]


class ImageClassification(Task):
    """Train a net on (images, labels), and measure loss, top-1 and top-5 accuracy.

    Logged as `val/` and `test/` `loss`, `accuracy` and, of more than five classes, `top5`; the loss of validation and
    test is plain cross-entropy, whatever is trained with. Where a net gives (logits, auxiliary logits) in train mode,
    each auxiliary loss is added `aux_weight` times (Szegedy et al., 2014, section 5). `metrics` are more of
    torchmetrics', by name, which are measured and logged as well. All other arguments are Task's.
    """

    kind = "images"

    unregularised: ClassVar[Mapping[str, Any]] = {**Task.unregularised, "label_smoothing": 0.0}

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        loss: LossName = "cross_entropy",
        label_smoothing: BelowOne = 0.0,
        aux_weight: NotNegative = 0.3,
        metrics: Mapping[str, Metric] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(net, optimizer, schedule, **settings)
        self.loss = loss_function(loss, label_smoothing)
        self.aux_weight = aux_weight
        if odd := sorted({*(metrics or {})} & {*ClassificationMeter().names, "num_samples"}):
            raise BadInput(f"task.metrics.{odd[0]}: the task measures this by itself; give it another name")
        if odd := [name for name, metric in (metrics or {}).items() if not isinstance(metric, Metric)]:
            raise BadInput(f"task.metrics.{odd[0]}: expected a metric of torchmetrics, such as MulticlassF1Score")
        self.meter = ClassificationMeter(metrics)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        output = self.net(images)
        logits, aux = output if isinstance(output, tuple) else (output, ())
        mixed = labels.is_floating_point()  # shares of classes, of which the largest counts
        self.count_hits(is_right(logits, labels.argmax(1) if mixed else labels).sum(), len(labels))
        loss = self.label_loss(logits, labels, images)
        for head in aux:
            loss = loss + self.aux_weight * self.loss(head, labels)
        return loss + weight_penalty(self.weights, self.l1, self.l2)

    def label_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return the loss of the net's main logits; other tasks may ask more of them."""
        return self.loss(logits, labels)

    def measure(self, batch: Batch) -> Tensor | None:
        images, labels = batch
        logits = self.net(images).float()
        self.meter.update(logits, labels, nn.functional.cross_entropy(logits, labels, reduction="none"))
        return logits
