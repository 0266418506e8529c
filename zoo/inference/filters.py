"""Draw the images that activate the filters of a layer most, by gradient ascent from noise.

Erhan, Bengio, Courville, Vincent, "Visualizing higher-layer features of a deep network", 2009; Olah, Mordvintsev,
Schubert, "Feature visualization", 2017, for Fourier coefficients and moves.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput, choices
from zoo.ranges import ImageSize, height_width

MOST_FILTERS = 36  # in a grid that can be read
NUM_STEPS, RATE = 100, 0.05  # of Adam
NOISE = 0.01  # deviation of the first coefficients
MOVES = 16  # an image is moved by up to its side over this in each step


def convolution(net: nn.Module, name: str) -> str:
    """Return the name of a convolution, `last` being the last one; raise BadInput for a name of none."""
    layers = [key for key, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise BadInput("filters: this net has no convolutions")
    if name not in ("last", *layers):
        raise BadInput(f"filters={name[:80]}: expected last or a convolution of this net; {choices(name[:80], layers)}")
    return layers[-1] if name == "last" else name


def maximal_images(net: nn.Module, layer: str, facts: Mapping[str, Any], size: ImageSize, seed: int = 0) -> Tensor:
    """Return one image per filter of a layer, uint8 (filters, C, H, W), whose mean activation is large.

    Adam ascends from noise, whose numbers depend on the seed. What it changes are the Fourier coefficients of the
    image, in units that fall with their frequency, so that low frequencies come first; the image is moved by some
    pixels in each step. `facts` has mean and std per channel. At most 36 filters, the first, are drawn.
    """
    device = next(net.parameters()).device
    mean, std = (torch.tensor(facts[name], device=device)[:, None, None] for name in ("mean", "std"))
    draw, (height, width) = torch.Generator().manual_seed(seed), height_width(size)
    num = min(MOST_FILTERS, _activations(net, layer, torch.zeros(1, len(mean), height, width, device=device)).shape[1])
    noise = NOISE * torch.randn(num, len(mean), height, width // 2 + 1, 2, generator=draw)
    coefficients = noise.to(device).requires_grad_()
    units = (max(height, width) / _frequencies(height, width).clamp_min(1)).to(device)

    def images() -> Tensor:
        waves = torch.view_as_complex(coefficients) * units
        return (255 * torch.fft.irfft2(waves, s=(height, width), norm="ortho").sigmoid() - mean) / std

    optimizer = torch.optim.Adam([coefficients], RATE)
    most = max(1, min(height, width) // MOVES)
    for _ in range(NUM_STEPS):
        moves = torch.randint(-most, most + 1, (2,), generator=draw).tolist()
        (coefficients.grad,) = torch.autograd.grad(-_own(net, layer, images().roll(moves, (2, 3))).sum(), coefficients)
        optimizer.step()
    return (images().detach() * std + mean).round().clamp(0, 255).to(torch.uint8).cpu()


def _frequencies(height: int, width: int) -> Tensor:
    """Return the frequency of each Fourier coefficient, in waves per longer side: (height, width // 2 + 1)."""
    longer = max(height, width)
    down, right = torch.fft.fftfreq(height, 1 / longer), torch.fft.rfftfreq(width, 1 / longer)
    return torch.hypot(down[:, None], right)


def _own(net: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the mean activation of the i-th filter for the i-th image: (filters,); negative ones count a tenth.

    Otherwise the two sides of an edge would cancel, and a first layer would like images of a single gray most.
    """
    own = _activations(net, layer, images).diagonal(dim1=0, dim2=1).flatten(0, -2)
    return nn.functional.leaky_relu(own, 0.1).mean(0)


def _activations(net: nn.Module, layer: str, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    try:
        net(images)
    finally:
        hook.remove()
    return kept[-1]
