"""Image files that are decoded once, into memory, if there is room."""

import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from zoo import memory
from zoo.data.image_files import ImageFiles
from zoo.data.image_workers import why_unreadable
from zoo.data.read_image import read_picture, sides_of
from zoo.data.sources import LabelledImages
from zoo.data.whole_pictures import WholePictures, sides_within
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
        estimate_bytes(one, whole_px) if whole_px and name == "train" else math.prod(one.shape)
        for name, one in files.items()
    )
    free = memory.available_bytes()
    if cache == "auto" and num_bytes > free / 2:
        return dict(splits), None
    if num_bytes > free:
        raise BadInput(_too_large(num_bytes, free))
    num = sum(map(len, files.values()))
    log.info("Decoding %s once, into %.1f GB of memory.", counted(num, "file"), num_bytes / 1e9)
    found, whole = dict(splits), None
    for name, one in files.items():
        images: Tensor | ImageFiles
        if whole_px and name == "train":
            whole, kept = whole_pictures(one, whole_px)
            images = one[kept]
        else:
            images, kept = one.decoded()
        found[name] = LabelledImages(images, splits[name].labels[kept])
    return found, whole


def estimate_bytes(files: ImageFiles, most: int) -> int:
    """Estimate the bytes of all pictures, shorter sides reduced to at most `most` px, from up to 500 headers."""
    shapes = sides_within(_sides(files[files.sample()]), most)
    return math.ceil(3 * len(files) * float(shapes.prod(1).double().mean()))


def whole_pictures(files: ImageFiles, most: int) -> tuple[WholePictures, Tensor]:
    """Decode all pictures, shorter sides reduced to at most `most` px; also return their numbers.

    Raises BadInput if they do not fit into memory.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    sides = _sides(files)
    shapes = sides_within(sides, most)
    if (num_bytes := 3 * int(shapes.prod(1).sum())) > (free := memory.available_bytes()):
        raise BadInput(_too_large(num_bytes, free))
    kept = WholePictures.unfilled(shapes, sides, files.interpolation)
    places, declared = list(kept), sides.tolist()

    def read(i: int) -> None:
        picture = read_picture(files.paths[i], files.reading.background)
        if list(picture.shape[1:]) != declared[i]:
            raise ValueError("it has another size than its header declares")
        if picture.shape != places[i].shape:  # with bicubic interpolation, since crops are resized a second time
            picture = F.resize(picture, places[i].shape[1:], InterpolationMode.BICUBIC, antialias=True)
        places[i].copy_(picture)

    readable = files.each(read)
    return kept[readable], readable


def _sides(files: ImageFiles) -> Tensor:
    """Return (N, 2) int64: upright heights and widths from the headers, in threads; 0 for unreadable files."""

    def sides(path: str) -> tuple[int, int]:
        try:
            return sides_of(path)
        except Exception as error:
            why_unreadable(error)
            return 0, 0

    with ThreadPoolExecutor() as pool:
        return torch.tensor(list(pool.map(sides, files.paths)), dtype=torch.int64).view(-1, 2)


def _too_large(num_bytes: int, free: int) -> str:
    """Return the sentence for a cache that does not fit into memory."""
    return (
        f"data.cache: the images take {num_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB of memory are free; use "
        "data.cache=none to read them on demand, or fewer px in data.cache_px"
    )
