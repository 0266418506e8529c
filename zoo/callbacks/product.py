"""Save the best weights as the product of a run."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning

from zoo import distributed
from zoo.checkpoint.product_file import save_product
from zoo.errors import counted
from zoo.paths import PRODUCT
from zoo.ranges import Index

log = logging.getLogger("zoo")
Rule = Callable[[lightning.Trainer, lightning.LightningModule, Mapping[str, Any], float], bool]


class BestProduct(lightning.Callback):
    """Write model.safetensors into the run folder after each validation that improves `metric`.

    If epochs are equal in `metric`, as is common with few images, the one with the lowest validation loss is kept.
    This callback must come before any that swaps the weights for validation only, so that the validated weights are
    saved. With `metric` null, and in a run without validation, the last weights are kept. `facts` is stored in the file
    together with the weights and this metric. A callback that compresses may set `rule`, which then decides: it
    receives the facts and a score, which is the metric with its sign, or else the epoch; larger is better.
    """

    def __init__(self, metric: str | None = "val/accuracy", mode: Literal["max", "min"] = "max") -> None:
        self.metric, self.sign = metric, {"max": 1, "min": -1}[mode]
        self.facts: Mapping[str, Any] = {}
        self.best: dict[str, Any] = {}  # epoch, and all validation metrics there
        self.rule: Rule | None = None
        self._num_validated = -1  # steps at the last validation

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._num_validated = trainer.global_step
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        best = {"epoch": trainer.current_epoch, "metrics": metrics}
        if self.rule is not None:
            score = float(trainer.current_epoch if self.metric is None else self.sign * metrics[self.metric])
            keeps = self.rule(trainer, pl_module, self._facts(best), -math.inf if math.isnan(score) else score)
        else:
            keeps = self.metric is None or self._beats(metrics)
        if keeps:
            self._write(trainer, pl_module, best)

    def _beats(self, metrics: Mapping[str, float]) -> bool:
        assert self.metric is not None
        if not self.best:
            return not math.isnan(metrics[self.metric])
        gain = self.sign * (metrics[self.metric] - self.best["metrics"][self.metric])
        return gain > 0 or (gain == 0 and metrics["val/loss"] < self.best["metrics"]["val/loss"])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        is_validated = self._num_validated in (-1, trainer.global_step)
        if not self.best or (self.metric is None and self.rule is None and not is_validated):
            self._write(trainer, pl_module, {"epoch": trainer.current_epoch - 1, "metrics": {}})
        elif not is_validated:
            left = trainer.global_step - self._num_validated
            log.warning("The last %s were not validated, and are not in the product.", counted(left, "step"))

    def _write(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, best: dict[str, Any]) -> None:
        write_weights(trainer, PRODUCT, self._facts(best))
        self.best = best

    def _facts(self, best: Mapping[str, Any]) -> dict[str, Any]:
        metrics = {name: value if math.isfinite(value) else None for name, value in best["metrics"].items()}
        return {**self.facts, "best": {**best, "metrics": metrics}}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = best = state["best"]
        if best:
            metrics = {str(name): float(value) for name, value in best["metrics"].items()}
            self.best = {"epoch": int(best["epoch"]), "metrics": metrics}


class EarlyWeights(lightning.Callback):
    """Write the weights after `step` steps into early.safetensors, for rewinding of lottery tickets."""

    def __init__(self, step: Index = 500) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            (facts,) = (c.facts for c in trainer.callbacks if isinstance(c, BestProduct))  # type: ignore[attr-defined]
            write_weights(trainer, "early.safetensors", {**facts, "step": self.step})


def write_weights(trainer: lightning.Trainer, file: str, facts: Mapping[str, Any]) -> None:
    """Write the net's current weights into the run folder."""
    state = trainer.strategy.lightning_module_state_dict()  # in every process, since each may hold a shard
    if distributed.rank() == 0:
        weights = {name.removeprefix("net."): w for name, w in state.items() if name.startswith("net.")}
        save_product(Path(trainer.default_root_dir) / file, weights, facts)
