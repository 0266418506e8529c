"""Attention maps of sequence nets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch import Tensor

from zoo import escape
from zoo.callbacks.board import boards
from zoo.report.plots import CARD_DPI, CARD_INCHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AttentionMaps(lightning.Callback):
    """Plot, after each validation, how each output symbol attends to the input symbols.

    `sources` are fixed texts, so that the plots of all epochs can be compared; by default, three validation sources of
    medium length. Each plot has one map per layer: the mean over its heads.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self.sources = list(sources)

    @torch.no_grad()
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.sanity_checking or not boards(trainer):
            return
        for text in self.sources or data.usual_sources(3):
            source = data.encode(text).to(task.device)
            target = data.opened(task.decode(task.net, source))
            maps = task.net.alignments(source, target)[0].float().mean(1)  # layers × T × S
            read, written = data.names(source, target)
            figure = draw_maps(maps.cpu(), read, written, text)
            for board in boards(trainer):
                board.add_picture(f"with attention/{escape.tag(text)}", figure, trainer.global_step - 1)


def draw_maps(maps: Tensor, read: Sequence[str], written: Sequence[str], title: str) -> "Figure":
    """Plot maps (layers, written, read) above each other, with one row per output symbol."""
    from matplotlib.figure import Figure

    width, height = 0.36 * len(read) + 1.2, 0.36 * len(written) + 1.3
    figure = Figure(figsize=(max(width, CARD_INCHES), len(maps) * height), layout="constrained", dpi=CARD_DPI)
    for i, (axes, shares) in enumerate(zip(figure.subplots(len(maps), squeeze=False)[:, 0], maps, strict=True), 1):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(len(read)), map(escape.label, read))
        axes.set_yticks(range(len(written)), map(escape.label, written))
        axes.set_title(f"decoder layer {i}" if len(maps) > 1 else "attention", fontsize=10)
        axes.set(xlabel="read", ylabel="written")
        axes.xaxis.set_ticks_position("top")
    figure.suptitle(f"{escape.label(title)}:\nattention of each output symbol to the input", fontsize=11)
    return figure
