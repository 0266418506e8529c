"""Repair a net after channels were removed, before it is trained again.

Each layer that has lost inputs is refitted by least squares, so that its outputs on training images are those of the
dense net, as far as the channels that stay allow (He, Zhang, Sun, "Channel pruning for accelerating very deep neural
networks", 2017; Luo, Wu, Lin, "ThiNet", 2017). This is done layer by layer, so that each makes up for errors of those
before it. Departure: weights are pulled towards those before the fit and not towards 0. Then the statistics of batch
norms are measured again.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.compress.dependencies import is_depthwise
from zoo.compress.rate_rounding import columns, is_followed, update_norms
from zoo.errors import BadInput

NUM_IMAGES = 1024
PART = 64  # images at once, which bounds memory
MOST_INPUTS = 4608  # of an output of a layer, 3 × 3 × 512: its matrix has that many rows and columns
RIDGE = 1e-4  # share of the mean square of inputs by which weights are pulled towards those before the fit
Repair = Literal["none", "norms", "refit"]
StepName = Literal["before", "cut", "norms", "refit"]
STEPS: dict[StepName, str] = {
    "before": "of the dense net",
    "cut": "before any repair",
    "norms": "with norms measured again",
    "refit": "with layers refitted",
}
Lost = Mapping[tuple[str, str], Tensor]  # places, by the name of a layer and its side
log = logging.getLogger("zoo")


class _Reached(Exception):
    """Ends a forward pass after a layer."""


def repair(
    net: nn.Module,
    dense: nn.Module,
    lost: Lost,
    how: Repair,
    batches: Iterable[Any],
    accuracy: Callable[[nn.Module], float] | None = None,
) -> dict[str, float]:
    """Repair a net from which places were removed, given the net before, and return its accuracy after each step.

    `batches` are of images (N, C, H, W) and anything else; about 1,024 images are used. The accuracies are those
    `before` channels were removed, of the net as it was `cut`, after its `norms` were measured again, and after its
    `refit`; there are none without a function that measures them. Raises BadInput if there are no images.
    """
    measured: dict[str, float] = {}

    def note(name: StepName, part: nn.Module) -> None:
        if accuracy is not None:
            measured[name] = accuracy(part.eval())
            log.debug("Validation accuracy %s: %.2f %%.", STEPS[name], 100 * measured[name])

    was_training = net.training
    note("before", dense)
    note("cut", net)
    if how != "none":
        _apply(net, dense, lost, how, batches, note)
    net.train(was_training)
    return measured


def _apply(
    net: nn.Module,
    dense: nn.Module,
    lost: Lost,
    how: Repair,
    batches: Iterable[Any],
    note: Callable[[StepName, nn.Module], None],
) -> None:
    """Measure norms again or refit layers, in place, and note each step."""
    images = first_images(batches)
    with_norms = copy.deepcopy(net).eval() if how == "refit" else net.eval()
    update_norms(with_norms, [(part,) for part in images])
    note("norms", with_norms)
    if how == "refit":
        refit(net, dense, lost, images)
        update_norms(net, [(part,) for part in images])
        note("refit", net)


def first_images(batches: Iterable[Any], num: int = NUM_IMAGES) -> list[Tensor]:
    """Return at least `num` images of training batches, in parts of up to 64; raise BadInput if there are none."""
    parts: list[Tensor] = []
    for images, *_ in batches:
        images = images[:num]
        parts += images.chunk(-(-len(images) // PART))  # nearly equal, since a norm has no variance of one value
        if sum(len(part) for part in parts) >= num:
            break
    if not parts:
        raise BadInput(
            "compress.before_fit.channels: expected repair=none and blocks=0 where there are no training images"
        )
    return parts


@torch.no_grad()
def refit(net: nn.Module, dense: nn.Module, lost: Lost, images: Sequence[Tensor]) -> None:
    """Fit the layers that have lost inputs, in their order, to the outputs of the dense net on these images, in place.

    Layers with more than 4,608 inputs per output, those in attention, and those that only auxiliary heads use stay as
    they are.
    """
    net.eval(), dense.eval()
    names = [name for name, side in lost if side == "in" and _can_be_fitted(net, name)]
    for name in _in_order(net, names, images[0][:1]):
        ours, theirs = net.get_submodule(name), dense.get_submodule(name)
        stays = torch.ones(len(theirs.weight), dtype=torch.bool)  # type: ignore[arg-type]
        if (name, "out") in lost:
            stays[lost[name, "out"]] = False
        _fit(ours, ((_until(net, ours, part), _until(dense, theirs, part)[1], stays) for part in images))


def _can_be_fitted(net: nn.Module, name: str) -> bool:
    try:
        layer = net.get_submodule(name)
    except AttributeError:  # a parameter, or a part of an attention
        return False
    if type(layer) not in (nn.Linear, nn.Conv2d) or not is_followed(layer) or is_depthwise(layer):
        return False
    if layer.weight[0].numel() > MOST_INPUTS:
        log.info("'%s' is not refitted: it has more than %s inputs per output.", name, f"{MOST_INPUTS:,}")
        return False
    return True


def _in_order(net: nn.Module, names: Sequence[str], image: Tensor) -> list[str]:
    """Return the names of the layers that a forward pass in eval mode calls, in the order of their calls."""
    called: list[str] = []
    hooks = [net.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name)) for name in names]
    net(image)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(called))


def _until(net: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input and the output of a layer's first call; later layers are not computed."""
    seen: list[tuple[Tensor, Tensor]] = []

    def stop(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append((args[0], output))
        raise _Reached

    hook = layer.register_forward_hook(stop)
    try:
        net(images)
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen[0]


def _fit(layer: nn.Module, parts: Iterable[tuple[tuple[Tensor, Tensor], Tensor, Tensor]]) -> None:
    """Change weights and bias by the least squares solution of what is missing from a layer's outputs.

    The sums of x xᵀ and of (missing) xᵀ are all that is kept of inputs x, one matrix per group of a convolution.
    """
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    squares: Tensor | float = 0.0
    products: Tensor | float = 0.0
    for (x, output), expected, stays in parts:
        channel = 1 if isinstance(layer, nn.Conv2d) else -1
        missing = expected.index_select(channel, stays.nonzero().flatten()) - output
        missing = missing.double().movedim(channel, 0).flatten(1)  # (outputs, places)
        inputs = columns(layer, x.double())  # (groups, inputs, places)
        if layer.bias is not None:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        squares = squares + inputs @ inputs.mT
        products = products + missing.view(groups, -1, missing.shape[1]) @ inputs.mT
    assert isinstance(squares, Tensor)
    assert isinstance(products, Tensor)
    ridge = RIDGE * squares.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    squares += ridge[:, None, None] * torch.eye(squares.shape[1], dtype=squares.dtype)
    change = torch.cholesky_solve(products.mT, torch.linalg.cholesky(squares)).mT.flatten(0, 1)
    if layer.bias is not None:
        layer.bias += change[:, -1].to(layer.bias.dtype)
        change = change[:, :-1]
    layer.weight += change.view_as(layer.weight).to(layer.weight.dtype)
