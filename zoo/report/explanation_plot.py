"""A grid of pictures and the maps that explain a net's answers to them, drawn with matplotlib."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from torch import Tensor

from zoo import escape
from zoo.files import replacing, write_json
from zoo.paths import PRODUCT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_INCHES, HEIGHT_TO_WIDTH = 2.2, 1.22
MOST_IN_COLUMN = 4  # pictures; more are drawn in two columns
MOST_LETTERS = 28  # of a file's or a class's name
SIGNED = "gradient × input"  # whose maps have both signs


@dataclass(frozen=True)
class Explained:
    """A picture, uint8 (C, H, W), its class with the probability, and by method its map (H, W) and its two scores."""

    name: str
    picture: Tensor
    answer: str
    probability: float
    maps: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)


def draw_explanations(rows: Sequence[Explained], heading: str) -> "Figure":
    """Draw one row per picture: the picture with its answer, then each map over it in gray, with its scores."""
    from matplotlib.figure import Figure

    methods = list(rows[0].maps)
    side_by_side = 1 if len(rows) <= MOST_IN_COLUMN else 2
    across, down = side_by_side * (1 + len(methods)), -(-len(rows) // side_by_side)
    size = (CELL_INCHES * across, CELL_INCHES * HEIGHT_TO_WIDTH * down + 0.6)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    figure.suptitle(f"{escape.label(heading)}\nbright: matters most; red: for the class, blue: against it", fontsize=9)
    grid = _cells(figure, down, across)
    places = grid.reshape(down * side_by_side, 1 + len(methods))
    for cells, row in zip(places, rows, strict=False):  # the last place may be empty
        _draw_picture(cells[0], row)
        for axes, method in zip(cells[1:], methods, strict=True):
            _draw_map(axes, row, method)
    return figure


def draw_filters(images: Tensor, heading: str) -> "Figure":
    """Draw the images of filters, uint8 (filters, C, H, W), in a square grid with their numbers."""
    from matplotlib.figure import Figure

    side = math.ceil(math.sqrt(len(images)))
    down = -(-len(images) // side)
    figure = Figure(figsize=(1.2 * side + 0.4, 1.4 * down + 0.6), layout="constrained", dpi=110)
    figure.suptitle(escape.label(heading), fontsize=9)
    for number, (axes, image) in enumerate(zip(_cells(figure, down, side).flat, images, strict=False)):
        _show(axes, image)
        axes.set_xlabel(str(number), fontsize=8)
    return figure


def _cells(figure: "Figure", down: int, across: int) -> Any:
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    return grid


def _show(axes: "Axes", picture: Tensor) -> None:
    gray = picture.shape[0] == 1
    axes.imshow(picture[0] if gray else picture.permute(1, 2, 0), cmap="gray", vmin=0, vmax=255)


def _draw_picture(axes: "Axes", row: Explained) -> None:
    _show(axes, row.picture)
    name, answer = (escape.label(escape.shortened(text, MOST_LETTERS)) for text in (row.name, row.answer))
    axes.set_title(f"{answer}, {row.probability:.1%}", fontsize=9)
    axes.set_xlabel(name, fontsize=8)


def _draw_map(axes: "Axes", row: Explained, method: str) -> None:
    values = row.maps[method].double()
    most = float(values.abs().max()) or 1.0
    axes.imshow(row.picture.float().mean(0), cmap="gray", vmin=0, vmax=255)
    colours, low = ("seismic", -most) if method == SIGNED else ("inferno", float(values.min()))
    axes.imshow(values, cmap=colours, vmin=low, vmax=most, alpha=0.6, interpolation="nearest")
    axes.set_title(method, fontsize=9)
    deletion, insertion = row.scores[method]
    axes.set_xlabel(f"deletion {deletion:.2f}, insertion {insertion:.2f}", fontsize=8)


def _stem(what: str, source: str) -> str:
    return what if source == PRODUCT else f"{what}_{source}"


def write_filters(folder: Path, images: Tensor, layer: str, source: str) -> None:
    """Write filters.png, with the images of a layer's filters; `source` is the name of the net's file."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem("filters", source)
    with replacing(folder / f"{stem}.png") as file:
        draw_filters(images, f"{source}: images that activate the filters of {layer} most").savefig(file, format="png")
    escape.console().print(f"Written     {folder}/{stem}.png", soft_wrap=True)


def write_explanations(
    folder: Path, rows: Sequence[Explained], means: Mapping[str, Mapping[str, float]], source: str
) -> None:
    """Write explanation.png and explanation.json, and print the mean scores of each method.

    `source` is the name of the net's file, which is added to theirs unless it is that of a product.
    """
    stem = _stem("explanation", source)
    pictures = [
        {
            "name": row.name,
            "class": row.answer,
            "probability": row.probability,
            "scores": {name: {"deletion": pair[0], "insertion": pair[1]} for name, pair in row.scores.items()},
        }
        for row in rows
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stem}.json", {"source": source, "mean": means, "pictures": pictures})
    with replacing(folder / f"{stem}.png") as file:
        draw_explanations(rows, f"{source}: what its answers depend on").savefig(file, format="png")
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False)
    for column in ("map", "deletion (low is good)", "insertion (high is good)"):
        table.add_column(column, justify="left" if column == "map" else "right")
    for method, scores in means.items():
        table.add_row(method, f"{scores['deletion']:.3f}", f"{scores['insertion']:.3f}")
    console = escape.console()
    console.print(table)
    console.print(f"Written     {folder}/{stem}.png, {stem}.json", soft_wrap=True)
