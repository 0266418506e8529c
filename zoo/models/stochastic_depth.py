"""Stochastic depth: in training, drop residual branches at random, deeper ones more often.

Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016, section 3. Departures: branches are
dropped per image, where the paper drops a block for a whole batch; and kept branches are scaled up in training, where
the paper scales all of them down in testing, so that it does nothing in eval mode.
"""

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Set each image's branch (N, ...) to zero with probability `p`, else divide it by 1 - p; identity in eval mode."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        stays = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * stays.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:.3g}"


def decay_linearly(net: nn.Module, last: float) -> None:
    """Drop the ℓ-th of a net's L residual blocks with probability ℓ / L · last (1 - p in equation 4)."""
    blocks = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    for i, block in enumerate(blocks, 1):
        block.p = last * i / len(blocks)
