"""Schedule of quantization-aware training."""

from typing import Any

import lightning

from zoo.callbacks.compression import Compression, net_of, step_at
from zoo.errors import BadInput
from zoo.quantize.qat_int8 import FakeQuantizedNet
from zoo.ranges import Share


class QuantizationSchedule(Compression):
    """Freeze batch norm statistics and activation ranges after a fraction of all steps.

    The constants of the int8 net are then fixed, and the weights adapt to them (Krishnamoorthi, 2018, 3.2).
    """

    def __init__(self, freeze_norms: Share = 0.5, freeze_ranges: Share = 0.75) -> None:
        super().__init__()
        self.freeze_norms, self.freeze_ranges = freeze_norms, freeze_ranges
        self.check_moments()
        self.net: FakeQuantizedNet

    def moments(self) -> dict[str, float]:
        return {"freeze_norms": self.freeze_norms, "freeze_ranges": self.freeze_ranges}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        net = net_of(pl_module)
        if not isinstance(net, FakeQuantizedNet):
            raise BadInput("callbacks.quantize is only for a net of compress=qat_int8")
        if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
            raise BadInput(
                f"compress=qat_int8 cannot round on top of trainer.precision={trainer.precision}; use bf16-mixed"
            )
        self.net = net

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._hold(trainer, trainer.global_step)

    def before_step(self, trainer: lightning.Trainer, net: Any) -> None:
        self._hold(trainer, trainer.global_step + 1)  # whose forward pass is still to come

    def _hold(self, trainer: lightning.Trainer, step: int) -> None:
        self.net.norms_move = step < step_at(trainer, self.freeze_norms)
        self.net.observes = step < step_at(trainer, self.freeze_ranges)

    def stage(self, trainer: lightning.Trainer) -> int:
        return 4

    def scalars(self) -> dict[str, float]:
        return {"compress/norms_move": float(self.net.norms_move), "compress/ranges_move": float(self.net.observes)}
