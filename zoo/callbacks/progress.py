"""Progress bar and profiler with little overhead."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.profilers import Profiler

from zoo.ranges import Index


class ProgressBar(RichProgressBar):
    """Lightning's bar without version number, and with validation metrics only, since the training loss needs a sync.

    Lightning's own bar collects metrics at every step, although it is drawn only every `refresh_rate` steps.
    """

    def __init__(self, refresh_rate: Index = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch or (self.refresh_rate > 0 and (batch_idx + 1) % self.refresh_rate == 0):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class NoProfiler(Profiler):
    """Profile nothing: Lightning opens some 80 profiling contexts per step, by default with empty generators."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def summary(self) -> str:
        return ""
