"""Pictures in a grid, each with two lines of text below it, drawn with Pillow."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo import escape
from zoo.ranges import size_within

COLUMNS = 5
TILE_PX, CAPTION_PX, FONT_PX = 150, 44, 14
MOST_LETTERS = 19  # of a line, which fit below a picture
Line = tuple[str, str]  # a text and its colour


def shrunk(images: Tensor, most: int) -> Tensor:
    """Return uint8 images (N, C, H, W) with the longer side reduced to at most `most` px, by area."""
    if max(images.shape[-2:]) <= most:
        return images
    small = nn.functional.interpolate(images.float(), size_within(images.shape[-2:], most), mode="area")
    return small.round().to(torch.uint8)


def draw_grid(images: Tensor, captions: Sequence[tuple[Line, Line]]) -> Tensor:
    """Draw uint8 images (N, 1 or 3, H, W), five per row, as one image (height, width, 3); long lines are cut off."""
    import numpy as np
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import Image, ImageDraw, ImageFont
    from torchvision.transforms.functional import to_pil_image

    file = findfont(FontProperties())
    rows, font = -(-len(images) // COLUMNS), ImageFont.truetype(file, FONT_PX)
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, rows * (TILE_PX + CAPTION_PX)), "white")
    draw, side = ImageDraw.Draw(sheet), TILE_PX - 10
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = i % COLUMNS * TILE_PX + 5, i // COLUMNS * (TILE_PX + CAPTION_PX) + 5
        picture = to_pil_image(image).convert("RGB")
        width, height = (max(1, round(side * one / max(picture.size))) for one in picture.size)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x, y))
        for place, (text, colour) in enumerate(caption):
            shown = escape.shortened(escape.spelled(text, file), MOST_LETTERS)
            draw.text((x, y + side + 2 + place * (FONT_PX + 2)), shown, colour, font)
    return torch.from_numpy(np.array(sheet))
