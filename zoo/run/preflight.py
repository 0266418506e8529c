"""Checks before epoch 1, shown as a table of verdicts: mistakes are cheaper to find now than after a night."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo import escape
from zoo.data.file_checks import names_of
from zoo.data.images import ImageData
from zoo.data.sequences import SequenceData, decode_tokens
from zoo.errors import BadInput
from zoo.files import replacing
from zoo.paths import PREFLIGHT
from zoo.report.plots import CARD_DPI, CARD_INCHES
from zoo.report.verdicts import Verdict, print_verdicts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from zoo.run.preflight_checks import (
    Subject,
    check_differences,
    check_gradients,
    check_initial_loss,
    check_inputs,
    check_outputs,
    check_overfitting,
    check_signal,
    check_splits,
)

NUM_DRAWN, PER_ROW = 24, 4
MOST_LETTERS = 14  # of a class, above an image


def inspect(subject: Subject) -> list[Verdict]:
    """Run all checks in order, stopping at the first failure."""
    verdicts: list[Verdict] = []
    for check in (
        check_outputs,
        check_inputs,
        check_splits,
        check_initial_loss,
        check_signal,
        check_gradients,
        check_differences,
        check_overfitting,
    ):
        verdicts.append(check(subject))
        if verdicts[-1].state == "fail":
            break
    return verdicts


def report(verdicts: Sequence[Verdict]) -> None:
    """Print the table of verdicts; raise BadInput with the sentence of a failed one."""
    print_verdicts("Preflight", verdicts)
    if verdicts[-1].state == "fail":
        raise BadInput(f"preflight, {verdicts[-1].name}: {verdicts[-1].sentence}")


def look_at_examples(subject: Subject, folder: Path) -> tuple[Verdict, "Figure | None"]:
    """Draw augmented training images as the net sees them, titled with their class names, for the user to check."""
    data = subject.data
    if isinstance(data, SequenceData):
        facts, (sources, targets) = data.load(), (part[:3].tolist() for part in subject.samples(NUM_DRAWN))
        read = [" ".join(decode_tokens(source, facts.source_symbols)) for source in sources]
        written = [" ".join(decode_tokens(target[1:], facts.target_symbols)) for target in targets]
        pairs = [" → ".join(pair) for pair in zip(read, written, strict=True)]
        return Verdict("labels", "look", f"do these belong together? {'; '.join(pairs)}"), None
    assert isinstance(data, ImageData)
    usual, facts_of_images = copy.copy(data), data.load()
    usual.batch_size = min(NUM_DRAWN, facts_of_images.num_samples["train"])
    images, labels = next(iter(usual.loader("train", "cpu")))
    mean, std = (torch.tensor(values)[:, None, None] for values in (facts_of_images.mean, facts_of_images.std))
    if labels.is_floating_point() and not subject.task.regression:
        labels = labels.round() if subject.task.multilabel else labels.argmax(1)
    names = names_of(labels.cpu(), facts_of_images.classes)
    figure = draw_examples((images * std + mean) / 255, names)
    with replacing(folder / PREFLIGHT) as file:
        figure.savefig(file, format="png")
    return Verdict("labels", "look", f"do the names in {PREFLIGHT} fit their images?"), figure


def draw_examples(images: Tensor, names: Sequence[str]) -> "Figure":
    """Draw images (N, 1 or 3, height, width) with values in 0…1 in rows of four, each titled with its name."""
    from matplotlib.figure import Figure

    rows = -(-len(images) // PER_ROW)
    figure = Figure(figsize=(CARD_INCHES, 1.35 * CARD_INCHES / PER_ROW * rows), layout="constrained", dpi=CARD_DPI)
    for axes in figure.subplots(rows, PER_ROW, squeeze=False).flat:
        axes.axis("off")
    for axes, image, name in zip(figure.axes, images.clamp(0, 1), names, strict=False):
        axes.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        axes.set_title(escape.label(escape.shortened(name, MOST_LETTERS)), fontsize=9)
    return figure
