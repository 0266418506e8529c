"""Rounding of a trained net's weights to few bits, without training.

Each choice of an integer pays for the error that it causes and for the bits that it takes, and the errors of a layer
are corrected in its later weights, as in GPTQ (Frantar et al., 2023). The error is the second-order change of the loss,
whose curvature is approximated per layer by that of its inputs times that of its outputs (Martens and Grosse,
"Optimizing neural networks with Kronecker-factored approximate curvature", 2015). No labels are needed: they are drawn
from the net's own predictions.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from zoo.compress.rate import RateModel
from zoo.measure.layer_kinds import BATCH_NORMS

DAMPING = 0.01  # share of the mean curvature that is added to each
BLOCK = 128  # inputs corrected together
PASSES = 3  # over all weights, each with the frequencies that the one before has found
PART = 64  # samples at once, which bounds memory
LEAST, MOST = 2.0**-16, 2.0**4  # of the price, in its unit: steps of 1/256 and of 4 standard deviations
PAD = 0  # a token after the end of a sequence
Layer = nn.Linear | nn.Conv2d


@dataclass
class Curvature:
    """The curvature of a layer: of its inputs, one matrix per group of a convolution, and of its outputs."""

    corrections: Tensor  # (groups, inputs, inputs): the upper Cholesky factor of the inverse of E[x xᵀ]
    outputs: Tensor  # (outputs,): mean squared gradients


class _Sums:
    """Sums of x xᵀ over samples and places, and of squared gradients of the outputs, for a layer."""

    def __init__(self, module: Layer) -> None:
        self.module = module
        self.inputs: Tensor | float = 0.0
        self.outputs: Tensor | float = 0.0
        self.num_places = 0

    def see(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        """Forward hook."""
        inputs = columns(self.module, args[0].detach())  # (groups, inputs, places)
        self.inputs = self.inputs + inputs @ inputs.mT
        output.register_hook(self._see_gradient)

    def _see_gradient(self, gradient: Tensor) -> None:
        flat = gradient.transpose(1, -1) if isinstance(self.module, nn.Conv2d) else gradient
        flat = flat.reshape(-1, flat.shape[-1])
        self.outputs = self.outputs + flat.square().sum(0)
        self.num_places += len(flat)

    def curvature(self, num_samples: int) -> Curvature | None:
        """Return the curvature per sample, or None if the layer was not used."""
        if not isinstance(self.inputs, Tensor) or not isinstance(self.outputs, Tensor):
            return None
        inputs = self.inputs.double() / num_samples
        means = inputs.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
        inputs += torch.eye(inputs.shape[-1]) * (DAMPING * means)[:, None, None]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(inputs))
        return Curvature(torch.linalg.cholesky(inverse, upper=True).float(), self.outputs / self.num_places)


def columns(module: Layer, x: Tensor) -> Tensor:
    """Return the inputs of each output, as (groups, inputs, places)."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1]).mT
    assert not isinstance(module.padding, str)
    windows = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    n, _, places = windows.shape
    grouped = windows.view(n, module.groups, -1, places)
    return grouped.permute(1, 2, 0, 3).reshape(module.groups, -1, n * places)


def is_followed(module: nn.Module) -> TypeGuard[Layer]:
    """Return whether the inputs of a layer's weights are followed; other weights have one curvature per row."""
    is_plain = isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear) or is_plain


def curvatures(
    net: nn.Module, weights: Iterable[str], batches: Iterable[tuple[Tensor, ...]]
) -> tuple[dict[str, Curvature], dict[str, Tensor]]:
    """Return the curvature of each layer, and for weights elsewhere, such as embeddings, that of each row.

    `batches` are the inputs of the net: images, or sources and the tokens written so far. Labels are drawn from the
    net's predictions with a fixed seed, so that the covariance of gradients is the curvature.
    """
    parameters = dict(net.named_parameters())
    names, shared = set(weights), _names_by_module(net)
    sums = {name: _Sums(module) for name, module in shared.items() if name in names and is_followed(module)}
    squares = {name: torch.zeros(()) for name in names}
    hooks = [one.module.register_forward_hook(one.see) for one in sums.values()]
    draws, num_samples = torch.Generator().manual_seed(0), 0
    net.eval().requires_grad_(True)
    try:
        for batch in batches:
            for part in zip(*(tensor.split(PART) for tensor in batch), strict=True):
                net.zero_grad()
                there = part[1].flatten() != PAD if len(part) > 1 else None
                _loss_of_drawn(net(*part), draws, there).backward()
                num_samples += len(part[0])
                for name in names:
                    gradient = parameters[name].grad
                    if gradient is not None:
                        squares[name] = squares[name] + gradient.square().flatten(0, -2).mean(1)
    finally:
        for hook in hooks:
            hook.remove()
        net.zero_grad()
        net.requires_grad_(False)
    found = {name: layer for name, one in sums.items() if (layer := one.curvature(num_samples)) is not None}
    return found, {name: square / num_samples for name, square in squares.items() if name not in found}


def _names_by_module(net: nn.Module) -> dict[str, nn.Module]:
    return {f"{name}.weight" if name else "weight": module for name, module in net.named_modules()}


