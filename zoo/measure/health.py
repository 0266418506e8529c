"""Per-layer statistics of weights, outputs and gradients, kept on their device."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

NUM_BINS = 64  # of a histogram
MOST_VALUES = 2**16  # larger tensors are subsampled: every second, third, ... value
EXACT_UP_TO = 256  # rows or columns of a matrix whose singular values are computed in full
NUM_ITERATIONS = 50  # of the power method for larger ones
SATURATED_TANH = 0.97  # above this, the slope is below 6 % of its maximum
SATURATED_SIGMOID = (1 + SATURATED_TANH) / 2  # the same point, since tanh(x) = 2 sigmoid(2x) - 1


def weight_layers(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the matrices and filters of each module that has any, by name; shared ones only for the first module."""
    layers: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, module in net.named_modules():
        weights = [p for key, p in module.named_parameters(recurse=False) if "weight" in key and p.ndim > 1]
        weights = [w for w in weights if id(w) not in seen]
        seen |= {id(w) for w in weights}
        if weights:
            layers[name] = weights
    return layers


class LayerWatch(TorchFunctionMode):
    """Record statistics of layer outputs while this mode is on; hooks are removed afterwards.

    For each layer of `weight_layers` that runs: `outputs`, a histogram; `spread`, the root mean square over its values
    of their standard deviation across the batch; `size`, their root mean square. An activation, whether a module or a
    function, is assigned to the last layer that ran before it. For ReLU: `fired`, whether each unit was ever above 0;
    units are feature maps for images, else the last dimension. For sigmoid and tanh: `saturated`, a fraction.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._modules = {name: net.get_submodule(name) for name in weight_layers(net)}
        self._last: str | None = None
        self.outputs: dict[str, Tensor] = {}
        self.spread: dict[str, Tensor] = {}
        self.size: dict[str, Tensor] = {}
        self.fired: dict[str, Tensor] = {}
        self.saturated: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        self._handles = [
            module.register_forward_hook(lambda _, args, output, name=name: self._note(name, output))
            for name, module in self._modules.items()
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = getattr(func, "__name__", "").rstrip("_")
        if self._last is not None and kind in ("relu", "sigmoid", "tanh"):
            self._note_activation(self._last, kind, result.detach())
        return result

    @torch.no_grad()
    def _note(self, name: str, output: Any) -> None:
        self._last = name
        values = (output[0] if isinstance(output, tuple) else output).detach()
        rows = values.flatten(1)
        rows = rows[:, :: -(-rows.numel() // MOST_VALUES)].float()
        self.outputs[name] = histogram(rows)
        self.spread[name] = rows.std(0, correction=0).square().mean().sqrt()
        self.size[name] = rows.square().mean().sqrt()

    @torch.no_grad()
    def _note_activation(self, name: str, kind: str, values: Tensor) -> None:
        if kind == "relu":
            dim = 1 if values.ndim == 4 else values.ndim - 1
            fired = (values > 0).transpose(0, dim).flatten(1).any(1)
            before = self.fired.get(name)
            if before is None or before.shape == fired.shape:
                self.fired[name] = fired if before is None else before | fired
        else:
            limit = SATURATED_TANH if kind == "tanh" else SATURATED_SIGMOID
            low = -SATURATED_TANH if kind == "tanh" else 1 - SATURATED_SIGMOID
            self.saturated[name] = ((values > limit) | (values < low)).float().mean()

    def figures(self) -> dict[str, Tensor]:
        """Return the figures as `figure/layer`; `signal` is the fraction of an output that depends on the input."""
        found = {f"activations/{name}": counts for name, counts in self.outputs.items()}
        found |= {f"signal/{name}": spread / self.size[name].clamp_min(1e-30) for name, spread in self.spread.items()}
        found |= {f"dead_units/{name}": 1 - fired.float().mean() for name, fired in self.fired.items()}
        return found | {f"saturation/{name}": share for name, share in self.saturated.items()}


def histogram(values: Tensor) -> Tensor:
    """Count values in NUM_BINS equal bins: (5 + NUM_BINS), starting with minimum, maximum, number, sum, sum of squares.

    More than MOST_VALUES are subsampled: every second, third and so on is counted.
    """
    values = values.detach().flatten()
    values = values[:: -(-len(values) // MOST_VALUES)].float()
    low, high = values.aminmax()
    places = ((values - low) * (NUM_BINS / (high - low).clamp_min(1e-30))).nan_to_num_().long()
    counts = values.new_zeros(NUM_BINS)
    counts.scatter_add_(0, places.clamp_(0, NUM_BINS - 1), torch.ones_like(values))
    number = torch.full_like(low, len(values))
    return torch.cat([torch.stack([low, high, number, values.sum(), values.square().sum()]), counts])


def update_ratio(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Return the relative change of a layer in a step: the norm of the change over that of the weights before."""
    change = [new.detach() - old for new, old in zip(after, before, strict=True)]
    return get_total_norm(change) / get_total_norm(before)


