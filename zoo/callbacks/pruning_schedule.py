"""Pruning during training."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from zoo.callbacks.compression import Compression, net_of, reset_best, reset_optimizer_state, step_at
from zoo.checkpoint.product_file import load_weights, read_product
from zoo.compress import pruning
from zoo.compress.pruning import Score, by_layer, prunable, sparsity_of
from zoo.errors import BadInput
from zoo.ranges import BelowOne, Between, Count, Share


class Pruning(Compression):
    """Increase sparsity from `begin` to `end`, every `every` steps, along a cubic curve (Zhu and Gupta, 2017).

    With `begin` = `end`, pruning is done in one step. `sparsity` is a fraction of all weights or, with `per_layer`, of
    each layer; a mapping sets it for each layer, by name or pattern. The scores `movement` and `taylor` are summed from
    the first step on. With `regrow`, that fraction of each layer's survivors is moved in each round, decreasing until
    `regrow_until`. With `rewind`, a file with early weights of this net, the survivors are reset to these after the
    last pruning (Frankle et al., 2020). No mask is stored: weights that are zero before a step are zero after it.
    """

    def __init__(
        self,
        sparsity: Between | Mapping[str, BelowOne] = 0.9,
        per_layer: bool = False,
        score: Score = "magnitude",
        begin: Share = 0.0,
        end: Share = 0.5,
        every: Count = 50,
        regrow: BelowOne = 0.0,
        regrow_until: Share = 0.75,
        rewind: str | None = None,
    ) -> None:
        super().__init__()
        self.sparsity, self.per_layer, self.score = sparsity, per_layer, score
        self.begin, self.end, self.every = begin, end, every
        self.regrow, self.regrow_until, self.rewind = regrow, regrow_until, rewind
        self.check_moments()
        self.weights: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}  # scores so far

    def moments(self) -> dict[str, float]:
        return {"begin": self.begin, "end": self.end, **({"regrow_until": self.regrow_until} if self.regrow else {})}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.rewind:  # check it now, since it is only read after the last pruning
            product = read_product(self.rewind)
            if "step" not in product.facts:
                raise BadInput(
                    "compress.prune.rewind: expected an early.safetensors, as written by callbacks=early_weights, "
                    f"got '{self.rewind}'"
                )
            load_weights(copy.deepcopy(net_of(pl_module)), product)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        weights: dict[str, Tensor] = dict(prunable(net_of(pl_module)))
        self.shares = by_layer(self.sparsity, weights, "compress.prune.sparsity")
        self.weights = {name: weights[name] for name in self.shares}
        self.sums = {name: total.to(pl_module.device) for name, total in self.sums.items()}

    @torch.no_grad()
    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        step = trainer.global_step
        begin, end, until = (step_at(trainer, moment) for moment in (self.begin, self.end, self.regrow_until))
        gradients = {name: w.grad for name, w in self.weights.items() if w.grad is not None}
        weights = {name: self.weights[name] for name in gradients}
        if self.score in ("movement", "taylor") and step <= end:
            of_step = {"movement": pruning.movement, "taylor": pruning.taylor}[self.score]
            for name, weight in weights.items():
                score = of_step(weight, gradients[name])
                self.sums[name] = self.sums[name] + score if name in self.sums else score
        turn = step >= begin and (step - begin) % self.every == 0
        if (turn and step < end) or step == end:
            self._prune(weights, pruning.cubic((step - begin) / max(1, end - begin) if step < end else 1.0))
        if step == end:
            reset_best(trainer)
        if self.rewind and step == end:
            self._rewind(trainer, net, self.rewind)
        spared = None
        if self.regrow and turn and step < until:
            share = self.regrow / 2 * (1 + math.cos(math.pi * (step - begin) / (until - begin)))
            spared = pruning.regrow(weights, gradients, share).values()
        self.hold(weights.values(), spared)

    def _prune(self, weights: dict[str, Tensor], progress: float) -> None:
        """Prune to `progress`, from 0 to 1, of the final sparsity."""
        if self.sums:
            scores = self.sums
        else:
            by_weight = {"magnitude": pruning.magnitude, "lamp": pruning.lamp}[self.score]
            scores = {name: by_weight(weight) for name, weight in weights.items()}
        if self.per_layer or isinstance(self.sparsity, Mapping):
            pruning.prune(weights, scores, {name: progress * self.shares[name] for name in weights})
        else:
            assert isinstance(self.sparsity, float)
            pruning.prune(weights, scores, progress * self.sparsity)

    def _rewind(self, trainer: lightning.Trainer, net: Any, file: str) -> None:
        """Load early weights wherever nothing is pruned, and skip the current step."""
        zeros = {name: weight == 0 for name, weight in self.weights.items()}
        load_weights(net, read_product(file))
        for name, weight in self.weights.items():
            weight.masked_fill_(zeros[name], 0)
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        reset_optimizer_state(trainer)

    def stage(self, trainer: lightning.Trainer) -> int:
        return 2 if trainer.global_step > step_at(trainer, self.end) else 1  # retraining, pruning

    def scalars(self) -> dict[str, float]:
        return {"compress/sparsity": sparsity_of(self.weights)}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.sums = {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"]
