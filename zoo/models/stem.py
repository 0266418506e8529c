"""Which form of a net is built: that of its paper, for large images, or one that reduces small images less."""

from typing import Literal

from zoo.ranges import ImageSize, height_width, plain_size

Stem = Literal["auto", "small", "large"]


def stem_for(
    stem: Stem, image_size: ImageSize, most_small: int, least_large: int = 1, least_small: int = 1
) -> Literal["small", "large"]:
    """Return the form of a net for images of `image_size` px: `stem` or, with auto, small up to `most_small` px.

    Of images that are not square, the shorter side counts. Raises ValueError for a form of a net that reduces these
    images to nothing, as it does below `least_large` or `least_small` px.
    """
    shorter, got = min(height_width(image_size)), plain_size(image_size)
    found = stem if stem != "auto" else "small" if shorter <= most_small else "large"
    if found == "large" and shorter < least_large:
        raise ValueError(f"stem=large needs image_size={least_large} or more, got {got}; use small or auto")
    if found == "small" and shorter < least_small:
        raise ValueError(f"image_size={got} is too small for this net; use at least {least_small} px")
    return found
