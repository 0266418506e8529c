"""The terminal output at the start of a run, and of an evaluation or a prediction."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from zoo import escape
from zoo.errors import counted
from zoo.measure.counts import count_parameters
from zoo.report.prediction_files import number_text, printable
from zoo.report.viewers import viewers

WORST_SHOWN = 10
NAMED = 5  # classes listed at the start of a run


def announce(folder: Path, cfg: DictConfig, net: nn.Module, facts: Any) -> None:
    """Print what will be trained on which data, the run folder, and how to open what is logged."""
    params = count_parameters(net)
    console = escape.console()
    model, data = ((escape.line(cfg.choices[group]), "bold") for group in ("model", "data"))
    console.print(Text.assemble(model, " on ", data, f", {params:,} parameters, seed {cfg.seed}"))
    names = getattr(facts, "classes", None)
    what = "number" if getattr(facts, "number_scale", None) else "class"
    listed = f"{', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}" if names else ""
    classes = f"; {counted(len(names), what)}: {listed}" if names else ""
    counts = facts.num_samples
    sizes = f"{counts['train']:,} for training, {counts['val']:,} for validation, {counts['test']:,} for testing"
    console.print(f"Data        {sizes}{escape.line(classes)}", soft_wrap=True)
    if form := getattr(net, "form", None):
        size, asked = cfg.data.image_size, escape.line(cfg.model.get("stem", "auto"))
        console.print(f"Stem        {form}, for images of {size} px (model.stem={asked})", soft_wrap=True)
    console.print(f"Run folder  {folder}", soft_wrap=True)
    for name, shown_by in viewers(cfg, folder).items():
        address = "   then open http://localhost:6006" if name == "TensorBoard" else ""
        console.print(f"{name:<11} {shown_by}{address}", soft_wrap=True)
    console.print()


def format_number(value: float | None, form: str, instead: str = "not a number") -> str:
    """Format a number that may be None."""
    return instead if value is None else format(value, form)


def show_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the summary and the table of classes by recall, or for sequences the worst outputs."""
    console = escape.console()
    if "wer" in evaluation:
        _show_writing(console, evaluation)
        return
    if "map" in evaluation:
        _show_labels(console, evaluation)
        return
    if "mae" in evaluation:
        _show_numbers(console, evaluation)
        return
    loss, num = format_number(evaluation["loss"], ".4f"), counted(evaluation["num_samples"], "image")
    top5 = f"top-5 {evaluation['top5']:.2%}   " if "top5" in evaluation else ""
    console.print(f"accuracy {evaluation['accuracy']:.2%}   {top5}loss {loss}   ({num})", soft_wrap=True)
    _say_calibration(console, evaluation)
    _say_lost(console, evaluation)
    table = Table()
    for column in ("class", "images", "recall", "precision", "most often taken for"):
        table.add_column(column, justify="left" if column in ("class", "most often taken for") else "right")
    names = list(evaluation["classes"])
    by_recall = sorted(
        evaluation["classes"].items(), key=lambda item: math.inf if (r := item[1]["recall"]) is None else r
    )
    for name, row in by_recall:
        mistakes = torch.tensor(evaluation["confusion_matrix"][names.index(name)])
        mistakes[names.index(name)] = 0
        other = f"{names[int(mistakes.argmax())]} ({int(mistakes.max())})" if mistakes.max() > 0 else "–"
        shares = (format_number(row[key], ".2%", "–") for key in ("recall", "precision"))
        table.add_row(name, f"{row['num_samples']:,}", *shares, other)
    console.print(table)


