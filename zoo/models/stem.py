"""Which form of a net is built: that of its paper, for large images, or one that reduces small images less."""

from typing import Literal

Stem = Literal["auto", "small", "large"]


def stem_for(stem: Stem, image_size: int, most_small: int, least_large: int = 1) -> Literal["small", "large"]:
    """Return the form of a net for images of `image_size` px: `stem` or, with auto, small up to `most_small` px.

    Raises ValueError for the large form of a net that reduces images below `least_large` px to nothing.
    """
    found = stem if stem != "auto" else "small" if image_size <= most_small else "large"
    if found == "large" and image_size < least_large:
        raise ValueError(f"stem=large needs image_size={least_large} or more, got {image_size}; use small or auto")
    return found
