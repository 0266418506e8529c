"""The terminal output at the end of a run: its metrics, what compression cost, and commands to go on with."""

import io
import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo import escape
from zoo.measure.agreement import SIGNIFICANT
from zoo.measure.diagnosis import UNKNOWN, called_one_class, to_try, with_rates
from zoo.paths import PACKED, PRODUCT
from zoo.report.epoch_lines import formatted, name_of
from zoo.report.settings_row import changed_answers, simulates_int8
from zoo.report.tables import format_number
from zoo.report.viewers import viewers

log = logging.getLogger("zoo")
ROWS = (
    ("mAP", "map", ".2%"),
    ("micro F1", "micro_f1", ".2%"),
    ("accuracy", "accuracy", ".2%"),
    ("top-5", "top5", ".2%"),
    ("balanced accuracy", "balanced_accuracy", ".2%"),
    ("macro F1", "macro_f1", ".2%"),
    ("WER", "wer", ".2%"),
    ("PER", "per", ".2%"),
    ("token accuracy", "token_accuracy", ".2%"),
    ("MAE", "mae", ".4g"),
    ("RMSE", "rmse", ".4g"),
    ("R2", "r2", ".4f"),
    ("loss", "loss", ".4f"),
)
REPAIRS = {"before": "dense", "cut": "cut", "norms": "norms measured again", "refit": "layers refitted"}
OF_RARE_CLASSES = ("balanced_accuracy", "macro_f1")  # shown where the former differs from accuracy
LEAST_DIFFERENCE = 5e-4
NO_DIFFERENCE = ",\nno difference shown"
GUESSED = 0.1  # of the accuracy of a guess, by which a net may exceed it and has still learned nothing
OWN_TASKS = {"map": "multilabel", "mae": "regression"}  # tasks by a metric that only they have
DATA_ROOT = "data"  # the default of train.py
LOG_WIDTH = 200  # columns
MOST_LETTERS = 20  # of the name of a class


def show_result(result: dict[str, Any], cfg: DictConfig) -> None:
    """Print the tables at the end of a run, and commands to go on with; also to the log."""
    text = io.StringIO()
    for console in (escape.console(), escape.console(file=text, width=LOG_WIDTH)):
        console.print()
        console.print(_metrics(result))
        if result.get("before"):
            console.print(_compared(result))
            if repair := result["before"].get("repair"):
                console.print(_repaired(repair))
        _show_facts(console, result)
        for what, line in _problems(result).items():
            console.print(f"{what:11} {line}", soft_wrap=True)
        for what, line in _next_commands(result, cfg).items():
            console.print(f"{what:11} {line}", soft_wrap=True)
    log.debug("result:\n%s", text.getvalue().strip())


def _problems(result: dict[str, Any]) -> dict[str, str]:
    """Return sentences on a net that gives one class to nearly all images, or that has learned nothing.

    What to try is the advice of callbacks.diagnostics, if it knew of any.
    """
    found = {}
    if one := result.get("one_answer"):
        found["One class"] = called_one_class(one["class"], one["num"], result["num_samples"]["test"], "test")
    if _is_guess(result):
        remedies = result.get("remedies") or with_rates(UNKNOWN, result["settings"]["optim.lr"])
        num = result["settings"]["model.num_classes"]
        found["Not learned"] = f"Its accuracy is that of guessing one of {num:,} classes. {to_try(remedies)}"
    return found


def _is_guess(result: dict[str, Any]) -> bool:
    """Return whether a net has learned nothing, so that its accuracy is that of a guess."""
    accuracy, num = result["test"].get("balanced_accuracy"), result["settings"].get("model.num_classes")
    sizes = result.get("split_sizes", result["num_samples"])
    is_whole = bool(num) and result["num_samples"] == sizes
    return accuracy is not None and is_whole and accuracy <= (1 + GUESSED) / num


