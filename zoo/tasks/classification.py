"""Image classification."""

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

    Logged as `val/` and `test/` are `loss`, `accuracy` and, for more than five classes, `top5`; the validation and test
    loss is plain cross-entropy, whatever the training loss. If a net returns (logits, auxiliary logits) in train mode,
    each auxiliary loss is added with weight `aux_weight` (Szegedy et al., 2014, section 5). `metrics` are additional
    torchmetrics, by name, to measure and log. All other arguments are those of Task.
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
            raise BadInput(f"task.metrics.{odd[0]}: the task already has a metric of this name; use another")
        if odd := [name for name, metric in (metrics or {}).items() if not isinstance(metric, Metric)]:
            raise BadInput(f"task.metrics.{odd[0]}: expected a torchmetrics metric, such as MulticlassF1Score")
        self.meter = ClassificationMeter(metrics)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        output = self.net(images)
        logits, aux = output if isinstance(output, tuple) else (output, ())
        mixed = labels.is_floating_point()  # soft labels, of which the largest counts
        self.count_hits(is_right(logits, labels.argmax(1) if mixed else labels).sum(), len(labels))
        loss = self.label_loss(logits, labels, images)
        for head in aux:
            loss = loss + self.aux_weight * self.loss(head, labels)
        return loss + weight_penalty(self.weights, self.l1, self.l2)

    def label_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return the loss of the net's main logits; subclasses may extend it."""
        return self.loss(logits, labels)

    def measure(self, batch: Batch) -> Tensor | None:
        images, labels = batch
        logits = self.net(images).float()
        self.meter.update(logits, labels, nn.functional.cross_entropy(logits, labels, reduction="none"))
        return logits
