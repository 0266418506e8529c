"""Weight sharing during training."""

from collections.abc import Mapping
from typing import Annotated, Any

import lightning
from torch import Tensor

from zoo.callbacks.compression import Compression, net_of, reset_best, reset_optimizer_state, step_at
from zoo.compress.pruning import by_layer, prunable
from zoo.compress.sharing import MOST_BITS, Codebook, Init, bits_by_budget, share
from zoo.errors import BadInput
from zoo.ranges import NotNegative, Range, Share

Bits = Annotated[int, Range(1, MOST_BITS)]


class WeightSharing(Compression):
    """From `begin` on, let the surviving weights of each layer share 2^bits values, and train these values.

    `bits` is a number for all layers, or a mapping from layer names or patterns to numbers; alternatively, `mean_bits`
    is the average number of bits per survivor, distributed so that weights change least. `rate` is the price of a coded
    bit, in variances of the layer's survivors: 0.005 saves bits and hardly increases the error. The gradient of a value
    is the sum over its members, and the optimizer state is reset, so that members move together (Han et al., 2015,
    section 3). No codebook is stored: weights that are equal before a step are equal after it. `before` has the last
    validation metrics before sharing.
    """

    def __init__(
        self,
        bits: Bits | Mapping[str, Bits] = 5,
        mean_bits: Annotated[float, Range(1, MOST_BITS)] | None = None,
        init: Init = "linear",
        rate: NotNegative = 0.0,
        begin: Share = 0.75,
    ) -> None:
        super().__init__()
        self.bits, self.mean_bits, self.init, self.rate, self.begin = bits, mean_bits, init, rate, begin
        self.weights: dict[str, Tensor] = {}
        self.codebooks: dict[str, Codebook] = {}
        self.before: dict[str, float] = {}

    def moments(self) -> dict[str, float]:
        return {"begin": self.begin}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if getattr(pl_module, "max_norm", None) is not None:
            raise BadInput(
                "task.max_norm rescales the weights of each unit, but compress.share needs shared weights to stay equal"
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.weights = dict(prunable(net_of(pl_module)))
        self.bits_of = by_layer(self.bits, self.weights, "compress.share.bits")
        if trainer.global_step > step_at(trainer, self.begin):
            self._read_codebooks()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.codebooks or trainer.global_step != step_at(trainer, self.begin):
            return
        if self.mean_bits is not None:
            self.bits_of = bits_by_budget(self.weights, self.mean_bits)
        for name, bits in self.bits_of.items():
            share(self.weights[name], bits, self.init, self.rate)
        self._read_codebooks()
        reset_optimizer_state(trainer)
        reset_best(trainer)

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
        return {"before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state["before"]
