"""Base class of callbacks that compress during training."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.callbacks.ema import WeightEMA
from zoo.callbacks.product import BestProduct
from zoo.errors import BadInput


class Compression(lightning.Callback):
    """Change gradients before each optimizer step, and weights right after it, as part of the step.

    Moments are fractions of all steps, so that they do not depend on the number of epochs.
    """

    averages: ClassVar[bool] = False  # whether callbacks=ema may average the weights

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []  # weights in the current step, and masks of their zeros

    def moments(self) -> dict[str, float]:
        """Return the settings that are moments, in their required order."""
        raise NotImplementedError

    def stage(self, trainer: lightning.Trainer) -> int:
        """Return the current stage of this callback.

        1: pruning, 2: retraining, 3: weight sharing or integers, 4: int8 rounding, 0: none.
        """
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """Return the scalars to log after each epoch."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """Return the entries for the result of a run."""
        return {}

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        """Called between the backward pass and the step; gradients are complete and not yet clipped."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called right after the optimizer has changed the weights, before anything else reads them."""
        for weight, zeros in self._held:
            weight.detach().masked_fill_(zeros, 0)

    def hold(self, weights: Iterable[Tensor], spared: Iterable[Tensor] | None = None) -> None:
        """Keep zero weights at zero in this step, except where the masks `spared` are set."""
        weights = [weight for weight in weights if weight.grad is not None]
        zeros = [weight.detach() == 0 for weight in weights]
        if spared is not None:
            zeros = [mask & ~grown for mask, grown in zip(zeros, spared, strict=True)]
        for weight, mask in zip(weights, zeros, strict=True):
            assert weight.grad is not None
            weight.grad.masked_fill_(mask, 0)  # clipping and Muon must not see these
        self._held = list(zip(weights, zeros, strict=True))

    def check_moments(self) -> None:
        moments = list(self.moments().values())
        if moments != sorted(moments):
            text = ", ".join(f"{name}={moment}" for name, moment in self.moments().items())
            raise ValueError(f"{text}: expected moments in increasing order")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if pl_module.device_mesh is not None:
            raise BadInput("compress needs whole weights, but trainer.strategy=fsdp2 shards them; use ddp")
        averages = any(isinstance(callback, WeightEMA) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if averages and not self.averages:
            raise BadInput("callbacks=ema would undo compress by averaging the weights; use only one of them")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: self.after_step())

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        self.before_step(trainer, pl_module.net)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        all_of_us = [c for c in trainer.callbacks if isinstance(c, Compression)]  # type: ignore[attr-defined]
        if self is all_of_us[0]:
            values: dict[str, float] = {"compress/stage": max(one.stage(trainer) for one in all_of_us)}
            for one in all_of_us:
                values |= one.scalars()
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)


def summaries(trainer: lightning.Trainer) -> dict[str, Any]:
    """Return the entries on compression during training for the result of a run."""
    callbacks = [c for c in trainer.callbacks if isinstance(c, Compression)]  # type: ignore[attr-defined]
    return {name: value for callback in callbacks for name, value in callback.summary().items()}


def net_of(task: lightning.LightningModule) -> nn.Module:
    """Return a task's net."""
    assert isinstance(task.net, nn.Module)
    return task.net


def step_at(trainer: lightning.Trainer, moment: float) -> int:
    """Return the optimizer step, from 0, at a fraction of all steps; 1 is the last step."""
    total = int(trainer.estimated_stepping_batches)
    return min(round(moment * total), total - 1)


def reset_optimizer_state(trainer: lightning.Trainer) -> None:
    """Clear the optimizer states, which belong to other weights; learning rates continue."""
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def reset_best(trainer: lightning.Trainer) -> None:
    """Choose the run's product among epochs that end from now on, since earlier ones were compressed less."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BestProduct):
            callback.best = {}


@torch.no_grad()
def copy_values(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the weights of the same names."""
    for name, weight in weights.items():
        weight.copy_(values[name])
