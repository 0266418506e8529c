"""Re-initialise a net's weights by a scheme other than that of its paper."""

from typing import Literal

from torch import Tensor, nn

Scheme = Literal["paper", "he", "glorot", "lecun", "orthogonal"]


def initialise(net: nn.Module, scheme: Scheme) -> None:
    """Initialise the weights of all convolutions and matrices by a scheme, and biases to 0; `paper` changes nothing.

    he: normal with variance 2 / fan-in (He et al., 2015, "Delving deep into rectifiers"). glorot: uniform with variance
    2 / (fan-in + fan-out) (Glorot, Bengio, 2010). lecun: normal with variance 1 / fan-in (LeCun et al., 1998,
    "Efficient backprop"). orthogonal: each weight as a matrix, with gain √2 (Saxe et al., 2013). Norms, class tokens
    and position embeddings are not changed.
    """
    if scheme == "paper":
        return
    for module in net.modules():
        parameters = dict(module.named_parameters(recurse=False))
        matrices = {name for name, p in parameters.items() if name.endswith("weight") and p.ndim > 1}
        for name, parameter in parameters.items():
            if name in matrices:
                draw(parameter, scheme, *fans(module, parameter))
            elif matrices and name.endswith("bias"):
                nn.init.zeros_(parameter)


def draw(weight: Tensor, scheme: Scheme, fan_in: float, fan_out: float) -> None:
    if scheme == "he":
        nn.init.normal_(weight, std=(2 / fan_in) ** 0.5)
    elif scheme == "glorot":
        bound = (6 / (fan_in + fan_out)) ** 0.5
        nn.init.uniform_(weight, -bound, bound)
    elif scheme == "lecun":
        nn.init.normal_(weight, std=(1 / fan_in) ** 0.5)
    else:
        nn.init.orthogonal_(weight, gain=2**0.5)


def fans(module: nn.Module, weight: Tensor) -> tuple[float, float]:
    """Return fan-in and fan-out of a layer, averaged for layers with a sparse connection table."""
    num_out, num_in = getattr(module, "out_channels", len(weight)), getattr(module, "in_channels", weight.shape[1])
    return weight.numel() / num_out, weight.numel() / num_in


def draw_uniform(layer: nn.Conv2d | nn.Linear, bound: float, bias_bound: float = 0.0) -> None:
    """Draw weights uniformly in ±bound, and the bias, if any, in ±bias_bound."""
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bias_bound, bias_bound)


def draw_in_unit_bounds(net: nn.Module) -> None:
    """Draw weights and biases of convolutions and linear layers uniformly in ±1/√fan-in, torch's default."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = fans(layer, layer.weight)[0] ** -0.5
            draw_uniform(layer, bound, bound)
