"""Fold the statistics of batch norms into their weights and biases, which halves what they take in a file, and back."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from zoo.compress.recipe import Step
from zoo.measure.layer_kinds import BATCH_NORMS
from zoo.records.steps import Record


class StepRecord(Record, frozen=True):
    """The step has no settings: a folded net computes the same, but can be trained only after `unfold`."""


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


@torch.no_grad()
def unfold(net: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Restore the running statistics of the batch norms of a folded net in place, so that the net can be trained.

    The statistics are measured on `batches` of inputs of the net, and weights and biases are adjusted so that the
    outputs in eval mode stay the same, up to rounding. Norms that are not called in eval mode, such as those of
    auxiliary heads, are not changed.
    """
    sums: dict[nn.Module, Tensor] = {}  # of each channel: the number of values, their sum and that of squares

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)
        found = torch.stack(
            [torch.full((len(values),), values.shape[1]).to(values), values.sum(1), values.square().sum(1)]
        )
        sums[norm] = sums[norm] + found if norm in sums else found

    norms = [m for m in net.modules() if isinstance(m, BATCH_NORMS) and m.affine and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    modes = {module: module.training for module in net.modules()}
    try:
        net.eval()
        for batch in batches:
            net(*batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    for norm, (num, total, squares) in sums.items():
        mean = total / num
        variance = (squares / num - mean.square()).clamp_min(0)
        own = norm.state_dict()  # the tensors themselves
        scale = own["weight"].double() / (own["running_var"].double() + norm.eps).sqrt()
        own["bias"] += scale * (mean - own["running_mean"])
        own["weight"].copy_(scale * (variance + norm.eps).sqrt())
        own["running_mean"].copy_(mean)
        own["running_var"].copy_(variance)


def with_short_vectors(weights: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return the weights with biases and norms, the float vectors, rounded to `bits` bits of mantissa."""
    return {name: _short(w, bits) if w.is_floating_point() and w.ndim < 2 else w for name, w in weights.items()}


def _short(weight: Tensor, bits: int) -> Tensor:
    fraction, exponent = torch.frexp(weight.float())
    scale = 2.0 ** (bits + 1)  # frexp's fractions start at 1/2, and the first bit is not stored
    return torch.ldexp((fraction * scale).round() / scale, exponent)
