"""Fold the statistics of batch norms into their weights and biases, which halves what they take in a file."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from zoo.compress.recipe import Step
from zoo.measure.layer_kinds import BATCH_NORMS
from zoo.records.steps import Record


class StepRecord(Record, frozen=True):
    """The step has no settings: a folded net computes the same, but must not be trained on."""


STEP: Step = {"pass": "fold_norms"}


def is_folded(recipe: Iterable[Step]) -> bool:
    """Return whether a recipe leaves a net whose batch norms are folded."""
    return any(step["pass"] == STEP["pass"] for step in recipe)


def folded(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what changes if the statistics of the batch norms of `net` are folded into their weights and biases.

    The running mean becomes 0 and the running variance 1, less the norm's epsilon, so that each norm computes the same
    in eval mode, up to rounding. Norms without weights or without statistics stay as they are.
    """
    found: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        if not isinstance(module, BATCH_NORMS) or not {prefix + "running_var", prefix + "weight"} <= weights.keys():
            continue
        mean, variance, weight, bias = (
            weights[prefix + key].double() for key in ("running_mean", "running_var", "weight", "bias")
        )
        scale = weight / (variance + module.eps).sqrt()
        kind = weights[prefix + "weight"].dtype
        found[prefix + "weight"] = scale.to(kind)
        found[prefix + "bias"] = (bias - mean * scale).to(kind)
        found[prefix + "running_mean"] = torch.zeros_like(weights[prefix + "running_mean"])
        found[prefix + "running_var"] = torch.full_like(weights[prefix + "running_var"], 1 - module.eps)
        if module.num_batches_tracked is not None:
            found[prefix + "num_batches_tracked"] = torch.zeros_like(weights[prefix + "num_batches_tracked"])
    return found


def with_short_vectors(weights: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return the weights with biases and norms, the float vectors, rounded to `bits` bits of mantissa."""
    return {name: _short(w, bits) if w.is_floating_point() and w.ndim < 2 else w for name, w in weights.items()}


def _short(weight: Tensor, bits: int) -> Tensor:
    fraction, exponent = torch.frexp(weight.float())
    scale = 2.0 ** (bits + 1)  # frexp's fractions start at 1/2, and the first bit is not stored
    return torch.ldexp((fraction * scale).round() / scale, exponent)
