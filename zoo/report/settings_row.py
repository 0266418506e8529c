"""The settings and results of a run as a row of TensorBoard's HParams table."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zoo import escape
from zoo.records.config_file import leaves

MAIN_COLUMNS = ("Model", "On data", "Parameters, M", "Size, kB", "With compression")  # TensorBoard sorts capitals first
MAIN_METRICS = ("wer", "map", "accuracy", "mae", "r2")  # of which a result shows the first that it has
NAMES = {"map": "mAP", "mae": "MAE", "r2": "R2"}
OF_SPLITS = {f"{split} {NAMES.get(key, key)}" for split in ("validation", "test") for key in MAIN_METRICS}
IN_COLUMNS = ("model", "data", "compress")  # settings that they show
SIMULATED = ("ptq_int8", "qat_int8")  # kinds of compression to int8, which torch only simulates
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")  # of the trainer


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that distinguish runs, as one flat row."""
    row = {group: option for group, option in cfg.choices.items() if option is not None}
    row |= {"seed": cfg.seed, **{f"data.{key}": cfg.data.get(key) for key in ("batch_size", "folds", "fold")}}
    row["data.mix"] = str((cfg.data.get("mix") or {}).get("_target_", "none")).rpartition(".")[2]
    row |= {"data.batch_tokens": cfg.data.batch_tokens} if cfg.data.get("batch_tokens") else {}
    row |= {f"trainer.{key}": cfg.trainer[key] for key in ("max_epochs", "precision", "gradient_clip_val")}
    row |= {f"trainer.{key}": cfg.trainer.get(key) for key in LIMITS if cfg.trainer.get(key) is not None}
    for group in ("model", "optim", "schedule", "task"):
        row |= {f"{group}.{key}": value for key, value in cfg[group].items() if not key.startswith("_")}
    compress: Any = OmegaConf.to_container(cfg.compress, resolve=True)
    of_code = ("_target_", "_partial_")
    row |= {f"compress.{k}": v for k, v in leaves(compress) if v != {} and not k.endswith(of_code)}
    return {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in row.items()}


def short_names(settings: dict[str, Any]) -> dict[str, str | float]:
    """Shorten the names of settings for TensorBoard's HParams table: optim.lr becomes `lr` if that is unique.

    Settings that are null or nested are left out. Parts of others, as of sparsity by layer, keep their whole name.
    """
    last = {key: key if key.count(".") > 2 else key.rpartition(".")[2] for key in settings}
    num = Counter(last.values())
    return {
        escape.line(last[key] if num[last[key]] == 1 else key): value
        if isinstance(value, int | float)
        else escape.line(value)
        for key, value in settings.items()
        if value is not None and not isinstance(value, dict)
    }


def columns(result: dict[str, Any]) -> dict[str, str | float]:
    """Return the first columns of the HParams table, whose names sort as they should be shown: MAIN_COLUMNS."""
    compression = result["settings"].get("compress") or "none" if "settings" in result else "none"
    values = (result["net"], result["data"], result["params"] / 1e6, result["product_bytes"] / 1e3, compression)
    return {
        name: escape.line(value) if isinstance(value, str) else value
        for name, value in zip(MAIN_COLUMNS, values, strict=True)
    }


def metrics(result: dict[str, Any]) -> dict[str, float]:
    """Return the results in the HParams table, of which TensorBoard shows the first five by default."""
    main = next(name for name in MAIN_METRICS if name in result["test"])
    named = NAMES.get(main, main)
    found = {
        "latency, ms": None if simulates_int8(result) else result.get("latency_ms"),
        f"validation {named}": result["validation"].get(main),
        f"test {named}": result["test"].get(main),
        "test loss": result["test"].get("loss"),
        "minutes": result["seconds"] / 60,
    }
    shown = {name: value for name, value in found.items() if value is not None}
    return shown | {name: value for name, value in more_figures(result).items() if name not in shown}


def is_main(metric: str) -> bool:
    """Return whether a metric of the HParams table, by its name there, is one of the first five of some result."""
    return metric in OF_SPLITS | {"latency, ms", "test loss", "minutes"}


def simulates_int8(result: Mapping[str, Any]) -> bool:
    """Return whether the net of a result is in int8, which torch only simulates, so that its latency says nothing."""
    return result.get("settings", {}).get("compress") in SIMULATED


def more_figures(result: dict[str, Any]) -> dict[str, float]:
    """Return all metrics of a result, how compression changed its answers, and figures of the net and its speed."""
    pairs = [(split, key) for split in ("validation", "test") for key in result[split] if key != "num_samples"]
    found = {f"{s} {NAMES.get(key, key)}": result[s][key] for s, key in pairs if result[s][key] is not None}
    for name, (before, after) in changed_answers(result).items():
        found |= {name: after} if before is None else {name: after, f"{name} before": before}
    return found | {"MMACs": result["macs"] / 1e6, "images per second": result["images_per_second"]}


def changed_answers(result: Mapping[str, Any]) -> dict[str, tuple[float | None, float]]:
    """Return how compression changed the answers, as fractions before (None if that is no figure) and after, by name.

    These are the names in the table at the end of a run, and in TensorBoard. The most changed recall is there only if
    its change is significant.
    """
    found = (result.get("before") or {}).get("answers")
    if not found:
        return {}
    pairs = {"most changed recall": found.get("recall"), "calibration error": found["calibration_error"]}
    return {
        "agreement with the original": (None, found["agreement"]),
        **{name: tuple(pair) for name, pair in pairs.items() if pair},
    }


def row(result: dict[str, Any], file_format: str = "safetensors") -> dict[str, str | float]:
    """Return the settings in the HParams row of a run, or of an exported file of it, after its MAIN_COLUMNS."""
    settings = {key: value for key, value in result.get("settings", {}).items() if key not in IN_COLUMNS}
    settings |= {"format": file_format}  # exported files have rows of their own
    return {**{name: rounded(value) for name, value in columns(result).items()}, **short_names(settings)}


def rounded(value: str | float) -> str | float:
    """Round a number to four significant digits, as many as a table has room for, but to none before the point."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
