"""Monitoring of loss, gradient norm and speed, and a line per epoch."""

import logging
import math
import statistics
import time
from collections.abc import KeysView
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from zoo import distributed, escape
from zoo.callbacks.product import BestProduct
from zoo.errors import Diverged
from zoo.paths import LAST
from zoo.report.epoch_lines import aligned, epoch_cells

log = logging.getLogger("zoo")


class TrainingMonitor(lightning.Callback):
    """Log metrics every `log_every_n_steps`, time every epoch, and stop a run whose loss is not finite.

    Losses stay on the device between logged steps, and are then averaged over all processes; a step is an optimizer
    step, over one or more batches. Logged are: the mean `train/loss` since the last logged step; `lr` and
    `train/gradient_norm` (before clipping) of the step; `train/samples_per_second`, of training steps only; and
    with CUDA `train/peak_gpu_gb`, the peak memory of tensors so far. The seconds of an epoch are those of its training
    steps, without validation; for an interrupted epoch they are summed over its parts.

    Each epoch ends with a line in log.txt, and on the screen unless the run has no progress bar: its losses, metrics,
    seconds and mean learning rate, with "best" if its weights are kept as the best so far. Means are those over the
    epoch; the training loss and the learning rate of an interrupted epoch are those of what was trained since.
    """

    def __init__(self) -> None:
        self.epoch_seconds: list[float] = []
        self.num_images = 0
        self._losses: list[Tensor] = []  # of the batches since the last flush, on the device
        self._earlier: list[float] = []  # losses already fetched
        self._so_far = 0.0  # seconds of this epoch before it was interrupted
        self._started: float | None = None
        self._latest = 0.0  # time at the end of the latest batch
        self._gradient_norm: Tensor  # of the step about to be logged
        self._lr = 0.0  # of the latest step
        self._mark = (0.0, 0)  # time of the last log, and the number of images at that time
        self.last_loss: float | None = None  # that was logged
        self._of_epoch: list[float] = []  # losses of this epoch, fetched
        self._rates: list[float] = []  # learning rates of the steps of this epoch
        self._validated = -1  # steps at the last validation
        self._columns: KeysView[str] | None = None  # of the lines so far

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.perf_counter()
        self._mark = self._started, self.num_images

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # that hook is not called when an interrupted epoch is resumed
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._lr = optimizer.param_groups[0]["lr"]  # after the step, it is that of the next one
        self._rates.append(self._lr)
        if self._is_due(trainer, len(self._losses) + 1):
            self._gradient_norm = gradient_norm(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._latest = time.perf_counter()
        self._losses.append(outputs["loss"])
        self.num_images += len(batch[1]) * distributed.world_size()
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and self._is_due(trainer, len(self._losses)):
            self._flush(trainer, pl_module)
        if trainer.is_last_batch:
            self.epoch_seconds.append(self._seconds_so_far())
            self._so_far, self._started = 0.0, None

    def _is_due(self, trainer: lightning.Trainer, num_losses: int) -> bool:
        """Return whether to log a step that ends with `num_losses` losses on the device."""
        enough: int = trainer.accumulate_grad_batches * trainer.log_every_n_steps  # type: ignore[attr-defined]
        return trainer.is_last_batch or len(self._earlier) + num_losses >= enough

    def _flush(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the mean loss since the last flush, if finite, and the other metrics."""
        losses = self._checked_losses(trainer)
        self._earlier = []
        mean = sum(losses) / len(losses) * trainer.accumulate_grad_batches  # Lightning divided each by this
        self.last_loss = mean
        self._of_epoch += [loss * trainer.accumulate_grad_batches for loss in losses]
        norm, lr = float(self._gradient_norm), self._lr
        (then, seen), self._mark = self._mark, (time.perf_counter(), self.num_images)
        rate = (self.num_images - seen) / (self._mark[0] - then)
        metrics = {"train/loss": mean, "lr": lr, "train/gradient_norm": norm, "train/samples_per_second": rate}
        if pl_module.device.type == "cuda":
            metrics["train/peak_gpu_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step - 1)

    def _checked_losses(self, trainer: lightning.Trainer) -> list[float]:
        """Return the losses since the last flush; raise Diverged if one of them is not finite."""
        losses = self._fetched_losses()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = trainer.global_step - (len(losses) - 1 - i) // trainer.accumulate_grad_batches
                raise Diverged(_gone(f"loss became {loss} at step {step}", trainer, self._lr))
        return losses

    def _fetched_losses(self) -> list[float]:
        """Fetch the losses since the last flush in one transfer."""
        if self._losses:
            self._earlier += (distributed.all_reduce_sum(torch.stack(self._losses)) / distributed.world_size()).tolist()
            self._losses = []
        return self._earlier

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._started is not None and self._latest > self._started:  # within an epoch: max_steps, max_time
            self.epoch_seconds.append(self._so_far + self._latest - self._started)
            self._so_far, self._started = 0.0, None

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._checked_losses(trainer)  # a diverged state must not replace the last good one

    def _seconds_so_far(self) -> float:
        return self._so_far + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if not math.isfinite(loss):  # the last step of the epoch diverged
            raise Diverged(_gone(f"validation loss became {loss}", trainer, self._lr))
        self._validated = trainer.global_step

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        losses, self._of_epoch, rates, self._rates = self._of_epoch, [], self._rates, []
        task: Any = pl_module
        accuracy = float(task.train_accuracy())  # in all processes; the task logs it only after this
        if distributed.rank() or not losses:  # none if an epoch is resumed after its last step
            return
        found = trainer.callback_metrics if self._validated == trainer.global_step else {}
        validation = {key.removeprefix("val/"): float(v) for key, v in found.items() if key.startswith("val/")}
        training = {"loss": statistics.fmean(losses)}
        if not math.isnan(accuracy):
            training["token_accuracy" if task.kind == "sequences" else "accuracy"] = accuracy
        lr = statistics.fmean(rates)
        seconds = self.epoch_seconds[-1] if self._started is None else self._seconds_so_far()  # ended by max_steps
        cells = epoch_cells(epoch_of(trainer), training, validation, seconds, lr, _is_best(trainer))
        self._print(cells, is_shown=trainer.progress_bar_callback is not None)

    def _print(self, cells: dict[str, str], is_shown: bool) -> None:
        console = escape.console()
        on_screen, in_log = aligned(cells, console.width if console.is_terminal else None), aligned(cells)
        has_header, self._columns = self._columns == cells.keys(), cells.keys()
        for line, logged in list(zip(on_screen, in_log, strict=True))[has_header:]:
            log.debug(logged)
            if is_shown:
                console.print(line, soft_wrap=True)

    @property
    def images_per_second(self) -> float:
        return self.num_images / max(sum(self.epoch_seconds), 1e-9)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch_seconds": self.epoch_seconds,
            "num_images": self.num_images,
            "losses": list(self._fetched_losses()),
            "so_far": self._seconds_so_far(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch_seconds, self.num_images = [*map(float, state["epoch_seconds"])], int(state["num_images"])
        self._earlier = [*map(float, state["losses"])]
        self._so_far = float(state["so_far"])


def monitor_of(trainer: lightning.Trainer) -> TrainingMonitor:
    """Return the monitor of a run, which every run has."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, TrainingMonitor))


def epoch_of(trainer: lightning.Trainer) -> str:
    """Return the current epoch, counted from 1, and the number of epochs if there is one: 3/10."""
    num = trainer.max_epochs
    return f"{trainer.current_epoch + 1}/{num}" if num is not None and num > 0 else str(trainer.current_epoch + 1)


def _is_best(trainer: lightning.Trainer) -> bool:
    """Return whether the weights of the current epoch are the ones kept for their validation metric."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    products = [callback for callback in callbacks if isinstance(callback, BestProduct)]
    return any(one.metric is not None and one.best.get("epoch") == trainer.current_epoch for one in products)


def gradient_norm(trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> Tensor:
    """Return the total norm of all gradients, on the device, as the optimizer is about to see it.

    For sharded weights it is combined over the processes. With a fused optimizer, which unscales fp16 gradients on its
    own, the scale is divided out here.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    fused = getattr(trainer.optimizers[0], "_step_supports_amp_scaling", False)
    return norm / scaler.get_scale() if scaler is not None and fused else norm


def _gone(what: str, trainer: lightning.Trainer, lr: float) -> str:
    is_fp16 = trainer.precision == "16-mixed"
    was_saved = (Path(trainer.default_root_dir) / LAST).exists()
    kept = "the weights saved earlier are kept" if was_saved else "no weights were saved"
    return (
        f"the {what}, with a learning rate of {lr:.3g}; {kept}. "
        f"A lower optim.lr or trainer.gradient_clip_val=1 may help"
        f"{', or trainer.precision=bf16-mixed, which has the range of fp32' if is_fp16 else ''}"
    )
