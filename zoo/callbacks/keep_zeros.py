"""Retrain a pruned net without changing its zeros."""

from typing import Any

import lightning
from torch import Tensor

from zoo.callbacks.compression import Compression, net_of
from zoo.compress.pruning import sparsity_of
from zoo.compress.semi_structured import half_empty


class KeepZeros(Compression):
    """Keep the zeros of linear layers with 2:4 sparsity, which are detected automatically."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def moments(self) -> dict[str, float]:
        return {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.weights = [layer.weight for layer in half_empty(net_of(pl_module))]

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        self.hold(self.weights)

    def stage(self, trainer: lightning.Trainer) -> int:
        return 2  # retraining

    def scalars(self) -> dict[str, float]:
        return {"compress/sparsity": sparsity_of({str(i): weight for i, weight in enumerate(self.weights)})}
