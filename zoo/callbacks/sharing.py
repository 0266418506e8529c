"""Share weights while training."""

import math
from collections.abc import Mapping
from typing import Any

import lightning
from torch import Tensor

from zoo.callbacks.compression import Compression, keep_from_now_on, net_of, put, start_anew, step_at
from zoo.callbacks.pruning import Pruning
from zoo.compress.pruning import by_layer, prunable
from zoo.compress.sharing import MOST_BITS, Codebook, Init, Rounding, bits_by_budget
from zoo.errors import BadInput


class WeightSharing(Compression):
    """From the moment `begin` on, let each layer's survivors share 2^bits values, and train the values.

    `bits` is of all layers, or a mapping of layer names, which may be patterns, to a number each; or else `mean_bits`
    is what a survivor may take on average, shared out so that weights change least. `rate` is the price of a bit once
    coded, in variances of the layer's survivors: 0.005 leaves fewer bits, and the error nearly as it was. A value's
    gradient is the sum of its members', and the optimizer begins anew, so that members move alike (Han et al., 2015,
    section 3). No codebook is kept: what is equal before a step is equal after it. `before` is what was validated last
    before that moment.

    From `rehearse` on until then, the net computes with shared values, which follow their members `every` so many
    steps, while each weight goes on by itself, with the gradient that its value gets (the straight-through estimator,
    Bengio et al., 2013). So it may still go over to another value, which members of a cluster cannot.
    """

    def __init__(
        self,
        bits: int | Mapping[str, int] = 5,
        mean_bits: float | None = None,
        init: Init = "linear",
        rate: float = 0.0,
        begin: float = 0.75,
        rehearse: float | None = None,
        every: int = 50,
    ) -> None:
        super().__init__()
        given = [*bits.values()] if isinstance(bits, Mapping) else [bits]
        if not all(type(one) is int and 1 <= one <= MOST_BITS for one in given):
            raise ValueError(f"bits={bits}: a codebook has 1 to {MOST_BITS} bits")
        if mean_bits is not None and not 1 <= mean_bits <= MOST_BITS:
            raise ValueError(
                f"mean_bits={mean_bits} must lie between 1 and {MOST_BITS}, or be null for `bits` of each layer"
            )
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate={rate} is the price of a bit, in variances: 0 and more, such as 0.005")
        if every < 1:
            raise ValueError(f"every={every} steps must be at least 1")
        self.bits, self.mean_bits, self.init, self.rate, self.begin = bits, mean_bits, init, rate, begin
        self.rehearse, self.every = rehearse, every
        self.check_moments()
        self.weights: dict[str, Tensor] = {}
        self.codebooks: dict[str, Codebook] = {}
        self.roundings: dict[str, Rounding] = {}  # while it rehearses
        self.free: dict[str, Tensor] = {}  # weights as they were, while the net computes with rounded ones
        self.before: dict[str, float] = {}
        self.found: dict[str, tuple[Tensor, Tensor]] = {}  # means and cuts of a run that goes on

    def moments(self) -> dict[str, float]:
        return {**({} if self.rehearse is None else {"rehearse": self.rehearse}), "begin": self.begin}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if getattr(pl_module, "max_norm", None) is not None:
            raise BadInput(
                "task.max_norm shortens the weights of each unit, and compress.share wants shared ones equal"
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Pruning) and callback.regrow and self.rehearse is not None:
                raise BadInput(
                    "compress.share.rehearse wants survivors that stay where they are; compress.prune.regrow=0"
                )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.weights = dict(prunable(net_of(pl_module)))
        self.bits_of = by_layer(self.bits, self.weights, "compress.share.bits")
        if trainer.global_step > step_at(trainer, self.begin):
            self._read_codebooks()
        else:
            for name, found in self.found.items():
                positions = self.weights[name].flatten().nonzero().flatten()
                self.roundings[name] = Rounding(positions, *(part.to(positions.device) for part in found))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step, begin = trainer.global_step, step_at(trainer, self.begin)
        if step == begin and not self.codebooks:
            put(self.weights, {name: rounding.rounded(self.weights[name]) for name, rounding in self._find().items()})
            self._read_codebooks()
            start_anew(trainer)
            keep_from_now_on(trainer)
        elif self.rehearse is not None and step_at(trainer, self.rehearse) <= step < begin:
            if (step - step_at(trainer, self.rehearse)) % self.every == 0 or not self.roundings:
                self.roundings = self._find()
            self.free = {name: self.weights[name].detach().clone() for name in self.roundings}
            put(self.weights, {name: rounding.rounded(self.free[name]) for name, rounding in self.roundings.items()})

    def _find(self) -> dict[str, Rounding]:
        if self.roundings:
            return {name: rounding.again(self.weights[name], self.rate) for name, rounding in self.roundings.items()}
        if self.mean_bits is not None:
            self.bits_of = bits_by_budget(self.weights, self.mean_bits)
        return {
            name: Rounding.of(self.weights[name], bits, self.init, self.rate) for name, bits in self.bits_of.items()
        }

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        put(self.weights, self.free)
        self.free = {}

    def _read_codebooks(self) -> None:
        self.codebooks = {name: Codebook.of(self.weights[name]) for name in self.bits_of}

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        for name, codebook in self.codebooks.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                codebook.tie_gradient(gradient)

    def after_step(self) -> None:
        for name, codebook in self.codebooks.items():
            codebook.tie(self.weights[name])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.codebooks:
            self.before = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}

    def stage(self, trainer: lightning.Trainer) -> int:
        return 3 if self.codebooks else 0

    def scalars(self) -> dict[str, float]:
        return {"compress/values": sum(len(codebook.values) for codebook in self.codebooks.values())}

    def summary(self) -> dict[str, Any]:
        return {"validation_before_sharing": {k.removeprefix("val/"): v for k, v in self.before.items()}}

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "found": {name: (r.means, r.cuts) for name, r in self.roundings.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before, self.found = state["before"], state.get("found", {})
