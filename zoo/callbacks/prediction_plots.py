"""Plots of a net's predictions on images."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import escape
from zoo.callbacks.board import Board
from zoo.measure.accuracy import has_nan
from zoo.measure.calibration import calibration
from zoo.report.calibration_plot import draw_calibration
from zoo.report.picture_grid import draw_grid, letters_below, shrunk
from zoo.report.plots import draw_confusion

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NUM_MISTAKES, MISTAKES_PER_ROW, MISTAKE_FONT_PX = 16, 4, 18  # legible at the width of TensorBoard's cards
THUMBNAIL_PX = 32
FRAME = 10  # of an image's side, over the width of its frame
MOST_CURVES = 100  # number of classes, from the first; a longer list is of no use
MOST_DIMENSIONS = 100  # of the embedding, which is written as text; the projector reduces it as well


def show_predictions(
    board: Board, step: int, classes: Sequence[str], logits: Tensor, labels: Tensor, mistakes: dict[str, Any]
) -> None:
    """Show the confusion matrix, the most confident mistakes, and the calibration; TensorBoard sorts them by name."""
    known, num = ~has_nan(logits), len(classes)
    num_nan, logits, labels = int((~known).sum()), logits[known], labels[known]
    matrix = torch.bincount(num * labels + logits.argmax(1), minlength=num * num).view(num, num)
    board.add_picture("with the test set/confusion matrix", draw_confusion(matrix.tolist(), classes, num_nan), step)
    if len(mistakes["labels"]):
        board.add_picture("with the test set/most confident mistakes", draw_mistakes(classes, **mistakes), step)
    if figures := calibration(logits, labels):
        board.add_picture("with the test set/reliability diagram", draw_calibration(figures), step)


def show_curves(writer: "SummaryWriter", step: int, classes: Sequence[str], logits: Tensor, labels: Tensor) -> None:
    """Plot precision and recall of each class in TensorBoard."""
    known = ~has_nan(logits)
    labels, shares = labels[known], logits[known].softmax(1)
    for i, name in enumerate(classes[:MOST_CURVES]):
        writer.add_pr_curve(f"test precision and recall/{escape.tag(name)}", labels == i, shares[:, i], step)


def draw_mistakes(
    classes: Sequence[str], images: Tensor, labels: Tensor, predicted: Tensor, confidence: Tensor
) -> Tensor:
    """Draw uint8 images (N, C, H, W) with true and predicted class below each, as one image (height, width, 3)."""
    most = letters_below(MISTAKE_FONT_PX) - len(" , 100%")
    captions = [
        ((classes[true], "black"), (f"{escape.shortened(classes[answer], most)}, {sure:.0%}", "#c00000"))
        for true, answer, sure in zip(labels, predicted, confidence.tolist(), strict=True)
    ]
    title = "black: true class; red: the net's answer, how sure"
    return draw_grid(images, captions, title, MISTAKES_PER_ROW, MISTAKE_FONT_PX)


def thumbnails(images: Tensor) -> Tensor:
    """Downscale uint8 images (N, C, H, W) for the sprite sheet of the projector."""
    return shrunk(images, THUMBNAIL_PX)


def show_embedding(board: "SummaryWriter", classes: Sequence[str], found: dict[str, Tensor]) -> None:
    """Write the projector's files, replacing those of an earlier test: features with class, prediction, thumbnail."""
    shutil.rmtree(Path(board.log_dir) / "00000", ignore_errors=True)  # else the writer would complain that it exists
    names = [[escape.cell(classes[i]) for i in pair] for pair in zip(found["labels"], found["predicted"], strict=True)]
    board.add_embedding(
        principal_components(found["features"], MOST_DIMENSIONS).double().round(decimals=4),  # fewer digits to write
        metadata=names,
        metadata_header=["class", "taken for"],
        label_img=framed(found["images"], found["labels"], len(classes)),
        tag="penultimate layer",
    )


def framed(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return uint8 images (N, 1 or 3, H, W) as RGB in 0…1 with a frame in the colour of their class.

    The projector itself colours points only after a choice in its menu.
    """
    import numpy as np
    from matplotlib import colormaps

    places = np.arange(num_classes) / max(1, num_classes - 1)
    colours = colormaps["tab10"].colors[:num_classes] if num_classes <= 10 else colormaps["turbo"](places)[:, :3]  # type: ignore[attr-defined]
    frames = torch.tensor(np.array(colours), dtype=torch.float32)[labels][:, :, None, None]
    pixels = (images.float() / 255).expand(-1, 3, -1, -1).clone()
    width = max(1, min(images.shape[-2:]) // FRAME)
    inside = pixels[:, :, width:-width, width:-width].clone()
    pixels[:] = frames
    pixels[:, :, width:-width, width:-width] = inside
    return pixels


def principal_components(features: Tensor, most: int) -> Tensor:
    """Return the first `most` principal components of features (N, D), or the features themselves if D is less."""
    if features.shape[1] <= most:
        return features
    centred = features.double() - features.double().mean(0)
    variances, directions = torch.linalg.eigh(centred @ centred.T)  # of N × N, since D may be thousands
    return (directions * variances.clamp_min(0).sqrt())[:, -most:].flip(1)
