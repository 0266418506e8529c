"""Stochastic depth: while training, skip residual branches at random, and deeper ones more often.

Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016, section 3. Departures: each image draws
for itself, where the paper skips a block for a whole batch; and a branch that stays is scaled up in training, where the
paper scales all of them down in testing, so that a net in eval mode is the one without it.
"""

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zero an image's branch (N, ...) with probability `p`, and divide it by 1 - p else; in eval mode do nothing."""

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
    """Drop the ℓ-th of a net's L residual blocks with probability ℓ / L · last (equation 4, whose p is 1 less this)."""
    blocks = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    for i, block in enumerate(blocks, 1):
        block.p = last * i / len(blocks)