def _loss_of_drawn(output: Any, draws: torch.Generator, there: Tensor | None) -> Tensor:
    """Return the sum of the losses of labels that are drawn from the predictions (..., classes)."""
    logits = (output[0] if isinstance(output, tuple) else output).flatten(0, -2)
    logits = logits if there is None else logits[there]
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=draws)[:, 0]
    return nn.functional.cross_entropy(logits, drawn, reduction="sum")


class Rounding:
    """The weights of a net, to be rounded at any price of a bit."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        layers: Mapping[str, Curvature],
        rows: Mapping[str, Tensor],
    ) -> None:
        self.weights = dict(weights)
        self.num_weights = sum(weight.numel() for weight in weights.values())
        self.curvatures = {
            name: layers[name] if name in layers else _of_rows(weight, rows.get(name))
            for name, weight in weights.items()
        }

    @functools.cached_property
    def unit(self) -> float:
        """The price at which steps are one standard deviation of the weights, in the geometric mean over weights.

        The curvature, and with it any absolute price, is close to zero for a net that is certain of its predictions.
        """
        total = 0.0
        for name, weight in self.weights.items():
            variance = weight.var(correction=0).clamp_min(1e-24)
            total += weight.numel() * float(variance.log() + _log_curvature(self.curvatures[name]))
        return self.num_weights * math.log(2) / 12 * math.exp(total / self.num_weights)

    def at(self, price: float) -> dict[str, Tensor]:
        """Return rounded weights for a price, in loss per bit per weight."""
        per_bit = price / self.num_weights
        return {name: self._rounded(name, per_bit) for name in self.weights}

    def _rounded(self, name: str, price: float) -> Tensor:
        weight, curvature = self.weights[name], self.curvatures[name]
        step = _step(weight, curvature, price)
        integers = (weight / step).round()
        for _ in range(PASSES):
            integers = _with_feedback(weight, curvature, step, price, RateModel.of(integers))
        return integers * step


def _of_rows(weight: Tensor, squares: Tensor | None) -> Curvature:
    """Return a curvature without relations between inputs."""
    num_rows, inputs = weight.flatten(0, -2).shape
    outputs = torch.ones(num_rows) if squares is None or squares.ndim == 0 else squares
    return Curvature(torch.eye(inputs)[None], outputs)


def _step(weight: Tensor, curvature: Curvature, price: float) -> Tensor:
    """Return the step at which a finer one would cost as many bits as it saves error, rounded to bfloat16.

    The error of uniform noise is step²/12 per weight, and halving the step costs a bit.
    """
    square = 12 * price / math.log(2) / _log_curvature(curvature).exp()
    largest = weight.abs().max()
    return square.sqrt().clamp(largest / 2000, largest.clamp_min(1e-20)).bfloat16().float()


def _log_curvature(curvature: Curvature) -> Tensor:
    """Return the mean logarithm of the curvature of a layer's weights, each after corrections of later ones."""
    of_inputs = curvature.corrections.diagonal(dim1=-2, dim2=-1).pow(-2).log().mean()
    return of_inputs + curvature.outputs.clamp_min(1e-20).log().mean()


def _with_feedback(weight: Tensor, curvature: Curvature, step: Tensor, price: float, model: RateModel) -> Tensor:
    """Round input by input, weighing error against bits, and correct the inputs to come."""
    groups, inputs = curvature.corrections.shape[:2]
    rows = weight.numel() // inputs
    left = weight.reshape(groups, rows // groups, inputs).clone()
    outputs = curvature.outputs.view(groups, -1)
    zero, nonzero = (bits.reshape(groups, -1, inputs) for bits in (model.zero, model.nonzero))
    integers = torch.empty_like(left)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = torch.empty(groups, rows // groups, end - start)
        for j in range(start, end):
            row = curvature.corrections[:, j]  # (groups, inputs)
            now, scale = left[:, :, j], row[:, j, None]
            size = now.abs() / step
            low = size.floor()
            best, least = torch.zeros_like(low), (now / scale).square() * outputs / 2 + price * zero[:, :, j]
            for candidate in (low, low + 1):
                bits = nonzero[:, :, j] + model.of_magnitudes(candidate)
                cost = ((size - candidate) * step / scale).square() * outputs / 2 + price * bits
                is_better = (cost < least) & (candidate > 0)
                best, least = torch.where(is_better, candidate, best), torch.where(is_better, cost, least)
            integers[:, :, j] = best * now.sign()
            errors[:, :, j - start] = (now - integers[:, :, j] * step) / scale
            left[:, :, j:end] -= errors[:, :, j - start, None] * row[:, None, j:end]
        left[:, :, end:] -= errors @ curvature.corrections[:, start:end, end:]
    return integers.reshape(weight.shape)


@torch.no_grad()
def update_norms(net: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Measure the statistics of batch norms again, over all batches of inputs with equal weight."""
    norms = [module for module in net.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for batch in batches:
        net(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def highest_price(is_good: Callable[[float], bool], unit: float, tries: int = 9) -> float | None:
    """Return the highest of some prices that is good, by bisection of their logarithm; None if the lowest is not."""
    low, high, best = math.log(LEAST * unit), math.log(MOST * unit), None
    for _ in range(tries):
        middle = (low + high) / 2
        if is_good(math.exp(middle)):
            low, best = middle, math.exp(middle)
        else:
            high = middle
    return best
