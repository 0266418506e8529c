"""Training for the size of the packed file."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from zoo.callbacks.budget import Points, accuracy_of
from zoo.callbacks.compression import Compression, net_of, step_at
from zoo.callbacks.ema import WeightEMA
from zoo.callbacks.product import BestProduct
from zoo.compress.price_control import PriceControl
from zoo.compress.pruning import prunable
from zoo.compress.rate import IntegerWeights
from zoo.errors import BadInput
from zoo.measure.accuracy import accuracy_in, points_lost
from zoo.packed.packed_file import pack
from zoo.ranges import Count, NotNegative, Positive, Share

MARGIN = 0.01  # of `bytes`, to be left for what the packed file takes beyond the bits that are counted
log = logging.getLogger("zoo")
Facts = Mapping[str, Any]
AsPacked = Callable[[nn.Module, Mapping[str, Tensor], Facts], tuple[Mapping[str, Tensor], Facts]]


class RateTraining(Compression):
    """Train weights as integers times a step per tensor, with the bits that the packed file takes in the loss.

    From `begin` on, weights are rounded. The price of a bit rises until `end`, and then stays, at `weight`, in loss per
    bit per weight. With `bytes` it is steered so that the file has at most that size, or else with `max_drop` so that
    validation accuracy is at most so many points below that of the original. Each validation packs the net; the run's
    product is the most accurate net of at most `bytes`, without `bytes` the smallest within `max_drop`, and otherwise
    the nearest to them. Bits are counted every `every` steps. The steps of tensors begin at `step` standard deviations;
    `step_lr` is the learning rate of their logarithms.
    """

    averages = True  # an average of the weights is rounded before it is validated and stored

    def __init__(
        self,
        weight: NotNegative = 0.3,
        bytes: Count | None = None,
        max_drop: Points | None = None,
        begin: Share = 0.05,
        end: Share = 0.6,
        every: Count = 20,
        step: Positive = 1.0,
        step_lr: Positive = 1e-3,
    ) -> None:
        super().__init__()
        self.weight, self.bytes, self.max_drop = weight, bytes, max_drop
        self.begin, self.end, self.every, self.step, self.step_lr = begin, end, every, step, step_lr
        self.check_moments()
        self.as_packed: AsPacked = lambda net, weights, facts: (weights, facts)
        self.original: Callable[[], nn.Module] | None = None  # builds the net before passes changed it
        self.keys = {"bytes": "compress.rate.bytes", "max_drop": "compress.rate.max_drop"}  # for messages
        self.integers: IntegerWeights | None = None
        self.price, self.bits = 0.0, 0.0
        self.reference = 0.0  # accuracy, with max_drop
        self.control = PriceControl(1)
        self.file = {"bytes": 0, "others": 0, "bits_per_byte": 8.0}  # as last packed; others: of all but integers
        self.best: dict[str, Any] = {}  # the rank of the product, its bytes and their estimate
        self._facts: Facts = {}
        self._state: dict[str, Any] = {}  # of a resumed run

    def moments(self) -> dict[str, float]:
        return {"begin": self.begin, "end": self.end}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if getattr(pl_module, "max_norm", None) is not None:
            raise BadInput("task.max_norm rescales weights after each step, but compress.rate keeps them as integers")
        if trainer.precision in ("16-mixed", "bf16-true"):
            why = {"16-mixed": "skips steps", "bf16-true": "loses steps that are too small"}[trainer.precision]
            raise BadInput(f"trainer.precision={trainer.precision} {why}, which compress.rate needs; use bf16-mixed")
        if trainer.limit_val_batches == 0:
            raise BadInput("trainer.limit_val_batches=0: compress.rate needs validation to measure its file")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BestProduct):
                callback.rule, self._facts = self.is_better, callback.facts
            elif isinstance(callback, WeightEMA):
                callback.project = self._project
        if self.bytes is not None and self.bytes < (least := len(pack({}, self._facts)[0])):
            what = f"at least {least}, the bytes of this file without weights"
            raise BadInput(f"{self.keys['bytes']}: expected {what}, got {self.bytes}")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        num_steps = step_at(trainer, self.end) - step_at(trainer, self.begin)
        by_epoch = self.bytes is None and self.max_drop is not None
        num_changes = int(trainer.max_epochs or 1) if by_epoch else num_steps // self.every
        self.control = PriceControl(num_changes, *self._state.get("control", ()))
        if integers := self._state.get("integers"):
            self.integers = IntegerWeights(prunable(net_of(pl_module)), self.step, integers)
        elif self.max_drop is not None and not self.reference:
            self.reference = self._accuracy_before(trainer, pl_module)

    def _accuracy_before(self, trainer: lightning.Trainer, task: Any) -> float:
        """Measure the validation accuracy of the net that is to be compressed."""
        if self.original is None:
            return accuracy_of(trainer, task)
        with isolate_rng():
            original = self.original()
        kept, task.net = task.net, original.to(task.device)
        try:
            return accuracy_of(trainer, task)
        finally:
            task.net = kept

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step, begin, end = trainer.global_step, step_at(trainer, self.begin), step_at(trainer, self.end)
        last = int(trainer.estimated_stepping_batches) - 1
        if batch_idx % trainer.accumulate_grad_batches or step < begin:
            return
        is_first = self.integers is None
        if self.integers is None:
            self.integers = IntegerWeights(prunable(net_of(pl_module)), self.step)
        elif (step - begin) % self.every and step != last:
            return
        self.bits = float(self.integers.count_bits())
        if is_first:
            self._pack(pl_module, self._facts)
        if self.bytes is not None:
            target = max(1.0, (1 - MARGIN) * self.bytes - self.file["others"]) * self.file["bits_per_byte"]
            if step < end:
                self.price = self.control.towards_bits(self.bits, target)
            else:
                self.price = self.control.after_error(self.integers.scale_nonzeros(target / max(1.0, self.bits)))
                self.bits = float(self.integers.count_bits())
        elif self.max_drop is not None:
            self.price = self.control.price
        else:
            self.price = self.weight * min(1.0, (step - begin) / max(1, end - begin))

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        if self.integers is None:
            return
        gradients = {}
        for name in self.integers.weights:
            parameter = net.get_parameter(name)
            gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        lr = self.step_lr * scheduler.get_last_lr()[0] / scheduler.base_lrs[0]
        self.integers.before_step(gradients, self.price / self.integers.num_weights, lr)

    def after_step(self) -> None:
        if self.integers is not None:
            self.integers.after_step()

    def _project(self, name: str, average: Tensor) -> Tensor:
        if self.integers is None or name not in self.integers.weights:
            return average
        return self.integers.rounded(name, average)

    def _pack(self, task: lightning.LightningModule, facts: Facts) -> None:
        """Pack the net as it is, to learn the bytes of its file, and the bits that are counted for each."""
        assert self.integers is not None
        net = net_of(task)
        content, report = pack(*self.as_packed(net, net.state_dict(), facts))
        of_integers = max(1, sum(row.coded for row in report.rows if row.name in self.integers.weights))
        self.file = {"bytes": len(content), "others": len(content) - of_integers}
        self.file["bits_per_byte"] = self.bits / of_integers

    def is_better(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, facts: Facts, score: float
    ) -> bool:
        """Return whether the net just validated, with this score, should replace the run's product."""
        if self.integers is None:
            found: dict[str, Any] = {"rank": [-1.0, 0.0, score, 0.0], "met": False}
        else:
            estimate = self.file["others"] + self.bits / self.file["bits_per_byte"]
            self._pack(task, facts)
            found = {"bytes": self.file["bytes"], "estimated_bytes": round(estimate)}
            found |= self._ranked(trainer, score)
        if self.best and found["rank"] <= self.best["rank"]:
            return False
        self.best = found
        return True

    def _ranked(self, trainer: lightning.Trainer, score: float) -> dict[str, Any]:
        """Return whether the targets are met, and the rank: nets before `end` come last, then those beyond a target.

        Of nets beyond `bytes` the smallest comes first, of others beyond `max_drop` the most accurate, and of those
        within only `max_drop` the smallest; of all others that with the best score.
        """
        smallness, lost = -float(self.file["bytes"]), dict[str, float]()
        fits, accurate = self.bytes is None or self.file["bytes"] <= self.bytes, True
        order = [score, smallness]
        if self.max_drop is not None:
            accuracy = accuracy_in(trainer.callback_metrics, "val/")
            drop = lost["points_lost"] = points_lost(self.reference, accuracy)
            accurate = drop <= self.max_drop
            if self.bytes is None:
                self.control.towards_drop(drop, self.max_drop)
                order = [smallness, score]
            if not accurate:
                order = [accuracy, smallness]
        if not fits:
            order = [smallness, score]
        is_late, met = trainer.global_step >= step_at(trainer, self.end), fits and accurate
        return {"rank": [float(is_late), (fits + met) / 2, *order], "met": met, **lost}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if (self.bytes is None and self.max_drop is None) or self.best.get("met"):
            return
        of_bytes, of_drop = f"{self.keys['bytes']}={self.bytes}", f"{self.keys['max_drop']}={self.max_drop}"
        found, lost = self.best.get("bytes", 0), self.best.get("points_lost", 0.0)
        if self.bytes is not None and found > self.bytes:
            what = f"{of_bytes} was not reached: the nearest file has {found} bytes, {found - self.bytes} more"
        else:
            within = "" if self.bytes is None else f" with {of_bytes}"
            what = f"{of_drop} was not kept{within}: the nearest file loses {lost:.2f} points, and has {found} bytes"
        log.warning("%s.", what)

    def stage(self, trainer: lightning.Trainer) -> int:
        return 0 if self.integers is None else 3

    def scalars(self) -> dict[str, float]:
        if self.integers is None:
            return {}
        size = {"compress/bytes": float(self.file["bytes"]), "compress/price": self.price}
        return {"compress/sparsity": self.integers.sparsity(), **size}

    def summary(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.best.items() if name != "rank"}
        before = {} if self.max_drop is None else {"reference_accuracy": self.reference}
        return {"rate": {**kept, **before, "price": self.price}}

    def state_dict(self) -> dict[str, Any]:
        names = ("price", "bits", "reference", "file", "best")
        integers = self.integers.state() if self.integers else {}
        return {"integers": integers, "control": list(self.control.state)} | {n: getattr(self, n) for n in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = {"integers": state["integers"], "control": (tuple(state["control"]),)}
        for name in ("price", "bits", "reference", "file", "best"):
            setattr(self, name, state[name])
