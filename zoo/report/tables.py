"""The terminal output of a run, an evaluation or a prediction."""

import math
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from zoo import escape
from zoo.errors import counted
from zoo.measure.counts import count_parameters

if TYPE_CHECKING:
    pass

ROWS = (
    ("accuracy", "accuracy", ".2%"),
    ("top-5", "top5", ".2%"),
    ("balanced accuracy", "balanced_accuracy", ".2%"),
    ("macro F1", "macro_f1", ".2%"),
    ("WER", "wer", ".2%"),
    ("PER", "per", ".2%"),
    ("token accuracy", "token_accuracy", ".2%"),
    ("loss", "loss", ".4f"),
)
DATA_ROOT = "data"  # the default of train.py
WORST_SHOWN = 10
NAMED = 5  # classes listed at the start of a run


def announce(folder: Path, cfg: DictConfig, net: nn.Module, facts: Any) -> None:
    """Print what will be trained on which data, the run folder, and how to open TensorBoard."""
    params = count_parameters(net)
    console = escape.console()
    model, data = ((escape.line(cfg.choices[group]), "bold") for group in ("model", "data"))
    console.print(Text.assemble(model, " on ", data, f", {params:,} parameters, seed {cfg.seed}"))
    names = getattr(facts, "classes", None)
    classes = f"; {len(names):,} classes: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}" if names else ""
    counts = facts.num_samples
    sizes = f"{counts['train']:,} for training, {counts['val']:,} for validation, {counts['test']:,} for testing"
    console.print(f"Data        {sizes}{escape.line(classes)}", soft_wrap=True)
    console.print(f"Run folder  {folder}", soft_wrap=True)
    console.print(f"TensorBoard tensorboard --logdir {cfg.runs}   then open http://localhost:6006", soft_wrap=True)
    console.print()


def show_result(result: dict[str, Any], cfg: DictConfig) -> None:
    """Print the table at the end of a run, and commands to go on with."""
    table = Table(title=f"{result['net']} on {result['data']}", title_justify="left")
    table.add_column("")
    for split in ("validation", "test"):
        which = {"validation": "val", "test": "test"}[split]
        num = result["num_samples"][which]
        size = result.get("split_sizes", result["num_samples"])[which]
        table.add_column(f"{split} ({num:,})" if num == size else f"{split} ({num:,} of {size:,})", justify="right")
    known = {key for _, key, _ in ROWS}
    others = [(key.replace("_", " "), key, ".4f") for key in result["test"] if key not in known | {"num_samples"}]
    for label, key, form in (*ROWS, *others):
        if key not in result["test"]:
            continue
        cells = [format_number(result[s][key], form) if key in result[s] else "–" for s in ("validation", "test")]
        table.add_row(label, *cells)
    console = escape.console()
    sample = "pair" if "wer" in result["test"] else "image"
    console.print()
    console.print(table)
    console.print(
        f"{result['params']:,} parameters, {result['macs'] / 1e6:,.3g} M multiply-accumulates per typical {sample}; "
        f"best epoch {result['best_epoch']} of {result['epochs']}; trained {result['seconds']:.1f} s at "
        f"{result['images_per_second']:,.0f} {sample}s/s on {result['device']} in {result['precision']}",
        soft_wrap=True,
    )
    console.print(f"Product     {result['folder']}/model.safetensors", soft_wrap=True)
    for what, line in _next_commands(result, cfg).items():
        console.print(f"{what:11} {line}", soft_wrap=True)


def _next_commands(result: dict[str, Any], cfg: DictConfig) -> dict[str, str]:
    """Return what to do next with the net of a run, as lines to copy."""
    folder = shlex.quote(result["folder"])
    if result["settings"].get("task") == "rotation":  # whose net has no classes
        return {"Train on": f"python train.py init_from={folder} task=classification"}
    key = next((key for key in ("root", "path") if cfg.data.get(key)), "")
    own = str(cfg.data[key]) if key else ""
    if not own or Path(own).is_relative_to(cfg.data_root):
        key, own = "", ""
    root = str(Path(own).parent if key == "path" else own or cfg.data_root)
    place = "" if root == DATA_ROOT else f" data_root={shlex.quote(root)}"
    lines = {"Look": f"tensorboard --logdir {shlex.quote(cfg.runs)}"}
    lines["Evaluate"] = f"python evaluate.py checkpoint={folder}{place}"
    if not result.get("compress"):
        data = f" data.{key}={shlex.quote(own)}" if own else place
        lines["Compress"] = f"python train.py init_from={folder} compress=rate compress.rate.max_drop=0.5{data}"
    lines["Export"] = f"python scripts/export.py checkpoint={folder}{place} format=[zoo,onnx]"
    return lines


def format_number(value: float | None, form: str, instead: str = "not a number") -> str:
    """Format a number that may be None."""
    return instead if value is None else format(value, form)


def show_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the summary and the table of classes by recall, or for sequences the worst outputs."""
    console = escape.console()
    if "wer" in evaluation:
        _show_writing(console, evaluation)
        return
    loss, off = format_number(evaluation["loss"], ".4f"), format_number(evaluation["calibration_error"], ".2%")
    top5 = f"top-5 {evaluation['top5']:.2%}   " if "top5" in evaluation else ""
    console.print(
        f"accuracy {evaluation['accuracy']:.2%}   {top5}loss {loss}   "
        f"calibration error {off}   ({counted(evaluation['num_samples'], 'image')})",
        soft_wrap=True,
    )
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


def show_predictions(predictions: Iterable[tuple[str, Sequence[tuple[str, float]]]]) -> None:
    """Print the predictions for each input as they are computed, most probable first."""
    for asked, found in predictions:
        name = os.fsencode(asked).decode(errors="backslashreplace")  # of a file, which need not be UTF-8
        for i, (what, probability) in enumerate(found):
            print(escape.line(f"{' ' * len(name) if i else name}  {probability:6.1%}  {what}"), flush=True)
