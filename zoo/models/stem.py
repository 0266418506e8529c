"""Which form of a net is built: that of its paper, for large images, or one that reduces small images less."""

from typing import Literal

from zoo.ranges import ImageSize, height_width, plain_size

Stem = Literal["auto", "small", "large"]


def stem_for(stem: Stem, image_size: ImageSize, most_small: int, least_large: int = 1) -> Literal["small", "large"]:
    """Return the form of a net for images of `image_size` px: `stem` or, with auto, small up to `most_small` px.

    Of images that are not square, the shorter side counts. Raises ValueError for the large form of a net that reduces
    images below `least_large` px to nothing.
    """
    shorter = min(height_width(image_size))
    found = stem if stem != "auto" else "small" if shorter <= most_small else "large"
    if found == "large" and shorter < least_large:
        got = plain_size(image_size)
        raise ValueError(f"stem=large needs image_size={least_large} or more, got {got}; use small or auto")
    return found
