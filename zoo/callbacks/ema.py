"""Exponential moving average of the weights."""

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from zoo.errors import BadInput
from zoo.ranges import Between


class WeightEMA(lightning.Callback):
    """Keep an exponential moving average of the net's weights and norm statistics, and validate with it.

    The decay grows as (1 + steps) / (10 + steps) up to `decay`, so that the random initialisation is forgotten quickly.
    The raw weights are validated as well, with the task's `meter`, which takes a second pass over the validation data;
    the results are logged as `val/raw_accuracy`, `val/raw_loss` and so on. A callback that compresses may set
    `project`, which turns the average of a tensor, by name, into values that the net may have.
    """

    def __init__(self, decay: Between = 0.999) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.project: Callable[[str, Tensor], Tensor] | None = None
        self._raw: dict[str, Tensor] = {}  # weights, while the net has their averages

    def _live(self, pl_module: lightning.LightningModule) -> dict[str, Tensor]:
        net = pl_module.net
        assert isinstance(net, torch.nn.Module)
        return {k: v.detach() for k, v in net.state_dict().items() if v.is_floating_point()}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.limit_val_batches == 0:
            raise BadInput("callbacks=ema needs validation, but trainer.limit_val_batches=0 turns it off")
        if pl_module.device_mesh is not None:
            raise BadInput("callbacks=ema needs whole weights, but trainer.strategy=fsdp2 shards them; use ddp")
        if trainer.precision == "bf16-true":
            raise BadInput(
                "callbacks=ema sums steps that are too small for trainer.precision=bf16-true; use bf16-mixed"
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        source = self.average or self._live(pl_module)
        self.average = {k: v.to(pl_module.device, copy=True) for k, v in source.items()}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return  # the optimizer has not stepped
        step = trainer.global_step
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(self.average.values()), list(self._live(pl_module).values()), step)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        live = self._live(pl_module)
        self._raw = {name: live[name].clone() for name in self.average}
        for name, average in self.average.items():
            live[name].copy_(self.project(name, average) if self.project else average)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        live = self._live(pl_module)
        for name, raw in self._raw.items():
            live[name].copy_(raw)
        self._raw = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate the raw weights, with a separate meter, before the task computes the metrics of the average."""
        task: Any = pl_module
        loader: Any = trainer.val_dataloaders
        strategy, of_average = trainer.strategy, task.meter
        task.meter = copy.deepcopy(of_average)
        task.meter.compute()  # empties it
        self.on_validation_end(trainer, pl_module)
        with isolate_rng():
            for i, batch in enumerate(islice(loader, int(trainer.num_val_batches[0]))):
                batch = strategy.batch_to_device(strategy.precision_plugin.convert_input(batch))
                strategy.validation_step(batch, i)
        self.on_validation_start(trainer, pl_module)
        metrics, task.meter = task.meter.compute(), of_average
        pl_module.log_dict({f"val/raw_{name}": value for name, value in metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"]
