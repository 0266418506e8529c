"""Metrics summed or kept on the device, and computed once per epoch."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import distributed
from zoo.measure.accuracy import TOP, balanced_scores, has_nan, one_answer


class ClassificationMeter(nn.Module):
    """Sum loss, top-1 and top-5 hits over batches on the device; a module, so that it moves with its task.

    For balanced accuracy and macro F1, hits, samples and predictions are also counted for each class. There is no
    `top5` for five classes or fewer. `num_samples`, `num_nan`, the number of samples with NaN logits, which are never
    hits, and `one_answer`, of zoo.measure.accuracy, are those of the last `compute`. `more` are scalar torchmetrics by
    name, updated with logits (N, C) and labels (N,).
    """

    sums: Tensor
    num_samples = num_nan = 0
    has_top5 = True
    one_answer: tuple[int, int] | None = None

    def __init__(self, more: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.more: Any = nn.ModuleDict(dict(more or {}))
        self.register_buffer(
            "sums", torch.zeros(5, dtype=torch.float64), persistent=False
        )  # loss, top-1, top-5, NaN, samples
        self.of_classes: Tensor | None = None  # (3, C), hits, samples and predictions; None before the first batch

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move, but stay in float64 if the task is cast to another precision: bf16 cannot count beyond 256."""
        super()._apply(fn, recurse)
        self.sums = self.sums.double()
        return self

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch: logits (N, C), labels (N,), and the loss of each sample (N,)."""
        self.has_top5 = logits.shape[1] > TOP
        lost = has_nan(logits)
        best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
        top = (best == labels[:, None]) & ~lost[:, None]
        num = top.new_tensor(len(labels), dtype=torch.long)
        batch = torch.stack([losses.sum(), top[:, 0].sum(), top.sum(), lost.sum(), num])
        self.sums += batch.to(self.sums)
        self._count_classes(best[:, 0], labels, top[:, 0], ~lost, logits.shape[1])
        for metric in self.more.values():
            metric.update(logits, labels)

    def _count_classes(self, best: Tensor, labels: Tensor, right: Tensor, is_known: Tensor, num_classes: int) -> None:
        if self.of_classes is None:
            self.of_classes = labels.new_zeros(3, num_classes)
        hits, true, predicted = self.of_classes
        hits.index_add_(0, labels, right.to(labels))
        true.index_add_(0, labels, torch.ones_like(labels))
        predicted.index_add_(0, best, is_known.to(labels))

    @property
    def names(self) -> list[str]:
        """Return the names of all possible metrics."""
        return ["loss", "accuracy", "top5", "balanced_accuracy", "macro_f1", *self.more]

    def compute(self) -> dict[str, Tensor]:
        """Return the means so far over all processes, as fractions of 1, and reset."""
        loss, top1, top5, lost, count = distributed.all_reduce_sum(self.sums).clone()
        self.sums.zero_()
        self.num_samples, self.num_nan = int(count), int(lost)
        means = {"loss": loss / count, "accuracy": top1 / count, "top5": top5 / count, **self._balanced_scores()}
        for name, metric in self.more.items():
            means[name] = metric.compute()  # also over all processes
            metric.reset()
        return means if self.has_top5 else {name: mean for name, mean in means.items() if name != "top5"}

    def _balanced_scores(self) -> dict[str, Tensor]:
        """Return balanced accuracy and macro F1 over all processes, some of which may have had no batch, and reset."""
        own, self.of_classes = self.of_classes, None
        counts = [one for one in distributed.all_gather_object(own if own is None else own.cpu()) if one is not None]
        whole = torch.stack(counts).sum(0).unbind() if counts else ()
        self.one_answer = one_answer(*whole) if whole else None
        return balanced_scores(*whole) if whole else {}


class WholeMeter(nn.Module):
    """Keep outputs and labels on the device until they are measured together; subclasses have `names` and `compute`.

    `num_samples` and `num_nan` are as in ClassificationMeter.
    """

    num_samples = num_nan = 0

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[Tensor, Tensor]] = []
        self._whole: tuple[Tensor, Tensor] | None = None

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: outputs (N, C), labels (N, C)."""
        self.batches.append((outputs.detach(), labels))

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return all outputs and labels so far, over all processes, on the CPU."""
        if self._whole is None:
            own = [torch.cat(parts).cpu() for parts in zip(*self.batches, strict=True)]
            parts = [part for part in distributed.all_gather_object(own) if part] or [[torch.empty(0, 1)] * 2]
            outputs, labels = (torch.cat(one) for one in zip(*parts, strict=True))
            self._whole = outputs, labels
        return self._whole

    def reset(self) -> None:
        """Forget all batches."""
        self.batches, self._whole = [], None
