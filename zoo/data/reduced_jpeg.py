"""Decode JPEG files at a fraction of their size, or only down to the bottom of a crop, which takes less time."""

import contextlib
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from zoo.data.jpeg_rows import decode_upper_rows
from zoo.data.read_image import (
    JPEG,
    TURNS,
    content_of,
    decode_jpeg,
    open_header,
    orientation_of,
    upright,
    upright_sides,
)


class OpenJpeg(NamedTuple):
    """An open JPEG file of which only the header was read, as a PIL picture."""

    file: IO[bytes]
    header: Any
    orientation: int

    @property
    def sides(self) -> tuple[int, int]:
        """Return the height and width of the upright picture."""
        return upright_sides(self.header, self.orientation)

    def decoded(self, divisor: int, rectangle: Sequence[float]) -> tuple[Tensor, int]:
        """Return the upright picture, reduced by 1, 2, 4 or 8, and by how much it is; may raise any exception.

        A file that must be turned is reduced only if its sides can be divided: the decoder rounds up, which would shift
        what is turned. If the picture is not reduced, rows below `rectangle` (top, left, height, width), or columns to
        the right of it, may be missing.
        """
        import numpy as np

        if divisor == 1 or (self.orientation in TURNS and any(side % divisor for side in self.sides)):
            return self._down_to(self._num_rows(rectangle)), 1
        self.header.draft("RGB", (self.header.width // divisor, self.header.height // divisor))
        image = torch.from_numpy(np.array(self.header.convert("RGB"))).permute(2, 0, 1)
        return upright(image, self.orientation), divisor

    def _down_to(self, num_rows: int) -> Tensor:
        """Return the upright picture, or at least the first rows of the file."""
        with contextlib.suppress(ValueError):  # torchvision may read it
            picture = decode_upper_rows(content_of(self.file), num_rows, (self.header.height, self.header.width))
            if picture is not None:
                return upright(picture, self.orientation)
        return decode_jpeg(self.file, self.orientation)

    def _num_rows(self, rectangle: Sequence[float]) -> int:
        """Return how many of the file's rows, from the first one on, suffice for a rectangle of the upright picture."""
        top, left, height, width = rectangle
        is_transposed, reversed_ = TURNS.get(self.orientation, (False, []))
        dim, end = (-1, left + width) if is_transposed else (-2, top + height)
        # Without its last rows, what is reversed would be shifted. Interpolation reads pixels around fractions.
        is_whole = dim in reversed_ or any(edge % 1 for edge in rectangle)
        return self.header.height if is_whole else int(end)


def open_jpeg(file: IO[bytes]) -> OpenJpeg | None:
    """Read the header of an open file; None for other formats. May raise any exception if it is not a picture."""
    header = open_header(file)
    return OpenJpeg(file, header, orientation_of(header)) if header.format in JPEG else None
