"""The trainer of a run: its devices, processes, precision, callbacks and loggers."""

import logging
import warnings
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from omegaconf import OmegaConf

from zoo import distributed
from zoo.callbacks.other_loggers import OTHERS, build_loggers
from zoo.callbacks.progress import NoProfiler
from zoo.callbacks.resume import AtomicCheckpointIO
from zoo.errors import BadInput
from zoo.instantiate import build
from zoo.report import settings_row
from zoo.report.viewers import logger_names
from zoo.run.directory import Run

SomeCallback = TypeVar("SomeCallback", bound=lightning.Callback)
log = logging.getLogger("zoo")


def build_trainer(run: Run) -> lightning.Trainer:
    """Build the trainer with the callbacks and loggers of a run; loggers drop entries after the last checkpoint."""
    settings: Any = OmegaConf.to_container(run.cfg.trainer, resolve=True)
    if settings["accelerator"] == "auto":
        settings["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
    settings["precision"] = resolve_precision(settings["precision"], settings["accelerator"])
    of_many = _of_many(settings) if distributed.world_size() > 1 else {}
    step = 0 if run.resumed else None
    if run.last_checkpoint:
        step = AtomicCheckpointIO().load_checkpoint(run.last_checkpoint)["global_step"]
        log.info("Resuming %s after step %d.", run.folder, step)
    elif run.resumed:
        log.info("Nothing was saved in %s yet: the run starts from the beginning.", run.folder)
    return build(
        settings,
        "trainer",
        callbacks=build_callbacks(run),
        logger=[] if distributed.rank() else _loggers(run, step),
        plugins=[AtomicCheckpointIO()],
        **({} if "profiler" in settings else {"profiler": NoProfiler()}),
        default_root_dir=run.folder,
        num_sanity_val_steps=0,
        enable_progress_bar=run.cfg.callbacks.get("progress") is not None,  # or Lightning would show its own
        enable_model_summary=False,
        use_distributed_sampler=False,
        **of_many,
    )


def build_callbacks(run: Run) -> list[lightning.Callback]:
    """Build the callbacks of a run."""
    return [build(node, f"callbacks.{name}") for name, node in run.cfg.callbacks.items() if node is not None]


def _loggers(run: Run, from_step: int | None) -> list[Logger]:
    names = logger_names(run.cfg)
    use_settings = bool(OTHERS.keys() & set(names))
    settings = settings_row.short_names(settings_row.hyperparameters(run.cfg)) if use_settings else {}
    return build_loggers(names, run.folder, settings, from_step)


def _of_many(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's settings for one of several processes; the launcher determines their number."""
    here = distributed.local_world_size()
    if settings["devices"] not in (1, -1, "auto", here) and not isinstance(settings["devices"], list):
        raise BadInput(f"trainer.devices={settings['devices']}, but {here} processes were started on this machine")
    warnings.filterwarnings("ignore", "It is recommended to use `self.log", UserWarning)  # ours are already reduced
    strategy = settings["strategy"]
    if strategy in ("auto", "ddp"):
        strategy = DDPStrategy(gradient_as_bucket_view=True)
    elif strategy == "fsdp2":
        strategy = ModelParallelStrategy(distributed.world_size(), 1, save_distributed_checkpoint=False)
    whole = settings["strategy"] != "fsdp2"  # which cannot gather its weights in inference mode
    return {
        "devices": here,
        "num_nodes": distributed.world_size() // here,
        "strategy": strategy,
        "inference_mode": whole,
    }


def resolve_precision(precision: str, accelerator: str) -> str:
    """Turn `auto` into bf16-mixed where CUDA does it in hardware, 16-mixed on older cards, and 32-true elsewhere.

    A CPU without bf16 instructions would emulate bf16-mixed 30 times slower than 32-true, and not for LSTMs: it uses
    32-true and logs a warning.
    """
    if precision == "bf16-mixed" and accelerator == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        log.warning("This CPU has no instructions for trainer.precision=bf16-mixed: it trains in 32-true.")
        return "32-true"
    if precision != "auto":
        return precision
    if accelerator in ("cpu", "mps", "tpu") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def callback_of(trainer: lightning.Trainer, kind: type[SomeCallback]) -> SomeCallback:
    """Return the trainer's callback of a kind that every run needs."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise BadInput(
        f"callbacks: a {kind.__name__} is missing, which every run needs; see configs/callbacks/base/standard.yaml"
    )
