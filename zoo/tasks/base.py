"""Base class of all tasks: parameter groups, limits on weights, training accuracy, and logging."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import lightning
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo import distributed
from zoo.errors import BadInput
from zoo.optim.schedules import Factor
from zoo.paths import LAST
from zoo.ranges import NotNegative, Positive
from zoo.tasks.losses import limit_norms
from zoo.tasks.transfer import hold_frozen_norms

log = logging.getLogger("zoo")


class Task(lightning.LightningModule):
    """Train a net; subclasses compute the loss and update `meter`.

    `optimizer` takes parameter groups; `schedule` takes the number of steps and returns the factor for each. `l1` and
    `l2` penalise weights, and `max_norm` limits the incoming weights of each unit; they apply to matrices and filter
    banks, not to biases, norms, ViT embeddings or the sparse C3 of the LeNet-5 of 1998. Logged are `train/accuracy`
    once per epoch, and all metrics of the meter as `val/` and `test/`. `head_lr` is the learning rate of the net's
    heads, if different from the optimizer's. No step synchronises with the device.
    """

    kind: ClassVar[str]  # kind of data: images or sequences
    meter: Any  # a module with update(...), compute(), which returns means and resets, and then num_samples, num_nan
    unregularised: ClassVar[Mapping[str, Any]] = {"l1": 0.0, "l2": 0.0, "max_norm": None}  # settings of a plain loss
    multilabel: ClassVar[bool] = False  # whether it needs data with several labels per image
    regression: ClassVar[bool] = False  # whether it needs data with numbers for labels
    num_outputs: int | None = None  # of the net, if not the number of classes
    temperature = 1.0  # by which logits are divided for probabilities; after training, that of the product

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        l1: NotNegative = 0.0,
        l2: NotNegative = 0.0,
        max_norm: Positive | None = None,
        head_lr: Positive | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer, self.schedule = optimizer, schedule
        self.l1, self.l2, self.max_norm, self.head_lr = l1, l2, max_norm, head_lr
        self.weights = [p for p in net.parameters() if p.requires_grad and p.ndim in (2, 4)]
        self.train_hits: Tensor
        self.train_total: Tensor
        self._weights: list[Tensor | int] = []  # of the batches in the next step
        self._ends_step = True
        for name in ("train_hits", "train_total"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64), persistent=False)
        # Each process counts its own; weights and offsets of classes and the scale of numbers are the same in all.
        counts = ["train_hits", "train_total", "meter.sums"]
        self._ddp_params_and_buffers_to_ignore = [*counts, "class_weight", "offsets", "standard.mean", "standard.std"]

    def configure_model(self) -> None:
        """Shard the weights of each part of the net across all processes, if the strategy is FSDP2."""
        if self.device_mesh is not None and not isinstance(self.net, FSDPModule):
            if self.l1 or self.l2 or self.max_norm:
                raise BadInput("task.l1, task.l2 and task.max_norm need whole weights, but fsdp2 shards them; use ddp")
            mesh = self.device_mesh["data_parallel"]
            self.net.to(memory_format=torch.contiguous_format)  # required by FSDP2
            for part in self.net.children():
                for block in part if isinstance(part, nn.Sequential) else [part]:
                    if any(p.requires_grad for p in block.parameters()):
                        fully_shard(block, mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set attributes as any module, with a fast path for one that Lightning sets some 45 times per step."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def on_train_start(self) -> None:
        hold_frozen_norms(self.net)  # not earlier, since Lightning warns about modules in eval mode
        for config in self.trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            was = scheduler.optimizer.param_groups[0]["lr"]
            now = scheduler.base_lrs[0] * scheduler.lr_lambdas[0](scheduler.last_epoch)
            if not math.isclose(was, now, rel_tol=1e-3, abs_tol=1e-12):
                num = self.trainer.estimated_stepping_batches
                log.warning("The learning rate jumps from %.3g to %.3g: the schedule now has %d steps.", was, now, num)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        hold_frozen_norms(self.net)
        return self

    def weight_of(self, batch: Any) -> Tensor | int:
        """Return the number of items in a training batch that its loss averages over: by default, its samples."""
        return len(batch[1])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._weights = []
        self._weights.append(self.weight_of(batch))
        self._ends_step = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients; with accumulation, rescale them to those of one batch with all the samples.

        Lightning divides each loss by trainer.accumulate_grad_batches, even if an epoch ends with fewer batches.
        """
        num = self.trainer.accumulate_grad_batches
        if num == 1:
            super().backward(loss, *args, **kwargs)
            return
        loader: Any = self.trainer.train_dataloader
        usual = loader.batch_size / distributed.world_size()  # keeps factors near 1, as fp16 needs
        super().backward(loss * (self._weights[-1] / usual), *args, **kwargs)
        if self._ends_step:
            total = distributed.all_reduce_sum(torch.as_tensor(sum(self._weights), device=loss.device))
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            mine = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
            torch._foreach_mul_(mine, num * usual * distributed.world_size() / total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.max_norm is not None:
            limit_norms(self.weights, self.max_norm)

    def count_hits(self, hits: Tensor, total: Tensor | int) -> None:
        """Add to the counts for `train/accuracy`."""
        self.train_hits += hits
        self.train_total += total

    def train_accuracy(self) -> Tensor:
        """Return the fraction of right answers in this epoch so far, over all processes; NaN if none was counted."""
        return distributed.all_reduce_sum(self.train_hits) / distributed.all_reduce_sum(self.train_total)

    def on_train_epoch_end(self) -> None:
        accuracy = self.train_accuracy()
        self.log("train/accuracy", accuracy, logger=False)  # Lightning would write it after saving last.ckpt,
        for logger in self.loggers:  # and a kill in between would lose it
            logger.log_metrics({"train/accuracy": float(accuracy)}, step=self.trainer.global_step - 1)
        self.train_hits.zero_()
        self.train_total.zero_()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_counts"] = [
            int(distributed.all_reduce_sum(count)) for count in (self.train_hits, self.train_total)
        ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for count, total in zip((self.train_hits, self.train_total), checkpoint["train_counts"], strict=True):
            count.fill_(total if distributed.rank() == 0 else 0)
        checkpoint["state_dict"].pop("meter.sums", None)  # saved by earlier versions; zero between epochs
        self._check_same_net(checkpoint["state_dict"])

    def _check_same_net(self, saved: Mapping[str, Any]) -> None:
        """Refuse a checkpoint whose tensors have other names or shapes than this task's."""
        ours = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in saved.items()}
        if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
            first = different[0]
            raise BadInput(
                f"{self.trainer.default_root_dir}/{LAST} is of another net than the run's: {first[:80]} is "
                f"{theirs.get(first, 'missing')} there and {ours.get(first, 'missing')} here; train again from scratch"
            )

    def measure(self, batch: Any) -> Tensor | None:
        """Measure a validation or test batch, and return the logits if they are for the classes of the data."""
        raise NotImplementedError

    def measure_all(self, batches: Iterable[Any], split: str) -> dict[str, Tensor]:
        """Measure batches of a split as validation and test do; the meter must be empty."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            for batch in batches:
                self.measure(batch)
        self.train(was_training)
        return self.measured(split)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.measure(batch)

    def measured(self, split: str) -> dict[str, Tensor]:
        """Return the meter's means, and `num_samples`, the number of samples; warn if logits were NaN."""
        metrics: dict[str, Tensor] = self.meter.compute()
        if self.meter.num_nan:
            num, every = self.meter.num_nan, self.meter.num_samples
            so = "metrics are NaN" if self.regression else "they count as wrong"
            log.warning("%s of %s %s samples have NaN logits; %s.", num, every, split, so)
        return {**metrics, "num_samples": torch.tensor(float(self.meter.num_samples))}

    def on_validation_epoch_end(self) -> None:
        for name, value in self.measured("validation").items():
            self.log(f"val/{name}", value, prog_bar=name in ("accuracy", "mae"), logger=name != "num_samples")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return self.measure(batch)

    def on_test_epoch_end(self) -> None:
        for name, value in self.measured("test").items():
            self.log(f"test/{name}", value, logger=name != "num_samples")

    def configure_optimizers(self) -> Any:
        optimizer: Any = self.optimizer(parameter_groups(self.net, self.head_lr))
        if self.trainer.strategy.root_device.type == "cpu":  # torch loads CUDA at every step to check, 0.2 ms
            optimizer._accelerator_graph_capture_health_check = lambda: None
        factor = self.schedule(int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def parameter_groups(net: nn.Module, head_lr: float | None = None) -> list[dict[str, Any]]:
    """Split trained parameters into weights, and biases and norms (at most one dimension), which never decay.

    Embeddings, if any, are a separate group with `tables`. With `head_lr`, the parameters of the net's heads
    (`net.head_names`) are in further such groups, with that learning rate.
    """
    names: Any = net.head_names if head_lr is not None else ()
    heads = [p for name in names for p in net.get_submodule(name).parameters()]
    if names and not any(p.requires_grad for p in heads):
        raise BadInput(f"task.head_lr={head_lr} is for the head, which is frozen; use only one of them")
    is_head = {id(p) for p in heads}
    is_table = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    groups: list[dict[str, Any]] = []
    for parameters, settings in (
        ([p for p in net.parameters() if id(p) not in is_head], {}),
        (heads, {"lr": head_lr}),
    ):
        trained = [p for p in parameters if p.requires_grad]
        weights = [p for p in trained if p.ndim > 1]
        groups.append({"params": [p for p in weights if id(p) not in is_table], **settings})
        groups.append({"params": [p for p in weights if id(p) in is_table], "tables": True, **settings})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, **settings})
    return [group for group in groups if group["params"]]
