"""JPEG's loss without its code: batches of images as they are after encoding and decoding (ITU-T T.81, 1992)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from zoo.data.corruption_blurs import padded

BLOCK = 8
TIE = 1e-4  # below which a coefficient of float32 counts as a half
LUMA_TABLE = (  # table K.1
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_START = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # table K.2; 99 elsewhere
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Return uint8 images (N, C, H, W) of 1 or 3 channels as JPEG of this quality (1 to 100) shows them.

    As libjpeg by default: with the colours of RGB images at half the resolution, and interpolated.
    """
    height, width = images.shape[-2:]
    multiple = BLOCK if images.shape[1] == 1 else 2 * BLOCK
    whole = _filled(images.float(), multiple)
    if images.shape[1] == 1:
        out = _coded(whole, _table(quality, chroma=False))
    else:
        matrix = torch.tensor(TO_YCBCR, device=images.device)
        shift = torch.tensor([0.0, 128.0, 128.0], device=images.device)[:, None, None]
        planes = (torch.einsum("dc,nchw->ndhw", matrix, whole) + shift).round()
        luma = _coded(planes[:, :1], _table(quality, chroma=False))
        chroma = _coded(_halved(planes[:, 1:]), _table(quality, chroma=True))
        chroma = chroma[..., : (height + 1) // 2, : (width + 1) // 2]  # without what fills the last blocks
        chroma = _filled(interpolate(chroma, scale_factor=2, mode="bilinear"), multiple)
        back = torch.linalg.inv(matrix.double()).float()
        out = torch.einsum("dc,nchw->ndhw", back, torch.cat([luma, chroma], 1) - shift)
    return out[..., :height, :width].round().clamp(0, 255).to(torch.uint8)


def _halved(planes: Tensor) -> Tensor:
    """Return the means of 2 × 2 px, in whole numbers: quarters are rounded down in even columns, and up in odd ones."""
    bias = torch.arange(planes.shape[-1] // 2, device=planes.device) % 2 + 1
    return ((4 * avg_pool2d(planes, 2) + bias) / 4).floor()


def _filled(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column up to a multiple of a size."""
    height, width = images.shape[-2:]
    most = multiple * max(math.ceil(height / multiple), math.ceil(width / multiple))
    pad = max(most - height, most - width, 0)
    rows, columns = (multiple * math.ceil(size / multiple) for size in (height, width))
    return padded(images, pad, "nearest")[..., pad : pad + rows, pad : pad + columns]


def _table(quality: int, chroma: bool) -> Tensor:
    """Return the divisors (8, 8) of the coefficients for a quality, as the Independent JPEG Group scales them."""
    table = torch.tensor(LUMA_TABLE)
    if chroma:
        table = torch.full_like(table, 99)
        table[:4, :4] = torch.tensor(CHROMA_START)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((table * percent + 50) // 100).clamp(1, 255)


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Return planes (N, C, H, W), 0 to 255, after their blocks' cosine transforms were rounded."""
    num, channels, height, width = planes.shape
    steps = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / BLOCK * (steps + 0.5) * steps[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    cosines, divisors = basis.to(planes), table.to(planes)
    blocks = (planes - 128).view(num, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    coefficients = (cosines @ blocks @ cosines.T) / divisors
    coded = coefficients.sign() * (coefficients.abs() + 0.5 + TIE).floor() * divisors  # halves away from zero
    decoded = (cosines.T @ coded @ cosines).transpose(3, 4).reshape(num, channels, height, width)
    return (decoded + 128).round().clamp(0, 255)
