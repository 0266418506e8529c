"""Small pictures in an HTML page."""

import base64
import io
from collections.abc import Mapping

from torch import Tensor

from zoo.data.image_files import ImageFiles
from zoo.data.read_image import read_picture
from zoo.data.sources import LabelledImages
from zoo.ranges import size_within

MOST_PX = 112  # of the longer side
QUALITY = 80  # of a JPEG

CSS = """
.pictures.grid { gap: .3rem; } .pictures.mean { max-width: 9rem; } .maps .pictures { margin: .2rem 0; }
.pictures figure img { aspect-ratio: 1; object-fit: contain; background: var(--head); }
table.verdicts tbody th { border-bottom-width: 1px; cursor: default; }
td.sentence { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
td.pass { color: var(--good); } td.warn, td.fail { color: var(--bad); font-weight: 600; }
td.look { color: var(--fill); }
"""


def thumbnail(splits: Mapping[str, LabelledImages], row: int) -> str:
    """Return the picture of a row, counted over all splits, as the source of an <img>."""
    for part in splits.values():
        if row < len(part):
            images = part.images
            if isinstance(images, ImageFiles):
                return of_pixels(read_picture(images.paths[row], images.reading.background))
            return of_pixels(images[row])
        row -= len(part)
    raise IndexError(row)


def of_pixels(picture: Tensor) -> str:
    """Return a picture (C, height, width), uint8, as a data URI: a PNG if it is small, else a JPEG of up to 112 px."""
    from torchvision.transforms.v2 import functional as F

    file = io.BytesIO()
    height, width = picture.shape[1:]
    if max(height, width) <= MOST_PX:
        kind = "png"
        F.to_pil_image(picture).save(file, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        sides = size_within((height, width), MOST_PX)
        F.to_pil_image(F.resize(picture, sides, antialias=True)).save(file, format="JPEG", quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
