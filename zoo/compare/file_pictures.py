"""The pictures of a comparison of files, as HTML without external parts: flipped images, and maps over images."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo import escape
from zoo.report.picture_grid import shrunk

MOST_PX = 96  # of the sides of pictures in the page
OPACITY = 0.6  # of a map over its image, as in scripts/explain.py


@dataclass(frozen=True)
class Flip:
    """An image, uint8 (C, H, W), that one of two nets has right: its class, both answers, the other's confidence."""

    pixels: Tensor
    label: str
    first: str
    other: str
    confidence: float


@dataclass(frozen=True)
class MapRow:
    """An image, uint8 (C, H, W), its class and, for each file, a map (H, W) or None, its answer and its confidence."""

    pixels: Tensor
    label: str
    method: str
    cells: list[tuple[Tensor | None, str, float]] = field(default_factory=list)


def as_png(pixels: Tensor) -> str:
    """Return an image, uint8 (C, H, W), as a PNG of at most 96 px in a data URI."""
    from torchvision.transforms.functional import to_pil_image

    file = io.BytesIO()
    to_pil_image(shrunk(pixels[None], MOST_PX)[0]).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def with_map(pixels: Tensor, values: Tensor) -> Tensor:
    """Return an image in gray with a map over it in colour, uint8 (3, H, W): red for the answer, blue against it."""
    from matplotlib import colormaps

    most = float(values.abs().max()) or 1.0
    colours = torch.from_numpy(colormaps["seismic"]((values / most / 2 + 0.5).double().numpy())[..., :3])
    gray = pixels.double().mean(0, keepdim=True) / 255
    mixed = (1 - OPACITY) * gray + OPACITY * colours.permute(2, 0, 1)
    return (255 * mixed).round().to(torch.uint8)


def as_figure(source: str, alt: str, lines: Sequence[str] = (), kind: str = "", hover: str = "") -> str:
    """Return a picture with lines of HTML below it, of a class `kind`; `hover` is shown when the mouse is over it."""
    look = f' class="{kind}"' if kind else ""
    title = f' title="{escape.html(hover)}"' if hover else ""
    caption = f"<figcaption>{'<br>'.join(lines)}</figcaption>" if lines else ""
    return f'<figure{look}><img alt="{escape.html(alt)}"{title} src="{source}">{caption}</figure>'


def flips_as_html(flips: Sequence[Flip]) -> str:
    """Return a grid of flipped images: lost ones with a red edge, then won ones with a green edge."""
    figures = []
    for flip in flips:
        is_lost = flip.first == flip.label
        before, after = escape.html(flip.first), f"{escape.html(flip.other)} {flip.confidence:.0%}"
        lines = [f"<b>{escape.html(flip.label)}</b>", f"{before} → {after}"]
        figures.append(as_figure(as_png(flip.pixels), flip.label, lines, "lost" if is_lost else "won"))
    return f'<div class="pictures">{"".join(figures)}</div>'


def maps_as_html(rows: Sequence[MapRow], names: Sequence[str]) -> str:
    """Return one row per image: the image, then its map for each file that has one, with the file's answer."""
    found = []
    for row in rows:
        figures = [as_figure(as_png(row.pixels), row.label, [f"<b>{escape.html(row.label)}</b>", "the image"])]
        for name, (values, answer, share) in zip(names, row.cells, strict=True):
            kind = "" if answer == row.label else "lost"
            lines = [breakable(name), f"{escape.html(answer)} {share:.0%}"]
            if values is not None:
                figures.append(as_figure(as_png(with_map(row.pixels, values)), f"map of {name}", lines, kind))
        found.append(f'<div class="pictures maps">{"".join(figures)}</div>')
    return f'<div class="rows">{"".join(found)}</div>'


def breakable(name: str) -> str:
    """Escape a file's name for HTML, with places where its line may break."""
    return re.sub(r"([_/.:])", r"\1<wbr>", escape.html(name))
