"""The settings and results of a run as a row of TensorBoard's HParams table."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from zoo import escape

if TYPE_CHECKING:
    pass

LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")  # of the trainer


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that distinguish runs, as one flat row."""
    row = {group: option for group, option in cfg.choices.items() if option is not None}
    row |= {"seed": cfg.seed, **{f"data.{key}": cfg.data.get(key) for key in ("batch_size", "folds", "fold")}}
    row["data.mix"] = str((cfg.data.get("mix") or {}).get("_target_", "none")).rpartition(".")[2]
    row |= {f"trainer.{key}": cfg.trainer[key] for key in ("max_epochs", "gradient_clip_val")}
    row |= {f"trainer.{key}": cfg.trainer.get(key) for key in LIMITS if cfg.trainer.get(key) is not None}
    for group in ("model", "optim", "schedule", "task"):
        row |= {f"{group}.{key}": value for key, value in cfg[group].items() if not key.startswith("_")}
    return {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in row.items()}


def short_names(settings: dict[str, Any]) -> dict[str, str | float]:
    """Shorten the names of settings for TensorBoard's HParams table: optim.lr becomes `lr` if that is unique.

    Settings that are null or nested are left out.
    """
    last = {key: key.rpartition(".")[2] for key in settings}
    num = Counter(last.values())
    return {
        escape.line(last[key] if num[last[key]] == 1 else key): value
        if isinstance(value, int | float)
        else escape.line(value)
        for key, value in settings.items()
        if value is not None and not isinstance(value, dict)
    }


def headline(result: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of the HParams table; TensorBoard shows the first five by default."""
    keys = ["accuracy", "loss", *(key for key in result["test"] if key not in ("accuracy", "loss", "num_samples"))]
    pairs = [(split, key) for key in keys for split in ("test", "validation") if key in result[split]]
    row = {f"{split}_{key}": result[split][key] for split, key in pairs if result[split][key] is not None}
    sizes = {"parameters": result["params"], **{k: result[k] for k in ("macs", "product_bytes", "latency_ms")}}
    first = {k: v for k, v in row.items() if k == "test_accuracy"} | sizes
    row = first | row | {"images_per_second": result["images_per_second"]}
    return {f"result/{name}": value for name, value in row.items()}
