"""The commands that show what the loggers of a run have written."""

import shlex
from pathlib import Path

from omegaconf import DictConfig


def logger_names(cfg: DictConfig) -> list[str]:
    """Return the loggers of a run; runs of earlier versions have no such setting."""
    named = cfg.get("logger", "tensorboard")
    return [named] if isinstance(named, str) else list(named)


def viewers(cfg: DictConfig, folder: str | Path) -> dict[str, str]:
    """Return the command for each logger of a run that has one, by the name of the program."""
    place = shlex.quote(str(folder))
    commands = {
        "tensorboard": ("TensorBoard", f"tensorboard --logdir {shlex.quote(cfg.runs)}"),
        "wandb": ("W&B", f"wandb sync {place}/wandb/offline-run-*"),
        "mlflow": ("MLflow", f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {place}/mlruns"),
        "trackio": ("trackio", "trackio show --project zoo"),
    }
    return dict(commands[name] for name in logger_names(cfg) if name in commands)
