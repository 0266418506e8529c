"""Pictures in a grid, each with two lines of text below it, drawn with Pillow."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo import escape
from zoo.ranges import size_within

COLUMNS = 5
TILE_PX, FONT_PX = 150, 14
LETTER = 0.56  # of the size of a font, the mean width of a letter
Line = tuple[str, str]  # a text and its colour


def shrunk(images: Tensor, most: int) -> Tensor:
    """Return uint8 images (N, C, H, W) with the longer side reduced to at most `most` px, by area."""
    if max(images.shape[-2:]) <= most:
        return images
    small = nn.functional.interpolate(images.float(), size_within(images.shape[-2:], most), mode="area")
    return small.round().to(torch.uint8)


def draw_grid(
    images: Tensor,
    captions: Sequence[tuple[Line, Line]],
    title: str = "",
    columns: int = COLUMNS,
    font_px: int = FONT_PX,
) -> Tensor:
    """Draw uint8 images (N, 1 or 3, H, W), `columns` per row, as one image (height, width, 3).

    Long lines are cut off; a title, if any, is one line above all.
    """
    import numpy as np
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import Image, ImageDraw, ImageFont
    from torchvision.transforms.functional import to_pil_image

    file = findfont(FontProperties())
    rows, font, line_px = -(-len(images) // columns), ImageFont.truetype(file, font_px), font_px + 2
    top, height_px = (line_px + 8 if title else 0), TILE_PX + 2 * line_px + 12
    sheet = Image.new("RGB", (columns * TILE_PX, top + rows * height_px), "white")
    draw, side = ImageDraw.Draw(sheet), TILE_PX - 10
    draw.text((5, 5), title, "black", font)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = i % columns * TILE_PX + 5, top + i // columns * height_px + 5
        picture = to_pil_image(image).convert("RGB")
        width, height = (max(1, round(side * one / max(picture.size))) for one in picture.size)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x, y))
        for place, (text, colour) in enumerate(caption):
            shown = escape.shortened(escape.spelled(text, file), letters_below(font_px))
            draw.text((x, y + side + 2 + place * line_px), shown, colour, font)
    return torch.from_numpy(np.array(sheet))


def letters_below(font_px: int) -> int:
    """Return how many letters of a line fit below a picture."""
    return round(TILE_PX / (LETTER * font_px))
