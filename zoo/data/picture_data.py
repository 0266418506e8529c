"""Pictures in files, whichever way they are listed: how they are read, by how many processes, and with what colour."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from zoo import distributed
from zoo.data.image_files import Decoder
from zoo.data.images import ImageData
from zoo.data.reading import Interpolation, reading_for
from zoo.data.sources import ImageSource
from zoo.errors import BadInput
from zoo.ranges import Count, ImageSize, Index

MOST_PER_CORE = 8  # worker processes; on slow disks they wait more than they compute
log = logging.getLogger("zoo")


class PictureData(ImageData):
    """Read pictures from files, resized and cropped to the centre `image_size` px; subclasses list the files.

    `image_size` is the side of a square, or a height and a width. Pictures are resized so that they just cover a
    rectangle of this shape, whose shorter side has `resize` px, by default 256/224 of the crop's, with `interpolation`,
    by default bilinear; random crops are cut from whole pictures instead, with the same interpolation. With
    `scaled_decoding`, large JPEG files are decoded smaller for them, to no less than twice the crop's size. All other
    arguments are those of ImageData; with `num_classes` null, classes are counted. Images that do not fit into memory
    (`cache`) are decoded each time by `num_workers` processes, by default one per CPU core available to this process;
    on CUDA, `decoder="cuda"` decodes JPEG files on the GPU. Transparent pixels get the colour `background`, a name or
    #rrggbb.

    `source` also takes `image_size`, `num_workers`, `decoder` and `reading`, by name.
    """

    def __init__(
        self,
        *,
        source: Callable[..., ImageSource],
        image_size: ImageSize = 224,
        resize: Count | None = None,
        interpolation: Interpolation | None = None,
        num_workers: Index | None = None,
        decoder: Decoder = "cpu",
        scaled_decoding: bool = True,
        background: str = "white",
        **settings: Any,
    ) -> None:
        check_colour(background)
        each = max(1, distributed.num_cores() // distributed.local_world_size())
        workers = each if num_workers is None else num_workers
        if workers > MOST_PER_CORE * each:
            raise BadInput(
                f"data.num_workers={workers}: expected at most {MOST_PER_CORE * each}, {MOST_PER_CORE} for each CPU "
                f"core; available to this process: {each}"
            )
        if decoder == "cuda" and not torch.cuda.is_available():
            log.warning("data.decoder=cuda needs a CUDA device, but none is available; worker processes decode.")
        reading = reading_for(image_size, resize, interpolation, background, scaled_decoding)
        listed = functools.partial(source, image_size=image_size, num_workers=workers, decoder=decoder, reading=reading)
        super().__init__(source=listed, image_size=image_size, **settings)


class SplitPictures(PictureData):
    """Read pictures that may have their own validation split; without, `num_validation` or `folds` must be set."""

    def __init__(self, *, num_validation: Index = 0, folds: Count | None = None, **settings: Any) -> None:
        self.needs_validation = not num_validation and not folds
        super().__init__(num_validation=num_validation, folds=folds, **settings)

    def _check(self, source: ImageSource) -> None:
        super()._check(source)
        if source.val is None and self.needs_validation:
            raise BadInput(
                "data.num_validation=0: these data have no validation pictures, so expected at least 1; they select "
                "the epoch"
            )


def check_colour(name: object) -> None:
    """Raise BadInput unless `name` is an opaque colour that Pillow knows."""
    from PIL import ImageColor

    try:
        colour = ImageColor.getrgb(str(name))
        if len(colour) == 3 and all(0 <= level <= 255 for level in colour):
            return
    except ValueError:
        pass
    raise BadInput(f"data.background: expected a colour such as white or '#808080', got '{name}'")
