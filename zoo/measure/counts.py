"""Count what a net holds and what it computes, and leave it as it was."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module) -> int:
    """Count the numbers in a net's parameters, frozen or not, shared ones once."""
    return sum(p.numel() for p in net.parameters())


def count_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one image (C, H, W) in eval mode.

    torchvision's "GFLOPS" are these; a FLOP count is twice as much. Nothing is computed: the net is copied to the meta
    device.
    """
    ghost = copy.deepcopy(net).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(1, *image_shape, device="meta"))
    return counter.get_total_flops() // 2
