"""Weights as integers times a learned step, trained for the number of bits that their file takes.

A net's weights are `step · round(latent / step)`, where the limit between 0 and 1 may be moved to hold a size. The loss
is the task's plus a price per bit, where the bits are those that the packed file's adaptive coder charges, by the model
below (Oktay et al., "Scalable model compression by entropy penalized reparameterization", 2020, and Girish et al.,
"LilNetX", 2023, with another model). Gradients pass the rounding unchanged (straight-through), and steps learn as in
Esser et al., "Learned step size quantization", 2020.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.measure.layer_kinds import sides

MOST = 15  # larger magnitudes share one probability, and each bit of their excess costs two
RARE = 2.0**-12  # the least probability of a nonzero weight or a zero that the coder uses
PRIOR = 4.0  # weights by which the share of nonzero weights of a row or column is drawn towards the mean
LEASTS = 0.1, 1.0  # bounds of the least magnitude of a nonzero weight, in steps; it is 0.5 if nothing else is asked for
LEAST_SLOPE = 0.5  # bits that a weight costs at least more than one that is smaller by one step
BETAS, EPSILON = (0.9, 0.99), 1e-12  # of Adam, for the steps


@dataclass
class RateModel:
    """The bits of a tensor's integers by their frequencies, as the packed file's coder learns them.

    The probability of a nonzero weight is the share of nonzero weights of its output, times that of its input relative
    to the mean. A sign takes one bit, and a magnitude the logarithm of its frequency.
    """

    counts: tuple[Tensor, Tensor, Tensor]  # of nonzero integers by row and by column, and of magnitudes
    zero: Tensor  # bits of a zero at each place, in the tensor's shape
    nonzero: Tensor  # bits of the choice of a nonzero integer, and of its sign
    magnitudes: Tensor  # bits of the magnitudes 1 to MOST, then of a larger one

    @classmethod
    def of(cls, integers: Tensor) -> "RateModel":
        """Count the integers of a tensor of any shape."""
        columns, rows = sides(tuple(integers.shape))
        sizes = integers.reshape(rows, columns).abs()
        there = (sizes > 0).float()
        magnitudes = torch.bincount(sizes.clamp(max=MOST + 1).long().flatten(), minlength=MOST + 2)[1:]
        return cls.from_counts(integers, (there.sum(1), there.sum(0), magnitudes))

    @classmethod
    def from_counts(cls, like: Tensor, counts: tuple[Tensor, Tensor, Tensor]) -> "RateModel":
        """Build the model of a tensor with the shape of `like`."""
        of_rows, of_columns, of_magnitudes = counts
        rows, columns = len(of_rows), len(of_columns)
        mean = (of_rows.sum() / like.numel()).clamp_min(RARE)
        row, column = (of_rows + PRIOR * mean) / (columns + PRIOR), (of_columns + PRIOR * mean) / (rows + PRIOR)
        chance = (row[:, None] * column / mean).clamp(RARE, 1 - RARE).reshape(like.shape)
        smoothed = of_magnitudes + 0.5
        return cls(counts, -(1 - chance).log2(), 1 - chance.log2(), (smoothed.sum() / smoothed).log2())

    def bits(self, integers: Tensor) -> Tensor:
        """Return the bits of each integer, in the tensor's shape."""
        sizes = integers.abs()
        return torch.where(sizes == 0, self.zero, self.nonzero + self.of_magnitudes(sizes))

    def of_magnitudes(self, sizes: Tensor) -> Tensor:
        """Return the bits of magnitudes from 1 on; zeros count as 1."""
        excess = 2 * (sizes - MOST).clamp_min(1).log2()
        return self.magnitudes[(sizes.clamp(1, MOST + 1) - 1).long()] + excess

    def slope(self, scaled: Tensor) -> Tensor:
        """Return the derivative of the bits, interpolated between integers, with respect to latents over steps."""
        low = scaled.abs().floor()
        table = self.magnitudes.diff().clamp_min(LEAST_SLOPE)
        first = (self.nonzero + self.magnitudes[0] - self.zero).clamp_min(LEAST_SLOPE)
        slope = torch.where(low == 0, first, table[(low.clamp(1, MOST) - 1).long()])
        return slope * scaled.sign()


