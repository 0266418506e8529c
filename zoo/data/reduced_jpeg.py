"""Decode JPEG files at a fraction of their size, which takes less time."""

from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from zoo.data.read_image import JPEG, TURNS, decode_jpeg, open_header, orientation_of, upright, upright_sides


class OpenJpeg(NamedTuple):
    """An open JPEG file of which only the header was read, as a PIL picture."""

    file: IO[bytes]
    header: Any
    orientation: int

    @property
    def sides(self) -> tuple[int, int]:
        """Return the height and width of the upright picture."""
        return upright_sides(self.header, self.orientation)

    def decoded(self, divisor: int) -> tuple[Tensor, int]:
        """Return the upright picture, reduced by 1, 2, 4 or 8, and by how much it is; may raise any exception.

        A file that must be turned is reduced only if its sides can be divided: the decoder rounds up, which would shift
        what is turned.
        """
        import numpy as np

        if divisor == 1 or (self.orientation in TURNS and any(side % divisor for side in self.sides)):
            return decode_jpeg(self.file, self.orientation), 1
        self.header.draft("RGB", (self.header.width // divisor, self.header.height // divisor))
        image = torch.from_numpy(np.array(self.header.convert("RGB"))).permute(2, 0, 1)
        return upright(image, self.orientation), divisor


def open_jpeg(file: IO[bytes]) -> OpenJpeg | None:
    """Read the header of an open file; None for other formats. May raise any exception if it is not a picture."""
    header = open_header(file)
    return OpenJpeg(file, header, orientation_of(header)) if header.format in JPEG else None
