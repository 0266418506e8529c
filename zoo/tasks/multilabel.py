"""Classification of images that have several labels each, or none."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.measure.accuracy import has_nan, is_right
from zoo.measure.several_labels import EVEN, best_thresholds, scores
from zoo.optim.schedules import Factor
from zoo.ranges import NotNegative, Share
from zoo.tasks.base import Task
from zoo.tasks.losses import weight_penalty, widened
from zoo.tasks.metrics import WholeMeter

LabelLoss = Literal["binary_cross_entropy", "asymmetric"]


class MultiLabelClassification(Task):
    """Train a net on (images, labels), with labels (N, classes) of 0 and 1: each output is for one label alone.

    Logged as `val/` and `test/` are `map`, the mean average precision of the labels; `micro_f1` and `macro_f1`;
    `accuracy`, the share of images of which all labels are right at a probability of 0.5; and `loss`, the mean binary
    cross-entropy of a label, whatever the training loss. F1 has one threshold per label: in validation, those that are
    best for these images; in a test, `thresholds`, which are chosen on validation images after training and stored in
    the product file. `aux_weight` and all other arguments are those of ImageClassification and Task.

    The asymmetric loss (Ridnik et al., "Asymmetric loss for multi-label classification", 2021, equation 7) focuses on
    rare positive labels: probabilities of negative ones are reduced by `clip`, and easy labels count less, by the
    exponents `gamma_positive` and `gamma_negative`.
    """

    kind = "images"
    multilabel = True
    unregularised: ClassVar[Mapping[str, Any]] = {**Task.unregularised, "loss": "binary_cross_entropy"}

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        loss: LabelLoss = "binary_cross_entropy",
        gamma_positive: NotNegative = 0.0,
        gamma_negative: NotNegative = 4.0,
        clip: Share = 0.05,
        aux_weight: NotNegative = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(net, optimizer, schedule, **settings)
        self.loss, self.aux_weight = loss, aux_weight
        self.gammas, self.clip = (gamma_positive, gamma_negative), clip
        self.meter = MultiLabelMeter()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        output = self.net(images)
        logits, aux = output if isinstance(output, tuple) else (output, ())
        self.count_hits(is_right(logits, labels.round()).sum(), len(labels))  # of mixed labels, those above one half
        loss = self._loss(logits, labels)
        for head in aux:
            loss = loss + self.aux_weight * self._loss(head, labels)
        return loss + weight_penalty(self.weights, self.l1, self.l2)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = widened(logits)
        labels = labels.to(logits)
        if self.loss == "asymmetric":
            return asymmetric_loss(logits, labels, *self.gammas, self.clip)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.meter.update(self.net(images).float(), labels)

    def measured(self, split: str) -> dict[str, Tensor]:
        if split != "test":
            self.meter.choose_thresholds()
        return super().measured(split)


def asymmetric_loss(logits: Tensor, labels: Tensor, positive: float, negative: float, clip: float) -> Tensor:
    """Return the asymmetric loss, averaged over samples and labels (N, C); labels may be between 0 and 1.

    The published code sums over labels instead. The weights of easy labels get no gradient, as in that code.
    """
    share = logits.sigmoid()
    no = (1 - share + clip).clamp(max=1)
    log_share, log_no = nn.functional.logsigmoid(logits), no.clamp_min(1e-8).log()
    with torch.no_grad():
        of_positive, of_negative = (1 - share) ** positive, (1 - no) ** negative
    return -(labels * of_positive * log_share + (1 - labels) * of_negative * log_no).mean()


class MultiLabelMeter(WholeMeter):
    """Keep logits and labels on the device until they are measured together: average precision ranks all samples.

    `correct` has for each image of each batch in the last result whether all its labels are right at a probability of
    0.5. `thresholds` (C,) are None until they are chosen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.correct: list[list[bool]] = []
        self.thresholds: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Self:
        """Return an empty meter with these thresholds, for copies of a task."""
        fresh = type(self)()
        fresh.thresholds = self.thresholds
        return fresh

    @property
    def names(self) -> list[str]:
        """Return the names of all metrics."""
        return ["loss", "accuracy", "map", "micro_f1", "macro_f1"]

    def choose_thresholds(self) -> None:
        """Take the thresholds that are best for the batches so far, over all processes."""
        logits, labels = self.gathered()
        self.thresholds = best_thresholds(logits, labels) if len(logits) else None

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics so far over all processes, as fractions of 1, and reset."""
        logits, labels = self.gathered()
        self.correct = [is_right(mine, theirs).tolist() for mine, theirs in self.batches]
        self.reset()
        self.num_samples, self.num_nan = len(labels), int(has_nan(logits).sum())
        thresholds = torch.full((logits.shape[1],), EVEN) if self.thresholds is None else self.thresholds
        loss = nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double())
        accuracy = is_right(logits, labels).double().mean()
        return {"loss": loss, "accuracy": accuracy, **scores(logits, labels, thresholds)}