class IntegerWeights:
    """The latents and steps of some weights of a net, whose parameters are kept at the rounded values.

    Gradients are those at the rounded weights; the optimizer moves the latents. Steps are the exponentials of numbers
    that Adam trains, rounded to bfloat16, since they are in the file. Latents of a magnitude below `least` steps become
    zero, and the others the nearest integer except zero.
    """

    def __init__(self, weights: Mapping[str, Tensor], step: float, state: Mapping[str, Any] | None = None) -> None:
        """Begin with steps of `step` standard deviations of each tensor, or continue from a `state`."""
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        first = next(iter(self.weights.values()))
        if state is None:
            self.latents = {name: weight.clone() for name, weight in self.weights.items()}
            deviations = torch.stack([weight.float().std(correction=0) for weight in self.weights.values()])
            logs = (step * deviations.clamp_min(1e-6)).log()
            self._logs = torch.stack([logs, torch.zeros_like(logs), torch.zeros_like(logs)])  # and Adam's two moments
            self._num_steps, self.models = 0, {}
            self.least = torch.full_like(deviations[0], 0.5)
        else:
            self.latents = {name: state["latents"][name].to(weight) for name, weight in self.weights.items()}
            self._logs, self._num_steps = state["logs"].to(first.device), int(state["num_steps"])
            self.least = torch.as_tensor(state.get("least", 0.5)).to(first.device)  # earlier versions have none
            self.models = {
                name: RateModel.from_counts(weight, tuple(one.to(first.device) for one in state["counts"][name]))
                for name, weight in self.weights.items()
            }
        self._of_steps: list[Tensor] = []  # gradients of the logarithms
        self._lr = 0.0
        self._write()

    @property
    def num_weights(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def steps(self) -> dict[str, Tensor]:
        """Return the current step of each tensor, a scalar."""
        steps = self._logs[0].exp().bfloat16().float()
        return dict(zip(self.weights, steps.unbind(), strict=True))

    def integers(self) -> dict[str, Tensor]:
        """Return the integers of each tensor, as floats."""
        steps = self.steps()
        return {name: self._integers_of(latent / steps[name]) for name, latent in self.latents.items()}

    def _integers_of(self, scaled: Tensor) -> Tensor:
        """Return the integers of latents over their step."""
        sizes = scaled.abs()
        return scaled.sign() * sizes.round().clamp_min(1).where(sizes >= self.least, 0)

    def rounded(self, name: str, weight: Tensor) -> Tensor:
        """Round other values of a tensor, such as their average, to multiples of its step."""
        step = self.steps()[name]
        return (weight / step).round() * step

    @torch.no_grad()
    def _write(self) -> None:
        steps = self.steps()
        for name, integers in self.integers().items():
            self.weights[name].copy_(integers * steps[name])

    @torch.no_grad()
    def count_bits(self) -> Tensor:
        """Update the models from the current integers, and return the bits of all of them."""
        integers = self.integers()
        self.models = {name: RateModel.of(one) for name, one in integers.items()}
        return torch.stack([self.models[name].bits(one).sum() for name, one in integers.items()]).sum()

    @torch.no_grad()
    def scale_nonzeros(self, factor: float) -> float:
        """Multiply the number of nonzero integers by about `factor`, by changing `least` within LEASTS.

        Many latents are close to `least`: there the price of bits pushes them down, and once they are zero, the task's
        gradient pushes them up. So a small change is enough. Returns the error for `PriceControl.after_error`: the
        logarithm of the ratio between the number of latents of at least 0.5 steps and the number requested. Its
        magnitude is limited to 2.5 times the difference between `least` and 0.5.
        """
        steps = self.steps()
        sizes = torch.cat([(latent / steps[name]).abs().flatten() for name, latent in self.latents.items()])
        usual, now = (max(1, int((sizes >= least).sum())) for least in (0.5, self.least))
        num = max(1, min(round(factor * now), len(sizes)))
        self.least = sizes.kthvalue(len(sizes) - num + 1).values.clamp(*LEASTS).float()
        self._write()
        most = 2.5 * abs(float(self.least) - 0.5)
        return max(-most, min(math.log(usual / num), most))

    @torch.no_grad()
    def before_step(self, gradients: Mapping[str, Tensor], price: float, lr: float) -> None:
        """Add the price of bits to the gradients, in loss per bit, and let the optimizer see the latents.

        `lr` is the learning rate of the logarithms of steps.
        """
        steps, self._of_steps, self._lr = self.steps(), [], lr
        for name, weight in self.weights.items():
            gradient, step = gradients[name], steps[name]
            scaled = self.latents[name] / step
            of_rounding = (gradient * (self._integers_of(scaled) - scaled)).sum() * step
            slope = self.models[name].slope(scaled)
            gradient.add_(slope / step, alpha=price)
            self._of_steps.append(of_rounding - price * (slope * scaled).sum())
            weight.copy_(self.latents[name])

    @torch.no_grad()
    def after_step(self) -> None:
        """Take over the latents that the optimizer has moved, move the steps, and write the rounded weights."""
        for name, weight in self.weights.items():
            self.latents[name].copy_(weight)
        self._num_steps += 1
        logs, mean, square = self._logs
        gradient = torch.stack(self._of_steps)
        mean.lerp_(gradient, 1 - BETAS[0])
        square.lerp_(gradient.square(), 1 - BETAS[1])
        unbiased, spread = 1 - BETAS[0] ** self._num_steps, 1 - BETAS[1] ** self._num_steps
        logs.sub_(self._lr * (mean / unbiased) / ((square / spread).sqrt() + EPSILON))
        self._write()

    def sparsity(self) -> float:
        """Return the share of zeros."""
        return 1 - sum(int(weight.count_nonzero()) for weight in self.weights.values()) / self.num_weights

    def state(self) -> dict[str, Any]:
        """Return the state to continue from."""
        counts = {name: list(model.counts) for name, model in self.models.items()}
        more = {"least": self.least, "num_steps": self._num_steps, "counts": counts}
        return {"latents": self.latents, "logs": self._logs, **more}
