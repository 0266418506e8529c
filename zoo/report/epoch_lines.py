"""One line per epoch, in columns, for the terminal and for log files."""

from collections.abc import Iterable, Mapping

NAMES = {
    "accuracy": "accuracy",
    "wer": "WER",
    "per": "PER",
    "top5": "top-5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "token_accuracy": "token accuracy",
    "map": "mAP",
    "micro_f1": "micro F1",
}
MARK = "kept"  # the column that says of which epochs the weights were kept, as the best so far
IN_UNITS = {"mae": "MAE", "rmse": "RMSE", "r2": "R2"}  # not in per cent
LEAST_WIDTH = 8  # of a column
GAP = 2  # spaces between columns


def formatted(value: float, metric: str = "loss") -> str:
    """Format a metric: shares as per cent, others with four digits after the point unless they are large."""
    if metric.removeprefix("raw_") in NAMES:
        return f"{value:.2%}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def name_of(metric: str) -> str:
    """Return the name of a metric as people write it, such as top-5 for top5."""
    return (NAMES | IN_UNITS).get(metric, metric.replace("_", " "))


def headline(metrics: Iterable[str]) -> str | None:
    """Return the metric to show if there is room for one, or None: the word error rate, mAP, accuracy or MAE."""
    there = set(metrics)
    return next((name for name in ("wer", "map", "accuracy", "mae") if name in there), None)


def epoch_cells(
    epoch: str,
    training: Mapping[str, float],
    validation: Mapping[str, float],
    seconds: float,
    mean_lr: float,
    is_best: bool,
) -> dict[str, str]:
    """Return the cells of an epoch by column, the most important first, of which seven fit into 80 letters.

    `training` and `validation` are metrics by name; `validation` may be empty.
    """
    main = headline(validation)
    shown = [key for key in ("loss", main) if key is not None and key in validation]
    more = [key for key in validation if key not in (*shown, "num_samples")]

    def cells_of(split: str, metrics: Mapping[str, float], keys: Iterable[str]) -> dict[str, str]:
        return {f"{split} {name_of(key)}": formatted(metrics[key], key) for key in keys}

    cells = {"epoch": epoch, **cells_of("train", training, training), **cells_of("val", validation, shown)}
    cells |= {"seconds": f"{seconds:.1f}", MARK: "best" if is_best else "", "mean lr": f"{mean_lr:.3g}"}
    return cells | cells_of("val", validation, more)


def aligned(cells: Mapping[str, str], width: int | None = None) -> tuple[str, str]:
    """Return the line of column names and the line of cells, with as many whole columns as `width` has room for."""
    names, values, used = [], [], 0
    for name, value in cells.items():
        size = max(len(name), len(value), 0 if name == MARK else LEAST_WIDTH)
        used += size + GAP
        if width is not None and used - GAP > width:
            break
        names.append(name.rjust(size))
        values.append(value.rjust(size))
    gap = " " * GAP
    return gap.join(names).rstrip(), gap.join(values).rstrip()
