"""Maps of which pixels an image net's answer depends on, and scores of whether such a map means anything.

Selvaraju et al., "Grad-CAM", 2016; Abnar, Zuidema, "Quantifying attention flow in transformers", 2020; Shrikumar et
al., "Not just a black box", 2016, for gradient times input; Petsiuk et al., "RISE", 2018, for deletion and insertion.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.data.corruption_blurs import gaussian_blur
from zoo.models.attention import Attention

LEAST_SIDE = 4  # px of the feature maps that Grad-CAM shows, if the net has any so large
NUM_STEPS = 20  # of deletion and insertion
BLUR = 0.125  # of what replaces deleted pixels, as a fraction of the shorter side
Explanation = Callable[[nn.Module, Tensor, Tensor], Tensor]


def explanations(net: nn.Module, images: Tensor) -> dict[str, Explanation]:
    """Return the methods that suit a net, by name: functions of a net, images (N, C, H, W) and classes (N,).

    They return maps (N, H, W), whose sign is that of the influence on the logit of the class.
    """
    found: dict[str, Explanation] = {}
    if any(isinstance(module, Attention) for module in net.modules()):
        found["attention rollout"] = lambda net, images, targets: _enlarged(rollout(net, images), images)
    elif layer := feature_layer(net, images[:1]):
        found["Grad-CAM"] = functools.partial(_grad_cam, layer=layer)
    found["gradient × input"] = gradient_times_input
    return found


def _grad_cam(net: nn.Module, images: Tensor, targets: Tensor, layer: str) -> Tensor:
    return _enlarged(grad_cam(net, images, targets, net.get_submodule(layer)), images)


def _enlarged(maps: Tensor, images: Tensor) -> Tensor:
    return interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]


@torch.no_grad()
def feature_layer(net: nn.Module, image: Tensor) -> str | None:
    """Return the name of the last module whose output is feature maps of at least 4 × 4 px, or else 2 × 2; or None."""
    sides: dict[str, int] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4
        if is_map and not isinstance(module, nn.AdaptiveAvgPool2d):  # which may enlarge
            sides.pop(name, None)
            sides[name] = min(output.shape[-2:])

    with ExitStack() as hooks:
        for name, module in net.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(functools.partial(look, name)).remove)
        net(image)
    for least in (LEAST_SIDE, 2):
        if large := [name for name, side in sides.items() if side >= least]:
            return large[-1]
    return None


def grad_cam(net: nn.Module, images: Tensor, targets: Tensor, layer: nn.Module) -> Tensor:
    """Return the positive part of a layer's feature maps, weighted by their mean gradients: (N, height, width).

    Gradients are those of the logit of each image's target class.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # for an activation that works in place

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = net(images.detach().requires_grad_())
    finally:
        hook.remove()
    maps = kept[-1]
    (gradients,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps)
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()


def gradient_times_input(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return each normalised pixel times the gradient of the target's logit, summed over channels: (N, H, W)."""
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = net(inputs)
    (gradients,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), inputs)
    return (gradients * images).sum(1)


@torch.no_grad()
def rollout(net: nn.Module, images: Tensor) -> Tensor:
    """Return how much the class token of a ViT attends to each patch through all layers: (N, rows, columns).

    Attention is the mean over heads, half of which is replaced by the identity, for the residual connection. It does
    not depend on the class that is asked about.
    """
    layers: list[Tensor] = []

    def keep(module: Attention, inputs: tuple[Tensor, ...]) -> None:
        layers.append(module.weights(inputs[0], inputs[0]).mean(1))

    with ExitStack() as hooks:
        for module in net.modules():
            if isinstance(module, Attention):
                hooks.callback(module.register_forward_pre_hook(keep).remove)
        net(images)
    flow = torch.eye(layers[0].shape[-1], device=images.device)
    for weights in layers:
        flow = (0.5 * weights + 0.5 * torch.eye(weights.shape[-1], device=images.device)) @ flow
    height, width = images.shape[-2:]
    num_patches = flow.shape[-1] - 1
    rows = round((num_patches * height / width) ** 0.5)  # patches are squares
    return flow[:, 0, 1:].unflatten(1, (rows, num_patches // rows))


@torch.inference_mode()
def deletion_and_insertion(
    net: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the mean probability of each target (N,) while pixels are deleted, and while they are inserted.

    The pixels with the highest values of the map come first. Deleted ones are replaced by those of the blurred image,
    in 20 steps until all are; insertion starts there. A map that shows what matters has a low first score and a high
    second one.
    """
    blurred = gaussian_blur(images, BLUR * min(images.shape[-2:]))
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    rank = rank.view(len(images), 1, *images.shape[-2:])
    curves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for step in range(NUM_STEPS + 1):
        chosen = rank < round(step / NUM_STEPS * order.shape[1])
        for curve, (inside, outside) in zip(curves, ((blurred, images), (images, blurred)), strict=True):
            shares = (net(torch.where(chosen, inside, outside)) / temperature).softmax(1)
            curve.append(shares.gather(1, targets[:, None])[:, 0])
    deletion, insertion = (torch.trapezoid(torch.stack(curve), dim=0) / NUM_STEPS for curve in curves)
    return deletion, insertion