def _metrics(result: dict[str, Any]) -> Table:
    """Return the table of validation and test metrics."""
    table = Table(title=f"{result['net']} on {result['data']}", title_justify="left")
    table.add_column("")
    for split in ("validation", "test"):
        which = {"validation": "val", "test": "test"}[split]
        num = result["num_samples"][which]
        size = result.get("split_sizes", result["num_samples"])[which]
        table.add_column(f"{split} ({num:,})" if num == size else f"{split} ({num:,} of {size:,})", justify="right")
    known = {key for _, key, _ in ROWS}
    others = [(key.replace("_", " "), key, ".4f") for key in result["test"] if key not in known | {"num_samples"}]
    balanced = all(_is_balanced(result[split]) for split in ("validation", "test"))
    for label, key, form in (*ROWS, *others):
        if key not in result["test"] or (balanced and key in OF_RARE_CLASSES):
            continue
        cells = [format_number(result[s][key], form) if key in result[s] else "–" for s in ("validation", "test")]
        table.add_row(label, *cells)
    return table


def _is_balanced(metrics: dict[str, Any]) -> bool:
    plain, balanced = metrics.get("accuracy"), metrics.get("balanced_accuracy")
    return plain is not None and balanced is not None and abs(balanced - plain) < LEAST_DIFFERENCE


def _compared(result: dict[str, Any]) -> Table:
    """Return the table of the net before compression and after it, with the rows that are known of both."""
    table = Table(title="what compression changed", title_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="right" if column else "left")
    before = result["before"]
    key = next(key for key in ("wer", "mae", "accuracy") if key in result["test"])
    old, new = before.get("test", {}).get(key), result["test"].get(key)
    noise = _noise(before.get("answers", {}))
    if old is not None and new is not None:
        change = Text(f"{new - old:+.4g}") if key == "mae" else _points(old, new, key in noise)
        table.add_row(f"test {name_of(key)}", formatted(old, key), formatted(new, key), change)
    for name, (first, last) in changed_answers(result).items():
        if first == last:
            continue
        label = f"{name}, {escape.shortened(before['answers']['class'], MOST_LETTERS)}" if "recall" in name else name
        change = Text() if first is None else _points(first, last, name in noise)
        table.add_row(label, format_number(first, ".2%", "–"), f"{last:.2%}", change)
    for label, key, unit, form in (
        ("parameters", "params", 1, ",.0f"),
        ("bytes", "product_bytes", 1, ",.0f"),
        ("MMACs", "macs", 1e6, ",.3g"),
        ("latency, ms", "latency_ms", 1, ".3g"),
    ):
        old, new = before.get(key), result.get(key)
        if key == "latency_ms" and simulates_int8(result):
            continue
        if old and new:
            table.add_row(label, f"{old / unit:{form}}", f"{new / unit:{form}}", _factor(old, new))
    if kept := before.get("time_kept"):  # measured in turn, unlike the latencies
        table.add_row("time per batch", "100%", f"{kept:.1%}", _factor(1, kept))
    return table


def _noise(answers: dict[str, Any]) -> set[str]:
    """Return the changes that may be noise: McNemar's p is at least 0.05, or the interval of the change includes 0."""
    low, high = answers.get("calibration_change", (1.0, 1.0))
    may_be = {"accuracy": answers.get("p", 0.0) >= SIGNIFICANT, "calibration error": low <= 0 <= high}
    return {name for name, is_noise in may_be.items() if is_noise}


def _points(old: float, new: float, is_noise: bool) -> Text:
    """Return a change in percentage points, and in a second line that it may be none."""
    return Text(f"{100 * (new - old):+.2f} points{NO_DIFFERENCE * is_noise}")


def _repaired(accuracies: dict[str, float]) -> Table:
    """Return the table of validation accuracies before training, after channels were removed and after each repair."""
    table = Table(title="validation accuracy before training", title_justify="left")
    for key, title in REPAIRS.items():
        if key in accuracies:
            table.add_column(title, justify="right")
    table.add_row(*(f"{accuracies[key]:.2%}" for key in REPAIRS if key in accuracies))
    return table


