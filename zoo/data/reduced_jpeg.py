"""Decode JPEG files at a fraction of their size, which takes less time."""

import contextlib
import io
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.data.read_image import TURNS, read_jpeg, read_picture, upright, upright_sides


def read_reduced(
    path: str, background: str, divisor_for: Callable[[int, int], int]
) -> tuple[Tensor, tuple[int, int], int]:
    """Read a picture as `read_picture` does; return it, its upright height and width, and by how much it is reduced.

    `divisor_for` takes this height and width of a JPEG file, and returns 1, 2, 4 or 8. A file that must be turned is
    reduced only if its sides can be divided: the decoder rounds up, which would shift what is turned.
    """
    import numpy as np
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    if (jpeg := read_jpeg(path)) is not None:
        content, orientation = jpeg
        with Image.open(io.BytesIO(content.numpy().tobytes()), formats=["JPEG"]) as picture:
            sides = upright_sides(picture, orientation)
            divisor = divisor_for(*sides)
            shifted = orientation in TURNS and any(side % divisor for side in sides)
            if divisor > 1 and not shifted:
                picture.draft("RGB", (picture.width // divisor, picture.height // divisor))
                image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
                return upright(image, orientation), sides, divisor
        with contextlib.suppress(RuntimeError):  # Pillow, in `read_picture`, may support this kind
            return upright(decode_jpeg(content, ImageReadMode.RGB), orientation), sides, 1
    image = read_picture(path, background)
    return image, (image.shape[1], image.shape[2]), 1
