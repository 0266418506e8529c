"""What callbacks that compress while training have in common."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.callbacks.ema import WeightEMA
from zoo.callbacks.product import BestProduct
from zoo.errors import BadInput


class Compression(lightning.Callback):
    """Act on gradients before each step, and have the last word on weights as a part of it.

    Moments are shares of all steps, so that another number of epochs changes no other setting.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []  # weights of the step in hand, and where they are to be zero

    def moments(self) -> dict[str, float]:
        """Give the settings that are moments, in the order in which they must come."""
        raise NotImplementedError

    def stage(self, trainer: lightning.Trainer) -> int:
        """Give the stage that a run is in as far as this callback knows.

        1 prunes, 2 retrains, 3 shares, 4 rounds as int8 does, 0 for none.
        """
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """Give what there is to see of the weights after each epoch."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """Return what a run's result is to tell."""
        return {}

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        """Act between the backward pass and the step, on gradients that are whole and not yet clipped."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Act before anyone sees what the optimizer has made of the weights."""
        for weight, zeros in self._held:
            weight.detach().masked_fill_(zeros, 0)

    def hold(self, weights: Iterable[Tensor], spared: Iterable[Tensor] | None = None) -> None:
        """Have what is zero be zero after the step, too, but for what `spared` masks."""
        weights = [weight for weight in weights if weight.grad is not None]
        zeros = [weight.detach() == 0 for weight in weights]
        if spared is not None:
            zeros = [mask & ~grown for mask, grown in zip(zeros, spared, strict=True)]
        for weight, mask in zip(weights, zeros, strict=True):
            assert weight.grad is not None
            weight.grad.masked_fill_(mask, 0)  # neither clipping nor Muon is to see these
        self._held = list(zip(weights, zeros, strict=True))

    def check_moments(self) -> None:
        moments = list(self.moments().values())
        if moments != sorted(moments):
            told = ", ".join(f"{name}={moment}" for name, moment in self.moments().items())
            raise ValueError(f"{told}: expected moments in this order, none before the one it follows")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if pl_module.device_mesh is not None:
            raise BadInput("compress wants whole weights, and trainer.strategy=fsdp2 shares them out; take ddp")
        if any(isinstance(callback, WeightEMA) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise BadInput("callbacks=ema averages away what compress makes of the weights; give one of the two")

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
    """Return what a run's result is to tell of its compression while it trained."""
    callbacks = [c for c in trainer.callbacks if isinstance(c, Compression)]  # type: ignore[attr-defined]
    return {name: value for callback in callbacks for name, value in callback.summary().items()}


def net_of(task: lightning.LightningModule) -> nn.Module:
    """Return a task's net."""
    assert isinstance(task.net, nn.Module)
    return task.net


def step_at(trainer: lightning.Trainer, moment: float) -> int:
    """Return the optimizer's step, from 0, that a share of all steps is; for 1 the last."""
    total = int(trainer.estimated_stepping_batches)
    return min(round(moment * total), total - 1)


def start_anew(trainer: lightning.Trainer) -> None:
    """Have optimizers forget their steps, which were made with other weights; learning rates go on."""
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def keep_from_now_on(trainer: lightning.Trainer) -> None:
    """Have the run's product be the best of the epochs that end from now on: those before were compressed less."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BestProduct):
            callback.best = {}


@torch.no_grad()
def put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Put values into weights of the same names."""
    for name, weight in weights.items():
        weight.copy_(values[name])
