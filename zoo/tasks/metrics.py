"""Metrics summed on the device and averaged once per epoch."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import distributed
from zoo.measure.accuracy import TOP, has_nan


class ClassificationMeter(nn.Module):
    """Sum loss, top-1 and top-5 hits over batches on the device; a module, so that it moves with its task.

    There is no `top5` for five classes or fewer. `num_samples` and `num_nan`, the number of samples with NaN logits,
    which are never hits, are those of the last `compute`. `more` are scalar torchmetrics by name, updated with logits
    (N, C) and labels (N,).
    """

    sums: Tensor
    num_samples = num_nan = 0
    has_top5 = True

    def __init__(self, more: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.more: Any = nn.ModuleDict(dict(more or {}))
        self.register_buffer(
            "sums", torch.zeros(5, dtype=torch.float64), persistent=False
        )  # loss, top-1, top-5, NaN, samples

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
        top = (logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]) & ~lost[:, None]
        num = top.new_tensor(len(labels), dtype=torch.long)
        batch = torch.stack([losses.sum(), top[:, 0].sum(), top.sum(), lost.sum(), num])
        self.sums += batch.to(self.sums)
        for metric in self.more.values():
            metric.update(logits, labels)

    @property
    def names(self) -> list[str]:
        """Return the names of all possible metrics."""
        return ["loss", "accuracy", "top5", *self.more]

    def compute(self) -> dict[str, Tensor]:
        """Return the means so far over all processes, as fractions of 1, and reset."""
        loss, top1, top5, lost, count = distributed.all_reduce_sum(self.sums).clone()
        self.sums.zero_()
        self.num_samples, self.num_nan = int(count), int(lost)
        means = {"loss": loss / count, "accuracy": top1 / count, "top5": top5 / count}
        for name, metric in self.more.items():
            means[name] = metric.compute()  # also over all processes
            metric.reset()
        return means if self.has_top5 else {name: mean for name, mean in means.items() if name != "top5"}
