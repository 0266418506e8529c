"""Plots of layers: filters of the first convolution, and update-to-weight ratios."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo import escape
from zoo.measure.diagnosis import Row
from zoo.report.plots import CARD_DPI, CARD_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LAYERS_NAMED = 8  # in the legend of a plot
RULE_OF_THUMB = 1e-3  # update to weight (Karpathy, CS231n)
LEAST_FILTER_PX = 40  # side of a filter in the picture


def first_filters(net: nn.Module) -> tuple[str, Tensor] | None:
    """Return name and weights of the net's first convolution, if it has 1 or 3 input channels."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            return (name, module.weight.detach()) if module.weight.shape[1] in (1, 3) else None
    return None


def draw_filters(weight: Tensor) -> Tensor:
    """Tile filters (N, 1 or 3, k, k) into pixels (height, width, 3), uint8: 0 is grey, the maximum white."""
    tiles = 0.5 + weight.float() / (2 * weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30))
    zoom = -(-LEAST_FILTER_PX // weight.shape[-1])
    tiles = nn.functional.pad(tiles.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3), (2, 2, 2, 2), value=1.0)
    columns = math.ceil(math.sqrt(len(tiles)))
    tiles = torch.cat([tiles, tiles.new_ones(-len(tiles) % columns, *tiles.shape[1:])])
    rows = tiles.unflatten(0, (-1, columns))  # rows × columns × C × H × W
    image = rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2).expand(3, -1, -1)
    return (255 * image).to(torch.uint8).permute(1, 2, 0).contiguous().cpu()


def draw_update_ratios(rows: Sequence[Row]) -> "Figure":
    """Plot the update-to-weight ratio of each layer over the epochs, and the rule of thumb."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = list(dict.fromkeys(name for row in rows for name in row["update_ratio"]))
    figure = Figure(figsize=(CARD_INCHES, CARD_INCHES), layout="constrained", dpi=CARD_DPI)
    axes = figure.add_subplot()
    for i, name in enumerate(layers):
        points = [(epoch, row["update_ratio"].get(name, math.nan)) for epoch, row in enumerate(rows, 1)]
        axes.plot(
            *zip(*points, strict=True), color=_colour(i / max(1, len(layers) - 1)), marker=".", label=escape.label(name)
        )
    rule = f"rule of thumb: {RULE_OF_THUMB:g}"
    axes.axhline(RULE_OF_THUMB, color="black", linestyle="--", label=rule)
    axes.set(yscale="log", xlabel="epoch", ylabel="update / weight (norms)")
    axes.set_title("update of each layer per step,\nfrom the first layer (dark) to the last", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(layers) <= MOST_LAYERS_NAMED:
        axes.legend(loc="best", fontsize=9, framealpha=0.7)
    else:
        axes.text(0.01, RULE_OF_THUMB, rule, va="bottom", fontsize=9, transform=axes.get_yaxis_transform())
    return figure


def _colour(place: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.88 * place)
