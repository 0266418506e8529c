"""How a picture becomes an input of a net in evaluation: opaque, resized, and cropped to its centre."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zoo.errors import BadInput

Interpolation = Literal["bilinear", "bicubic"]
MARGIN = 256 / 224  # the resized shorter side over the net's input, as in most of torchvision's presets
MOST_TIMES = 4  # that the shorter side may be longer than the net's input


@dataclass(frozen=True)
class Reading:
    """Resize a picture's shorter side to `resize` px, with antialiasing, and crop the centre `size` px.

    As torchvision's ImageClassification preset does; `resize` null leaves nothing to crop from the shorter side.
    Transparent pixels get the colour `background`. With `scaled`, random crops of large JPEG files are decoded smaller.
    """

    size: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    background: str = "white"
    scaled: bool = True

    def square(self, picture: Tensor) -> Tensor:
        """Return a picture (3, height, width), uint8, as (3, size, size)."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        resize, crop = [self.resize or self.size], [self.size, self.size]
        if self.interpolation == "bilinear" or picture.device.type != "cpu":
            mode = InterpolationMode(self.interpolation)
            return F.center_crop(F.resize(picture, resize, mode, antialias=True), crop)
        resized = F.resize(F.to_pil_image(picture), resize, InterpolationMode.BICUBIC)
        return F.pil_to_tensor(F.center_crop(resized, crop))  # torch's is up to two grey levels off Pillow's


def resizing_of(settings: Mapping[str, Any]) -> tuple[int, Interpolation]:
    """Return the shorter side in px and the interpolation for the `data` of a config: only folders are resized more."""
    size: int = settings["image_size"]
    if "num_workers" not in settings:
        return size, "bilinear"
    reading = reading_for(size, settings.get("resize"), settings.get("interpolation"))
    return reading.resize or size, reading.interpolation


def reading_for(
    image_size: int,
    resize: int | None = None,
    interpolation: Interpolation | None = None,
    background: str = "white",
    scaled: bool = True,
) -> Reading:
    """Return how to read pictures for a net that takes `image_size` px; null: 256/224 of that, and bilinear.

    More than `image_size` px are kept, for augmentation, but so that the centre of what is kept is the preset's crop.
    Raises BadInput if `resize` is below `image_size`, or far above it.
    """
    resize = round(image_size * MARGIN) if resize is None else resize
    if not image_size <= resize <= MOST_TIMES * image_size:
        raise BadInput(
            f"data.resize: expected {image_size} to {MOST_TIMES * image_size} px, from data.image_size to "
            f"{MOST_TIMES} times that, got {resize}"
        )
    kept = resize - (resize - image_size) % 4  # both crops round halves to even, so that two px more on each side fit
    return Reading(kept, resize, interpolation or "bilinear", background, scaled)
