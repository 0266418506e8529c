"""Count parameters and multiply-accumulates of a net without changing it."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module) -> int:
    """Count the parameters of a net, frozen or not, shared ones once."""
    return sum(p.numel() for p in net.parameters())


def count_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one image (C, H, W) in eval mode.

    This is what torchvision calls "GFLOPS"; a FLOP count is twice as large. Nothing is computed: the net is copied to
    the meta device.
    """
    return count_macs_of(net, (torch.empty(1, *image_shape, device="meta"),))


def count_macs_of(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Count the multiply-accumulates, as `count_macs`, of one call of the net with inputs on the meta device."""
    ghost = copy.deepcopy(net).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(*inputs)
    return counter.get_total_flops() // 2
