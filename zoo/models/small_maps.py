"""Convolutions of small maps in bfloat16 on a CPU, trained as products of matrices.

There, torch's kernels take up to six times as long as such products, forward and backward: their tiles are rows of a
map, which are short, while a product has a row for each pixel of the whole batch (Chellapilla et al., "High performance
convolutional neural networks for document processing", 2006).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

MOST_PIXELS = {1: 49, 3: 25}  # of a map by the size of the kernel; of larger maps, torch's kernels are as fast
LEAST_WEIGHTS = {1: 0, 3: 256 * 256}  # input times output channels


class SmallMapsAsProducts(TorchFunctionMode):
    """While active, compute the convolutions for which `is_faster` holds as products; all others are torch's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and not kwargs and is_faster(*args):
            return as_product(*args)
        return func(*args, **(kwargs or {}))


def as_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any) -> Tensor:
    """Return the convolution of x (N, C, H, W) with weights (K, C, size, size) in bfloat16: N × K × H × W."""
    y: Tensor = _Convolution.apply(x.bfloat16(), weight.bfloat16())
    return y if bias is None else y + bias.to(y)[:, None, None]


def is_faster(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Return whether a convolution is faster as a product: in bfloat16 on a CPU, with gradients, of small maps.

    It has to keep the size of the maps, with a square kernel of size 1 or 3.
    """
    if x.device.type != "cpu" or x.ndim != 4 or not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    is_cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not is_cast and not x.dtype == weight.dtype == torch.bfloat16:
        return False
    num_out, num_in, size, width = weight.shape
    return (
        size == width
        and size in MOST_PIXELS
        and x.shape[2] * x.shape[3] <= MOST_PIXELS[size]
        and num_in * num_out >= LEAST_WEIGHTS[size]
        and groups == 1
        and stride in (1, (1, 1))
        and dilation in (1, (1, 1))
        and padding in (size // 2, (size // 2, size // 2))
    )


class _Convolution(torch.autograd.Function):
    """The convolution with an odd kernel that keeps the size of the maps."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        num_out, num_in, size, _ = weight.shape
        of_weight = _pixels(gradient, 1).t() @ _pixels(x, size)
        of_weight = of_weight.view(num_out, size, size, num_in).permute(0, 3, 1, 2)
        # The gradient of the input is the convolution with the weights turned by 180°
        of_x = _product(gradient, weight.flip(2, 3).transpose(0, 1)) if ctx.needs_input_grad[0] else None
        return of_x, of_weight


def _product(x: Tensor, weight: Tensor) -> Tensor:
    n, _, height, width = x.shape
    y = _pixels(x, weight.shape[2]) @ weight.permute(0, 2, 3, 1).flatten(1).t()
    return y.view(n, height, width, -1).permute(0, 3, 1, 2)


def _pixels(x: Tensor, size: int) -> Tensor:
    """Return a row (size · size · C) for each pixel of x (N, C, H, W): what a kernel centred on it covers."""
    n, _, height, width = x.shape
    x, reach = x.permute(0, 2, 3, 1), size // 2
    if reach:
        padded = torch.nn.functional.pad(x, (0, 0, reach, reach, reach, reach))
        x = torch.cat([padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)], -1)
    return x.reshape(n * height * width, -1)
