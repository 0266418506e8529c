"""Image files that are decoded once, into memory, if there is room."""

import logging
import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from zoo import memory
from zoo.data.image_files import ImageFiles, too_large
from zoo.data.sources import LabelledImages
from zoo.data.whole_pictures import WholePictures
from zoo.errors import BadInput, counted

Cache = Literal["auto", "device", "host", "none"]
log = logging.getLogger("zoo")


def cached(
    splits: Mapping[str, LabelledImages], cache: Cache, whole_px: int | None
) -> tuple[dict[str, LabelledImages], WholePictures | None]:
    """Decode all files in advance, if `cache` says so and there is room, and return the splits with their pixels.

    With `whole_px`, training pictures are kept whole, for random crops, with a shorter side of at most that. They are
    returned in addition to the splits, in which they remain files. Raises BadInput if `cache` asks for too much.
    """
    files = {name: part.images for name, part in splits.items() if isinstance(part.images, ImageFiles)}
    if not files or cache == "none":
        return dict(splits), None
    num_bytes = sum(
        one.num_bytes_whole(whole_px) if whole_px and name == "train" else math.prod(one.shape)
        for name, one in files.items()
    )
    free = memory.available_bytes()
    if cache == "auto" and num_bytes > free / 2:
        return dict(splits), None
    if num_bytes > free:
        raise BadInput(too_large(num_bytes, free))
    num = sum(map(len, files.values()))
    log.info("Decoding %s once, into %.1f GB of memory.", counted(num, "file"), num_bytes / 1e9)
    found, whole = dict(splits), None
    for name, one in files.items():
        images: Tensor | ImageFiles
        if whole_px and name == "train":
            whole, kept = one.whole(whole_px)
            images = one[kept]
        else:
            images, kept = one.decoded()
        found[name] = LabelledImages(images, splits[name].labels[kept])
    return found, whole
