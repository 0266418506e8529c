"""Random crops of whole pictures, read from files or kept in memory."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.data import geometry
from zoo.data.augment import Cut
from zoo.data.picture_parts import open_picture
from zoo.data.read_image import read_picture
from zoo.data.reading import Interpolation, Reading
from zoo.data.reduced_jpeg import OpenJpeg, open_jpeg
from zoo.ranges import ImageSize, height_width

# A crop from a smaller decoding of a JPEG file keeps at least this multiple of its final side. Of photographs, nine of
# ten pixels are then within one grey level of the same crop of the whole file.
ENOUGH = 2
DIVISORS = (8, 4, 2)  # of libjpeg

Draw = list[float]  # a crop's random numbers for one picture


@dataclass(frozen=True)
class PictureCrop:
    """Crop a random rectangle of each whole picture, and resize it to `size` px with antialiasing."""

    cut: Cut
    size: ImageSize
    interpolation: Interpolation = "bilinear"

    def of_picture(self, picture: Tensor, draw: Draw) -> Tensor:
        """Crop a picture (3, height, width) to one of `size` px, using NUM_DRAWS numbers."""
        return self._resized(picture, self.rectangles([draw], [picture.shape[-2:]])[:, 0].tolist())

    def of_file(self, path: str, draw: Draw, reading: Reading) -> Tensor:
        """Read a file and crop it; a large JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, where that is enough.

        May raise any exception if the file is not a picture.
        """
        with open_picture(path) as file, contextlib.suppress(RuntimeError):  # Pillow may support this kind
            if (jpeg := open_jpeg(file)) is not None:
                return self.of_jpeg(jpeg, self.rectangles([draw], [jpeg.sides])[:, 0].tolist(), reading)
        return self.of_picture(read_picture(path, reading.background), draw)

    def of_jpeg(self, jpeg: OpenJpeg, rectangle: Sequence[float], reading: Reading) -> Tensor:
        """Decode an open JPEG file, as `of_file` does, and crop a rectangle of it: top, left, height and width."""
        picture, divisor = jpeg.decoded(self.divisor(*rectangle[2:]) if reading.scaled else 1, rectangle)
        return self._resized(picture, [edge / divisor for edge in rectangle])

    def of_kept(self, pictures: "WholePictures", draw: Tensor) -> Tensor:
        """Crop pictures from memory to a tensor (n, 3, *size), given (NUM_DRAWS, n) numbers on the CPU."""
        rectangles = torch.stack(self.cut.rectangles(draw, *pictures.sides.T))
        rectangles = rectangles * (pictures.shapes / pictures.sides).T.repeat(2, 1)
        each = zip(pictures, rectangles.T.tolist(), strict=True)
        return geometry.stacked([self._resized(one, its) for one, its in each])

    def divisor(self, height: float, width: float) -> int:
        """Return by how much a picture may be reduced before a rectangle of this size is cropped: 1, 2, 4 or 8."""
        down, across = height_width(self.size)
        room = min(height / (ENOUGH * down), width / (ENOUGH * across))
        return next((divisor for divisor in DIVISORS if room >= divisor), 1)

    def rectangles(self, draws: Sequence[Draw], sides: Sequence[Sequence[int]]) -> Tensor:
        """Return top, left, height and width (4, n) of the crops of pictures with these heights and widths."""
        return torch.stack(self.cut.rectangles(torch.tensor(draws).T, *torch.tensor(sides).T))

    def _resized(self, picture: Tensor, rectangle: Sequence[float]) -> Tensor:
        return geometry.antialiased_crop(picture, rectangle, self.size, self.interpolation)


@dataclass(frozen=True)
class WholePictures:
    """Pictures of different sizes in one tensor; used in place of a tensor (N, 3, H, W) where each is cropped.

    `pixels` are uint8, channels last, and may be on a device; all else is on the CPU: `shapes` (N, 2) are heights and
    widths, `sides` (N, 2) those of the files, and `starts` (N,) the places of the first pixels.
    """

    pixels: Tensor
    starts: Tensor
    shapes: Tensor
    sides: Tensor
    interpolation: Interpolation = "bilinear"

    @classmethod
    def unfilled(cls, shapes: Tensor, sides: Tensor, interpolation: Interpolation) -> "WholePictures":
        """Return pictures whose pixels are not set yet."""
        sizes = 3 * shapes.prod(1)
        pixels = torch.empty(int(sizes.sum()), dtype=torch.uint8)
        return cls(pixels, sizes.cumsum(0) - sizes, shapes, sides, interpolation)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each picture as a view (3, height, width)."""
        for start, (height, width) in zip(self.starts.tolist(), self.shapes.tolist(), strict=True):
            yield self.pixels[start : start + 3 * height * width].view(height, width, 3).permute(2, 0, 1)

    def __getitem__(self, index: Tensor) -> "WholePictures":
        """Return some of the pictures, which share the memory of all."""
        return replace(self, starts=self.starts[index], shapes=self.shapes[index], sides=self.sides[index])

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def numel(self) -> int:
        return self.pixels.numel()

    def to(self, device: torch.device, non_blocking: bool = False) -> "WholePictures":
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pinned(self) -> "WholePictures":
        """Return a copy that takes no more memory than its pictures, in memory that can be copied asynchronously."""
        copy = self.unfilled(self.shapes, self.sides, self.interpolation)
        copy = replace(copy, pixels=copy.pixels.pin_memory())
        for to, picture in zip(copy, self, strict=True):
            to.copy_(picture)
        return copy

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        self.pixels.record_stream(stream)


def sides_within(sides: Tensor, most: int) -> Tensor:
    """Return heights and widths (N, 2) of pictures whose shorter side is reduced to at most `most` px."""
    shorter = sides.amin(1, keepdim=True).clamp_min(1)
    return torch.where(shorter > most, sides * most // shorter, sides)
