"""What a run is shown in, such as TensorBoard: scalars, pictures and texts, under the same names in all."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from zoo import escape
from zoo.report.settings_row import MAIN_COLUMNS, is_main, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST = ("train/loss", "train/accuracy")  # of training; the rest of it is shown further down
SINGLE = ("test/", "packed/")  # groups of single values, which are no curves
DIAGNOSTICS = "zoo diagnostics"  # the last group; each name in it starts with what is measured


def board_tag(metric: str) -> str | None:
    """Return the name under which a metric is shown, or None for single values and the number of the epoch.

    TensorBoard sorts names: `train/` and `val/`, then `while compressing/`, `while training/` (learning rate, gradient
    norm, speed), `with the result/`, `with the result, more/`, `with the test set/`, and last `zoo diagnostics/`. In
    metrics.csv, all metrics have their own names.
    """
    group, _, name = metric.rpartition("/")
    if metric == "epoch" or metric.startswith(SINGLE):
        return None
    if group == "compress":
        return f"while compressing/{name}"
    return f"while training/{name}" if group in ("", "train") and metric not in FIRST else metric


def result_tag(metric: str) -> str:
    """Return the tag of a metric of a result, which is the same in all runs, as TensorBoard's HParams table needs."""
    return f"with the result/{metric}" if is_main(metric) else f"with the result, more/{metric}"


class Board(Logger):
    """A logger that also shows pictures and texts; a subclass writes them, and sees names and values as shown.

    When a run is resumed, a board continues what it wrote for the same run folder, as far as its library can.
    """

    @property
    def name(self) -> str | None:
        return None

    @property
    def version(self) -> str | int | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Show the metrics that are curves, under the names of `board_tag`."""
        self.add_scalars({tag: float(value) for name, value in metrics.items() if (tag := board_tag(name))}, step or 0)

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Show the settings of a result, its metrics as scalars of one point, and all of them as text."""
        found = metrics or {}
        self.add_settings(params, found)
        self.add_scalars({result_tag(name): value for name, value in found.items()}, step or 0)
        first = {name: params[name] for name in MAIN_COLUMNS if name in params}
        shown = {name: rounded(value) for name, value in {**first, **found, **params}.items()}
        rows = [f"| {escape.markdown(name)} | {escape.markdown(value)} |" for name, value in shown.items()]
        self.add_text("result", "\n".join([*rows[:1], "|---|---|", *rows[1:]]), step or 0)

    def add_settings(self, settings: Mapping[str, str | float], metrics: Mapping[str, float]) -> None:
        """Show settings by which runs are compared; `metrics` are the result's, which are also written as scalars."""
        raise NotImplementedError

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Show one point of each curve, by its name."""
        raise NotImplementedError

    def add_picture(self, name: str, picture: "Figure | Tensor", step: int) -> None:
        """Show a figure, or pixels (height, width, 3), uint8."""
        self.add_pixels(name, picture.numpy() if isinstance(picture, Tensor) else drawn(picture), step)

    def add_pixels(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Show a picture (height, width, 3), uint8."""
        raise NotImplementedError

    def add_text(self, name: str, text: str, step: int) -> None:
        """Show a text in Markdown."""
        raise NotImplementedError

    def close(self) -> None:
        """Write everything out at the end of a run, after which nothing is logged."""


def boards(trainer: lightning.Trainer) -> list[Board]:
    """Return the boards of a run; none if only metrics.csv is written, or in any process but the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, Board)]


def drawn(figure: "Figure") -> np.ndarray:
    """Draw a figure as pixels (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