def largest_singular_value(weight: Tensor) -> Tensor:
    """Return the largest singular value of a weight as a matrix with one row per output.

    Exact if the matrix has up to EXACT_UP_TO rows or columns; else estimated from below by NUM_ITERATIONS of the power
    method. Synchronises with the device.
    """
    matrix = weight.detach().float().flatten(1)
    if min(matrix.shape) <= EXACT_UP_TO and matrix.isfinite().all():
        return torch.linalg.svdvals(matrix)[0]
    vector = matrix.T @ matrix.norm(dim=1)  # not random, so that the run's random stream is not changed
    for _ in range(NUM_ITERATIONS):
        vector = nn.functional.normalize(matrix.T @ (matrix @ vector), dim=0)
    return (matrix @ vector).norm()


def gradient_noise(pieces: Sequence[Iterable[Tensor]], num_samples: int) -> tuple[Tensor, Tensor]:
    """Estimate tr(Σ), the variance of per-sample gradients, and |G|², from the mean gradients of several pieces.

    Each piece has `num_samples` samples. Unbiased (McCandlish et al., "An empirical model of large-batch training",
    2018, appendix A.1). The ratio of the two, each summed over many steps first, is the simple noise scale, in samples:
    much larger batches hardly reduce the noise further.
    """
    flat = [torch.cat([g.detach().flatten() for g in piece]) for piece in pieces]
    whole = len(pieces) * num_samples
    small = torch.stack([g.square().sum() for g in flat]).mean()
    large = torch.stack(flat).mean(0).square().sum()
    noise = (small - large) / (1 / num_samples - 1 / whole)
    return noise, (whole * large - num_samples * small) / (whole - num_samples)


def gradient_figures(
    layers: Mapping[str, Sequence[nn.Parameter]], gradients: Sequence[Sequence[Tensor]], num_samples: int
) -> dict[str, Tensor]:
    """Return figures of the gradients of the layers' weights, as `figure/layer`, given a list of gradients per piece.

    `gradients` is a histogram of their mean, `gradient_size` its norm and, for several pieces, `noise` the two values
    of `gradient_noise`.
    """
    found: dict[str, Tensor] = {}
    start = 0
    for name, weights in layers.items():
        pieces = [piece[start : start + len(weights)] for piece in gradients]
        start += len(weights)
        mean = torch.cat([torch.stack(same).mean(0).flatten() for same in zip(*pieces, strict=True)])
        found[f"gradients/{name}"], found[f"gradient_size/{name}"] = histogram(mean), mean.norm()
        if len(pieces) > 1:
            found[f"noise/{name}"] = torch.stack(gradient_noise(pieces, num_samples))
    return found


def fetch(figures: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Copy tensors of any shapes to the host in one transfer."""
    if not figures:
        return {}
    flat = torch.cat([value.detach().flatten().float() for value in figures.values()]).cpu()
    parts = flat.split([value.numel() for value in figures.values()])
    return {name: part.tolist() for name, part in zip(figures, parts, strict=True)}
