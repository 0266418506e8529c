"""Why a net in int8 is not faster on this CPU than in floating point, as far as its layers and the CPU tell."""

import math

from torch import nn

from zoo.quantize.pt2e import sums_int8_exactly

FULL = 16  # integer kernels for CPUs compute this many channels at once, and pad others


def why_int8_is_slower(net: nn.Module) -> str:
    """Return the likely reason in a sentence: the CPU, the numbers of channels, or conversions. `net` is in floats."""
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    channels = [math.gcd(layer.in_channels // layer.groups, layer.out_channels) for layer in convolutions]
    num_narrow = sum(1 for number in channels[1:] if number % FULL)  # the first has the channels of the image
    if not sums_int8_exactly():
        reason = "this CPU has no VNNI, its instructions for sums of 8-bit products"
    elif num_narrow > len(channels) / 2:
        reason = f"{num_narrow} of {len(channels)} convolutions have channels that are not a multiple of {FULL}"
    else:
        reason = "converting activations to integers and back takes longer than integer kernels save"
    return f"int8 is slower here: {reason}"