def _show_labels(console: Console, evaluation: dict[str, Any]) -> None:
    """Print the summary and the table of labels of an evaluation with several labels per image, worst label first."""
    named = (("mAP", "map"), ("micro F1", "micro_f1"), ("macro F1", "macro_f1"), ("accuracy", "accuracy"))
    shares = "   ".join(f"{name} {format_number(evaluation[key], '.2%')}" for name, key in named)
    loss = format_number(evaluation["loss"], ".4f")
    console.print(f"{shares}   loss {loss}   ({counted(evaluation['num_samples'], 'image')})", soft_wrap=True)
    _say_lost(console, evaluation)
    table = Table()
    columns = ("average precision", "F1", "recall", "precision", "threshold")
    for column in ("label", "images", *columns):
        table.add_column(column, justify="left" if column == "label" else "right")
    keys = ("average_precision", "f1", "recall", "precision", "threshold")
    for name, row in sorted(evaluation["classes"].items(), key=lambda item: item[1]["f1"] or 0.0):
        cells = (format_number(row[key], ".4f" if key == "threshold" else ".2%", "–") for key in keys)
        table.add_row(name, f"{row['num_samples']:,}", *cells)
    console.print(table)


def _show_numbers(console: Console, evaluation: dict[str, Any]) -> None:
    """Print the summary and, if there are several numbers, the table of their errors."""
    named = (("MAE", "mae", ".4g"), ("RMSE", "rmse", ".4g"), ("R2", "r2", ".4f"), ("loss", "loss", ".4f"))
    figures = "   ".join(f"{name} {format_number(evaluation[key], form)}" for name, key, form in named)
    console.print(f"{figures}   ({counted(evaluation['num_samples'], 'image')})", soft_wrap=True)
    if num := evaluation["num_nan"]:
        console.print(f"{num:,} of {evaluation['num_samples']:,} have NaN outputs")
    table = Table()
    for column in ("number", *(name for name, _, _ in named[:3])):
        table.add_column(column, justify="left" if column == "number" else "right")
    for name, row in evaluation["classes"].items():
        table.add_row(name, *(format_number(row[key], form, "–") for _, key, form in named[:3]))
    if len(evaluation["classes"]) > 1:
        console.print(table)


def _say_calibration(console: Console, evaluation: dict[str, Any]) -> None:
    if not (found := evaluation.get("calibration")):
        return
    low, high = (f"{100 * end:.2f}" for end in found["error_interval"])
    error = f"calibration error {found['error']:.2%} (95 % interval {low} to {high})"
    if before := evaluation.get("uncalibrated"):
        error += f", {before['error']:.2%} without the temperature {found['temperature']:.3g}"
    console.print(f"NLL {found['nll']:.4f}   Brier {found['brier']:.4f}   {error}", soft_wrap=True)
    share = found["coverage_at_1_percent_error"]
    console.print(f"{share:.1%} of the images, the most confident, can be answered at 1 % error", soft_wrap=True)


def _say_lost(console: Console, evaluation: dict[str, Any]) -> None:
    if num := evaluation["num_nan"]:
        console.print(f"{num:,} of {evaluation['num_samples']:,} have NaN logits; they count as wrong")


def _show_writing(console: Console, evaluation: dict[str, Any]) -> None:
    console.print(
        f"WER {evaluation['wer']:.2%}   PER {evaluation['per']:.2%}   "
        f"({counted(evaluation['num_samples'], 'source')}, beam {evaluation['beam']})",
        soft_wrap=True,
    )
    _say_lost(console, evaluation)
    table = Table(title="The worst", title_justify="left")
    for column in ("source", "edits", "written", "references"):
        table.add_column(column, justify="right" if column == "edits" else "left")
    for row in evaluation["worst"][:WORST_SHOWN]:
        table.add_row(row["source"], str(row["edits"]), row["written"], "; ".join(row["references"]))
    console.print(table)


def show_predictions(predictions: Iterable[tuple[str, Sequence[tuple[str, float]]]], are_numbers: bool = False) -> None:
    """Print the predictions for each input as they are computed, most probable first, or all its numbers."""
    for asked, found in predictions:
        name = printable(asked)
        if not found:
            print(escape.line(f"{name}  no label is above its threshold"), flush=True)
        for i, (what, value) in enumerate(found):
            answer = f"{what} {number_text(value)}" if are_numbers else f"{value:6.1%}  {what}"
            print(escape.line(f"{' ' * len(name) if i else name}  {answer}"), flush=True)
