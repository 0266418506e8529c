"""What a person sees of a run: tables, pictures, and the files they come from."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from zoo import escape
from zoo.errors import counted
from zoo.files import replacing, write_json, write_text
from zoo.measure.accuracy import TOP, has_nan, is_right
from zoo.measure.counts import count_parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (
    ("accuracy", "accuracy", ".2%"),
    ("top-5", "top5", ".2%"),
    ("WER", "wer", ".2%"),
    ("PER", "per", ".2%"),
    ("token accuracy", "token_accuracy", ".2%"),
    ("loss", "loss", ".4f"),
)
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")  # of the trainer
WORST_SHOWN = 10
MOST_LETTERS = 30  # of a class in a picture
MOST_CLASSES_DRAWN = 30  # more rows than this do not fit a screen


def announce(folder: Path, cfg: DictConfig, net: nn.Module) -> None:
    """Say what is about to be trained, and where it can be watched."""
    params = count_parameters(net)
    console = escape.console()
    model, data = ((escape.line(cfg.choices[group]), "bold") for group in ("model", "data"))
    console.print(Text.assemble(model, " on ", data, f", {params:,} parameters, seed {cfg.seed}"))
    console.print(f"Run folder  {folder}", soft_wrap=True)
    console.print(f"TensorBoard tensorboard --logdir {cfg.runs}   then open http://localhost:6006", soft_wrap=True)
    console.print()


def show_result(result: dict[str, Any]) -> None:
    """Print the table at the end of a run."""
    table = Table(title=f"{result['net']} on {result['data']}", title_justify="left")
    table.add_column("")
    for split in ("validation", "test"):
        which = {"validation": "val", "test": "test"}[split]
        num = result["num_samples"][which]
        size = result.get("split_sizes", result["num_samples"])[which]
        table.add_column(f"{split} ({num:,})" if num == size else f"{split} ({num:,} of {size:,})", justify="right")
    for label, key, form in ROWS:
        if key not in result["test"]:
            continue
        cells = [written(result[s][key], form) if key in result[s] else "–" for s in ("validation", "test")]
        table.add_row(label, *cells)
    console = escape.console()
    sample = "pair" if "wer" in result["test"] else "image"
    console.print()
    console.print(table)
    console.print(
        f"{result['params']:,} parameters, {result['macs'] / 1e6:,.3g} M multiply-accumulates a usual {sample}; "
        f"best epoch {result['best_epoch']} of {result['epochs']}; trained {result['seconds']:.1f} s at "
        f"{result['images_per_second']:,.0f} {sample}s/s on {result['device']} in {result['precision']}",
        soft_wrap=True,
    )
    console.print(f"Product     {result['folder']}/model.safetensors", soft_wrap=True)
    console.print(f"Evaluate    python evaluate.py checkpoint={result['folder']}/model.safetensors", soft_wrap=True)


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Pick the settings that tell runs apart, as one flat row."""
    row = {group: option for group, option in cfg.choices.items() if option is not None}
    row |= {"seed": cfg.seed, **{f"data.{key}": cfg.data.get(key) for key in ("batch_size", "folds", "fold")}}
    row["data.mix"] = str((cfg.data.get("mix") or {}).get("_target_", "none")).rpartition(".")[2]
    row |= {f"trainer.{key}": cfg.trainer[key] for key in ("max_epochs", "gradient_clip_val")}
    row |= {f"trainer.{key}": cfg.trainer.get(key) for key in LIMITS if cfg.trainer.get(key) is not None}
    for group in ("model", "optim", "schedule", "task"):
        row |= {f"{group}.{key}": value for key, value in cfg[group].items() if not key.startswith("_")}
    return {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in row.items()}


def short_names(settings: dict[str, Any]) -> dict[str, str | float]:
    """Name settings as columns of TensorBoard's HParams table: `lr` for optim.lr, unless another ends in the same.

    Those that are null, and those that have settings of their own, are left out.
    """
    last = {key: key.rpartition(".")[2] for key in settings}
    num = Counter(last.values())
    return {
        last[key] if num[last[key]] == 1 else key: value if isinstance(value, int | float) else escape.line(value)
        for key, value in settings.items()
        if value is not None and not isinstance(value, dict)
    }


