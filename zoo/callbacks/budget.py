"""Compress as far as an accuracy budget allows."""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

import lightning
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from zoo.callbacks.compression import Compression, copy_values, net_of, reset_best, reset_optimizer_state
from zoo.compress.pruning import prunable, sparsity_of
from zoo.compress.sensitivity import BITS, SPARSITIES, Curve, prune_one, sensitivity_scan, share_one, strongest_level
from zoo.compress.sharing import Codebook
from zoo.errors import BadInput
from zoo.measure.accuracy import accuracy_in, points_lost
from zoo.ranges import Range, Share

SHORTER = 0.1  # factor on the learning rate, each time that training leaves the budget
GROWTH = 1.5  # factor on the tolerance per round: about ten rounds from half a point to nothing left

Points = Annotated[float, Range(0, 100, above=True, below=True)]


class AccuracyBudget(Compression):
    """Find the smallest net whose validation accuracy is at most `max_drop` points below that of the original.

    First, the accuracy lost by pruning or sharing each layer alone is measured on validation data. Then, in each epoch,
    all layers are pruned up to the point where each alone would cost a tolerance, which grows after each epoch that
    ends within the budget; after other epochs the net is only retrained. From `share_begin` on, the sparsest weights
    within the budget share the fewest values that keep them there, and the values are trained; an epoch that leaves the
    budget is undone, and the learning rate is reduced. Test data are not used.
    """

    def __init__(self, max_drop: Points = 0.5, share_begin: Share = 0.6) -> None:
        super().__init__()
        self.max_drop, self.share_begin = max_drop, share_begin
        self.weights: dict[str, Tensor] = {}
        self.codebooks: dict[str, Codebook] = {}
        self.reference, self.last = 0.0, 0.0  # accuracies
        self.tolerance = 0.0  # points
        self.curves: dict[str, dict[str, Curve]] = {}
        self.accepted: dict[str, Tensor] = {}
        self.bits: dict[str, int] = {}

    def moments(self) -> dict[str, float]:
        return {"share_begin": self.share_begin}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if trainer.limit_val_batches == 0:
            raise BadInput("trainer.limit_val_batches=0: compress=auto needs validation to measure accuracy")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.weights = {name: p.detach() for name, p in prunable(net_of(pl_module)).items()}
        self.accepted = {name: value.to(pl_module.device) for name, value in self.accepted.items()}
        if self.bits:
            self.codebooks = {name: Codebook.of(weight) for name, weight in self.weights.items()}
        if not self.curves:
            self.reference = self.last = accuracy_of(trainer, pl_module)
            for what, levels, change in (("sparsity", SPARSITIES, prune_one), ("bits", BITS, share_one)):
                self.curves[what] = sensitivity_scan(
                    self.weights, lambda: accuracy_of(trainer, pl_module), levels, change
                )

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert trainer.max_epochs is not None
        share_epoch = min(round(self.share_begin * trainer.max_epochs), trainer.max_epochs - 1)
        state = net_of(pl_module).state_dict()
        if self._is_within(self.last):
            self._accept(state)
        if trainer.current_epoch > share_epoch:
            if not self._is_within(self.last):
                self._take_back(trainer, state)
            return
        if trainer.current_epoch == share_epoch > 0:
            copy_values(state, self.accepted)
        elif self._is_within(self.last):
            self.tolerance = GROWTH * self.tolerance or self.max_drop
            for name, sparsity in self._farthest("sparsity", self.tolerance, 0.0).items():
                prune_one(self.weights[name], sparsity)
        if trainer.current_epoch == share_epoch:
            self._share(trainer, pl_module)

    def _accept(self, state: Mapping[str, Tensor]) -> None:
        self.accepted = {name: tensor.clone() for name, tensor in state.items()}

    def _take_back(self, trainer: lightning.Trainer, state: Mapping[str, Tensor]) -> None:
        """Restore the last state within the budget, with shorter steps, since a shared value moves many weights."""
        copy_values(state, self.accepted)
        self.codebooks = {name: Codebook.of(weight) for name, weight in self.weights.items()}
        reset_optimizer_state(trainer)
        for config in trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [SHORTER * lr for lr in config.scheduler.base_lrs]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= SHORTER

    def _farthest(self, what: str, tolerance: float, mildest: float) -> dict[str, float]:
        least = self.reference - tolerance / 100
        return {name: strongest_level(curve, least, mildest) for name, curve in self.curves[what].items()}

    def _is_within(self, accuracy: float) -> bool:
        return points_lost(self.reference, accuracy) <= self.max_drop

    def _share(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Share weights with the fewest bits that keep the net within the budget, or else the most bits."""
        before = {name: weight.clone() for name, weight in self.weights.items()}
        tolerance = 4 * self.max_drop
        while True:
            self.bits = {name: int(b) for name, b in self._farthest("bits", tolerance, 8).items()}
            for name, bits in self.bits.items():
                share_one(self.weights[name], bits)
            if self._is_within(accuracy_of(trainer, task)) or tolerance < self.max_drop / 10:
                break
            copy_values(self.weights, before)
            tolerance /= GROWTH
        self.codebooks = {name: Codebook.of(weight) for name, weight in self.weights.items()}
        self._accept(net_of(task).state_dict())
        self._held = []  # zeros of the last trained state, not of the accepted one
        reset_optimizer_state(trainer)
        reset_best(trainer)

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        for name, codebook in self.codebooks.items():
            gradient = net.get_parameter(name).grad
            if gradient is not None:
                codebook.tie_gradient(gradient)
        if not self.codebooks:
            self.hold(net.get_parameter(name) for name in self.weights)

    def after_step(self) -> None:
        super().after_step()
        for name, codebook in self.codebooks.items():
            codebook.tie(self.weights[name])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.last = accuracy_in(trainer.callback_metrics, "val/")

    def stage(self, trainer: lightning.Trainer) -> int:
        return 3 if self.codebooks else 1

    def scalars(self) -> dict[str, float]:
        return {"compress/sparsity": sparsity_of(self.weights), "compress/tolerance": self.tolerance}

    def summary(self) -> dict[str, Any]:
        return {"reference_accuracy": self.reference, "bits": self.bits, "sensitivity": self.curves}

    def state_dict(self) -> dict[str, Any]:
        names = ("reference", "last", "tolerance", "curves", "accepted", "bits")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def accuracy_of(trainer: lightning.Trainer, task: Any) -> float:
    """Measure the current accuracy on the validation batches; the task's meter is empty after each validation."""
    strategy = trainer.strategy
    with isolate_rng(), strategy.precision_plugin.val_step_context():
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        batches = islice(loader, int(trainer.num_val_batches[0]))
        inputs = (strategy.batch_to_device(strategy.precision_plugin.convert_input(batch)) for batch in batches)
        found = task.measure_all(inputs, "validation")
    if not {"accuracy", "r2"} & found.keys():
        raise BadInput("max_drop: expected a task that measures accuracy, and this one does not")
    return accuracy_in(found)
