"""How a picture becomes an input of a net in evaluation: opaque, resized, and cropped to its centre."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zoo.errors import BadInput
from zoo.ranges import ImageSize, height_width

Interpolation = Literal["bilinear", "bicubic"]
MARGIN = 256 / 224  # the resized shorter side over the net's input, as in most of torchvision's presets
MOST_TIMES = 4  # that the shorter side may be longer than the net's input


@dataclass(frozen=True)
class Reading:
    """Resize a picture, with antialiasing, so that it just covers `resize` px, and crop the centre `size` px.

    For squares, the shorter side then has `resize` px, as in torchvision's ImageClassification preset. `resize` null is
    `size`, which leaves nothing to crop from one of the sides. Transparent pixels get the colour `background`. With
    `scaled`, random crops of large JPEG files are decoded smaller.
    """

    size: ImageSize
    resize: ImageSize | None = None
    interpolation: Interpolation = "bilinear"
    background: str = "white"
    scaled: bool = True

    def cropped(self, picture: Tensor) -> Tensor:
        """Return a picture (3, height, width), uint8, in the size of the crop."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        resize, crop = self._resized(*picture.shape[-2:]), [*height_width(self.size)]
        if self.interpolation == "bilinear" or picture.device.type != "cpu":
            mode = InterpolationMode(self.interpolation)
            return F.center_crop(F.resize(picture, resize, mode, antialias=True), crop)
        resized = F.resize(F.to_pil_image(picture), resize, InterpolationMode.BICUBIC)
        return F.pil_to_tensor(F.center_crop(resized, crop))  # torch's is up to two grey levels off Pillow's

    def _resized(self, height: int, width: int) -> list[int]:
        """Return the height and width to resize to, with fractions cut off as torchvision does."""
        down, across = height_width(self.resize or self.size)
        if down * width >= across * height:
            return [down, down * width // height]
        return [across * height // width, across]


def resizing_of(settings: Mapping[str, Any]) -> tuple[int, Interpolation]:
    """Return `resize` in px and the interpolation for the `data` of a config: only pictures in files are resized more.

    `resize` is the shorter side of what a resized picture covers; see `covered`.
    """
    if "num_workers" not in settings:
        return min(height_width(settings["image_size"])), "bilinear"
    resize = _resize_of(settings["image_size"], settings.get("resize"))
    return resize, settings.get("interpolation") or "bilinear"


def covered(image_size: ImageSize, resize: int) -> tuple[int, int]:
    """Return the height and width that a resized picture covers: those of `image_size`, the shorter side as `resize`.

    Fractions are cut off, as timm does.
    """
    height, width = height_width(image_size)
    shorter = min(height, width)
    return height * resize // shorter, width * resize // shorter


def reading_for(
    image_size: ImageSize,
    resize: int | None = None,
    interpolation: Interpolation | None = None,
    background: str = "white",
    scaled: bool = True,
) -> Reading:
    """Return how to read pictures for a net that takes `image_size` px; null: 256/224 of that, and bilinear.

    `resize` is the shorter side of what a resized picture covers. More than `image_size` px are kept, for augmentation,
    but so that the centre of what is kept is the preset's crop. Raises BadInput if `resize` is below the shorter side
    of `image_size`, or far above it.
    """
    full = covered(image_size, _resize_of(image_size, resize))
    # Both crops round halves to even, so that two px more on each side fit.
    height, width = (most - (most - side) % 4 for most, side in zip(full, height_width(image_size), strict=True))
    return Reading((height, width), full, interpolation or "bilinear", background, scaled)


def _resize_of(image_size: ImageSize, resize: int | None) -> int:
    shorter = min(height_width(image_size))
    resize = round(shorter * MARGIN) if resize is None else resize
    if not shorter <= resize <= MOST_TIMES * shorter:
        raise BadInput(
            f"data.resize: expected {shorter} to {MOST_TIMES * shorter} px, from the shorter side of data.image_size "
            f"to {MOST_TIMES} times that, got {resize}"
        )
    return resize
