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
from zoo.tasks.class_weights import ClassWeights, log_prior
from zoo.tasks.class_weights import class_weights as weights_of_classes
from zoo.tasks.losses import LossName, loss_function, weight_penalty, widened
from zoo.tasks.metrics import ClassificationMeter

Batch = tuple[Tensor, Tensor]
BALANCING: Mapping[str, Any] = {"class_weights": None, "logit_adjustment": 0.0}  # settings for classes of equal size


class ImageClassification(Task):
    """Train a net on (images, labels), and measure loss, top-1 and top-5 accuracy.

    Logged as `val/` and `test/` are `loss`, `accuracy`, `balanced_accuracy` (the mean recall of all classes),
    `macro_f1` (their mean F1) and, for more than five classes, `top5`; the validation and test loss is plain
    cross-entropy, whatever the training loss. If a net returns (logits, auxiliary logits) in train mode, each auxiliary
    loss is added with weight `aux_weight` (Szegedy et al., 2014, section 5). `metrics` are additional torchmetrics, by
    name, to measure and log. All other arguments are those of Task.

    For classes of different sizes, `class_weights` weighs the losses of samples by their class, and `logit_adjustment`
    adds this multiple of the logarithm of each class's share to the logits of the training loss (Menon et al.,
    "Long-tail learning via logit adjustment", 2021, equation 10). Both need `class_counts`, the training samples of
    each class.
    """

    kind = "images"
    class_weight: Tensor | None
    offsets: Tensor | None

    unregularised: ClassVar[Mapping[str, Any]] = {**Task.unregularised, "label_smoothing": 0.0, **BALANCING}

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        loss: LossName = "cross_entropy",
        label_smoothing: BelowOne = 0.0,
        aux_weight: NotNegative = 0.3,
        metrics: Mapping[str, Metric] | None = None,
        class_weights: ClassWeights | None = None,
        logit_adjustment: NotNegative = 0.0,
        class_counts: Mapping[str, int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(net, optimizer, schedule, **settings)
        self.loss = loss_function(loss, label_smoothing)
        if logit_adjustment and loss != "cross_entropy":
            raise BadInput(f"task.logit_adjustment is for task.loss=cross_entropy, got task.loss={loss}")
        counts, adjusts = class_counts or {}, logit_adjustment > 0
        weights = None if class_weights is None else weights_of_classes(class_weights, counts)
        self.register_buffer("class_weight", weights, persistent=False)
        self.register_buffer("offsets", logit_adjustment * log_prior(counts) if adjusts else None, persistent=False)
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
            loss = loss + self.aux_weight * self._loss(head, labels)
        return loss + weight_penalty(self.weights, self.l1, self.l2)

    def label_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return the loss of the net's main logits; subclasses may extend it."""
        return self._loss(logits, labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.offsets is not None:
            logits = widened(logits) + self.offsets
        return self.loss(logits, labels, self.class_weight)

    def measure(self, batch: Batch) -> Tensor | None:
        images, labels = batch
        logits = self.net(images).float()
        self.meter.update(logits, labels, nn.functional.cross_entropy(logits, labels, reduction="none"))
        return logits