def _factor(old: float, new: float) -> str:
    """Return how many times less or more something has become, in three digits."""
    factor = f"{max(old, new) / min(old, new):.3g}"
    return "same" if factor == "1" else f"{factor}× {'less' if new < old else 'more'}"


def _show_facts(console: Console, result: dict[str, Any]) -> None:
    """Print the size of the net, how it was trained, and the file to use."""
    sample, usual = ("pair", "typical pair") if "wer" in result["test"] else ("image", "image")
    macs = f"{result['macs'] / 1e6:,.3g} M multiply-accumulates per {usual}"
    console.print(f"Net         {result['params']:,} parameters, {macs}", soft_wrap=True)
    speed = f"{result['seconds']:.1f} s at {result['images_per_second']:,.0f} {sample}s/s"
    trained = f"best epoch {result['best_epoch']} of {result['epochs']}; {speed}" if result["epochs"] else "none"
    console.print(f"Training    {trained}", soft_wrap=True)
    console.print(f"On          {result['device']} in {result['precision']}", soft_wrap=True)
    console.print(f"File to use {_file(result)}, {result['product_bytes']:,} bytes", soft_wrap=True)
    if simulates_int8(result):
        console.print(
            "            for torch, which simulates int8; export it for a runtime that is fast", soft_wrap=True
        )


def _file(result: dict[str, Any]) -> str:
    return f"{result['folder']}/{PACKED if _is_packed(result) else PRODUCT}"


def _is_packed(result: dict[str, Any]) -> bool:
    return "pack" in result.get("compress", {})


def _next_commands(result: dict[str, Any], cfg: DictConfig) -> dict[str, str]:
    """Return what to do next with the net of a run, as lines to copy."""
    folder = shlex.quote(result["folder"])
    if result["settings"].get("task") == "rotation":  # whose net has no classes
        return {"Train on": f"python train.py init_from={folder} task=classification"}
    key = next((key for key in ("root", "path", "table", "urls") if cfg.data.get(key)), "")
    own = str(cfg.data[key]) if key else ""
    if key == "urls" and not isinstance(cfg.data.urls, str):
        own = cfg.data.urls[0]
    if not own or Path(own).is_relative_to(cfg.data_root):
        key, own = "", ""
    root = os.path.dirname(own) or "." if key in ("path", "table", "urls") else own or str(cfg.data_root)
    place = "" if root == DATA_ROOT else f" data_root={shlex.quote(root)}"
    shown_by = list(viewers(cfg, result["folder"]).values())
    lines = {"Look": shown_by[0]} if shown_by else {}
    lines["Compare"] = f"python scripts/compare.py {shlex.quote(cfg.runs)}"
    file = shlex.quote(_file(result)) if _is_packed(result) else folder
    lines["Evaluate"] = f"python evaluate.py checkpoint={file}{place}"
    if _is_guess(result):
        return lines
    if not result.get("compress"):
        data = f" data.{key}={shlex.quote(own)}" if own else place
        data += f" data.images={shlex.quote(str(cfg.data.images))}" if cfg.data.get("images") else ""
        task = next((task for metric, task in OWN_TASKS.items() if metric in result["test"]), "")
        data += f" task={task}" if task else ""  # which is not taken from the file
        if isinstance(lists := cfg.data.get("split"), Mapping):
            named = ",".join(f"{part}:'{path}'" for part, path in lists.items())
            data += f" {shlex.quote(f'data.split={{{named}}}')}"
        lines["Compress"] = f"python train.py init_from={folder} compress=rate compress.rate.max_drop=0.5{data}"
    lines["Export"] = f"python scripts/export.py checkpoint={folder}{place} 'format=[zoo,onnx]'"
    return lines