def headline(result: dict[str, Any]) -> dict[str, float]:
    """Give the metrics of the HParams table, with the five that compare nets first, which are all it shows unasked."""
    pairs = [(split, key) for key in ("accuracy", "loss") for split in ("test", "validation") if key in result[split]]
    row = {f"{split}_{key}": result[split][key] for split, key in pairs if result[split][key] is not None}
    sizes = {"parameters": result["params"], **{k: result[k] for k in ("macs", "product_bytes", "latency_ms")}}
    first = {k: v for k, v in row.items() if k == "test_accuracy"} | sizes
    row = first | row | {"images_per_second": result["images_per_second"]}
    return {f"result/{name}": value for name, value in row.items()}


def evaluate(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Measure predictions: logits (N, C) float, labels (N,) int64.

    `top5` is there of more than five classes, since it would be 1 of fewer. Samples with NaN among their logits are
    counted in `num_nan`, are never right, and have no place in the matrix. Calibration error is the expected one over
    15 equal bins of confidence (Guo et al., 2017), as a fraction of 1. The confusion matrix has a row for each true
    class and a column for each predicted one.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

    num_classes = len(classes)
    known = ~has_nan(logits)
    matrix = multiclass_confusion_matrix(logits[known].argmax(1), labels[known], num_classes)
    hits, true, predicted = matrix.diag(), labels.bincount(minlength=num_classes), matrix.sum(0)
    calibration_error = multiclass_calibration_error(logits[known].softmax(1), labels[known], num_classes, n_bins=15)
    return {
        "num_samples": len(labels),
        "num_nan": int((~known).sum()),
        "accuracy": int(is_right(logits, labels).sum()) / len(labels),
        **({"top5": _top5(logits, labels, known)} if num_classes > TOP else {}),
        "loss": without_nan(float(nn.functional.cross_entropy(logits.double(), labels))),
        "calibration_error": without_nan(float(calibration_error)),
        "classes": {
            name: {
                "num_samples": int(true[i]),
                "recall": float(hits[i] / true[i].clamp_min(1)),
                "precision": float(hits[i] / predicted[i].clamp_min(1)),
            }
            for i, name in enumerate(classes)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _top5(logits: Tensor, labels: Tensor, known: Tensor) -> float:
    hits = (logits.topk(TOP, 1).indices == labels[:, None]).any(1) & known
    return float(hits.float().mean())


def without_nan(value: Any) -> Any:
    """Return plain data as JSON holds them: None in the place of NaN and infinities, of which it has none."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def written(value: float | None, form: str) -> str:
    """Write a number that may be none."""
    return "not a number" if value is None else format(value, form)


def show_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the summary and the table of classes, the worst recalled first, or of what was written worst."""
    console = escape.console()
    if "wer" in evaluation:
        _show_writing(console, evaluation)
        return
    loss, off = written(evaluation["loss"], ".4f"), written(evaluation["calibration_error"], ".2%")
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
    for name, row in sorted(evaluation["classes"].items(), key=lambda item: item[1]["recall"]):
        mistakes = torch.tensor(evaluation["confusion_matrix"][names.index(name)])
        mistakes[names.index(name)] = 0
        other = f"{names[int(mistakes.argmax())]} ({int(mistakes.max())})" if mistakes.max() > 0 else "–"
        table.add_row(name, f"{row['num_samples']:,}", f"{row['recall']:.2%}", f"{row['precision']:.2%}", other)
    console.print(table)


def _say_lost(console: Console, evaluation: dict[str, Any]) -> None:
    if num := evaluation["num_nan"]:
        console.print(f"{num:,} of {evaluation['num_samples']:,} have NaN among their logits; they count as wrong")


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


def write_evaluation(folder: Path, evaluation: dict[str, Any], ending: str = "") -> None:
    """Write evaluation.json, and confusion_matrix.png or worst.tsv beside it, their names with an ending."""
    name = f"evaluation{ending}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, evaluation)
    if "wer" in evaluation:
        other = f"worst{ending}.tsv"
        lines = [(row["source"], str(row["edits"]), row["written"], *row["references"]) for row in evaluation["worst"]]
        heading = ("source", "edits", "written", "references")
        rows = ["\t".join(map(escape.cell, line)) + "\n" for line in (heading, *lines)]
        write_text(folder / other, "".join(rows))
    else:
        other = f"confusion_matrix{ending}.png"
        figure = draw_confusion(evaluation["confusion_matrix"], list(evaluation["classes"]), evaluation["num_nan"])
        with replacing(folder / other) as content:
            figure.savefig(content, format="png", dpi=150)
    escape.console().print(f"Written     {folder}/{name} and {other}", soft_wrap=True)


def show_predictions(predictions: Iterable[tuple[str, Sequence[tuple[str, float]]]]) -> None:
    """Print what a net says of each input as soon as it is there, the likeliest first."""
    for asked, found in predictions:
        name = os.fsencode(asked).decode(errors="backslashreplace")  # of a file, which need not be UTF-8
        for i, (what, probability) in enumerate(found):
            print(escape.line(f"{' ' * len(name) if i else name}  {probability:6.1%}  {what}"), flush=True)


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], num_nan: int = 0) -> "Figure":
    """Draw the share of each true class (row) that was taken for each class (column); numbers in per cent.

    `num_nan` more samples were taken for none.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = torch.tensor(matrix, dtype=torch.float64)
    share = counts / counts.sum(1, keepdim=True).clamp_min(1)
    side = min(4 + 0.45 * len(classes), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    # Mistakes are a few per cent and the diagonal most of 100: a square root makes both visible.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set(xlabel="predicted class", ylabel="true class")
    accuracy = float(counts.diag().sum() / (counts.sum() + num_nan))
    axes.set_title(f"Confusion matrix, % of each true class (accuracy {accuracy:.2%})", loc="left")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(classes) <= MOST_CLASSES_DRAWN:
        names = [escape.label(escape.shortened(name, MOST_LETTERS)) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for i, j in (share >= 0.0005).nonzero().tolist():
            colour = "white" if share[i, j] > 0.4 else "black"
            axes.text(j, i, f"{100 * share[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def write_sensitivity(folder: Path, reference: float, curves: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print and draw the accuracy that pruning and sharing leave of each layer by itself; a file for each, too."""
    console = escape.console()
    for what, of_layers in curves.items():
        title = f"accuracy in % with {what} of one layer changed; {reference:.2%} with none"
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0, 0, 1))
        table.add_column("layer", overflow="fold", min_width=12)
        for level, _ in next(iter(of_layers.values())):
            table.add_column(f"{level:g}", justify="right", no_wrap=True)
        for name, curve in of_layers.items():
            table.add_row(name.removesuffix(".weight"), *(f"{100 * accuracy:.1f}" for _, accuracy in curve))
        console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sensitivity.json", {"accuracy": reference, **curves})
    with replacing(folder / "sensitivity.png") as file:
        draw_sensitivity(reference, curves).savefig(file, format="png", dpi=150)
    console.print(f"Written     {folder}/sensitivity.json and sensitivity.png", soft_wrap=True)


def draw_sensitivity(reference: float, curves: dict[str, dict[str, list[tuple[float, float]]]]) -> "Figure":
    """Draw accuracy against level, a panel a way to compress and a line a layer, from blue at the input to red."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (what, of_layers) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for i, (name, curve) in enumerate(of_layers.items()):
            colour = colormaps["turbo"](0.05 + 0.9 * i / max(1, len(of_layers) - 1))
            levels, accuracies = zip(*curve, strict=True)
            places = range(len(levels))  # evenly, since it is the last levels that tell
            label = escape.label(name.removesuffix(".weight"))
            axes.plot(places, [100 * a for a in accuracies], marker="o", markersize=3, color=colour, label=label)
        axes.axhline(100 * reference, color="black", linewidth=0.8, linestyle="--")
        axes.set_xticks(places, [f"{level:g}" for level in levels])
        axes.set(xlabel=f"{what} of one layer")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy, %")
    if len(of_layers) <= MOST_CLASSES_DRAWN:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
