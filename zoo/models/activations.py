"""Activations by name, an option of most nets; comments cite those that are not in the paper of a net."""

from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal[
    "relu",
    "leaky_relu",  # Maas et al., 2013
    "prelu",  # He et al., 2015: with a learnt slope, one per module
    "elu",  # Clevert et al., 2015
    "selu",  # Klambauer et al., 2017; needs init=lecun
    "gelu",  # Hendrycks, Gimpel, 2016
    "silu",  # Swish; Ramachandran et al., 2017
    "tanh",
    "scaled_tanh",
    "sigmoid",
    "softplus",
    "maxout",
]


class ScaledTanh(nn.Module):
    """Compute 1.7159 tanh(2x/3), which has a gain of about 1 and f(±1) = ±1 (LeCun et al., 1998, appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class Maxout(nn.Module):
    """Return the maximum of each pair of neighbouring maps, which halves their number (Goodfellow et al., 2013)."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, (-1, 2)).amax(self.dim + 1 if self.dim >= 0 else -1)


MODULES: dict[str, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def make_activation(name: Activation, dim: int = 1) -> nn.Module:
    """Create an activation for maps along `dim`; it takes `width_multiplier(name)` input maps per output map."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    return Maxout(dim) if name == "maxout" else MODULES[name]()


def width_multiplier(name: Activation) -> int:
    """Return the number of input maps per output map of an activation: 2 for maxout, else 1."""
    return 2 if name == "maxout" else 1
