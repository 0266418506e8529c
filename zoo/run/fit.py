"""Train the net of a run: find the batch size, check the settings, and fit."""

import contextlib
import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo import distributed, memory
from zoo.callbacks.monitor import TrainingMonitor
from zoo.callbacks.product import BestProduct
from zoo.callbacks.rate_schedule import RateTraining
from zoo.callbacks.resume import ResumeCheckpoint
from zoo.checkpoint.product_file import provenance
from zoo.data.module import SPLITS, ResidentData
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.measure.accuracy import TOP
from zoo.measure.compiler import check_compiler
from zoo.measure.layer_kinds import BATCH_NORMS
from zoo.measure.throughput import TOO_FULL, fastest_batch_size
from zoo.models.small_maps import SmallMapsAsProducts
from zoo.paths import CONFIG
from zoo.records.config_file import write_config
from zoo.run.compress_targets import KEYS, is_auto
from zoo.run.directory import Run
from zoo.run.model import build_original
from zoo.run.pack_product import as_packed
from zoo.run.passes import read_recipe
from zoo.run.trainer import callback_of
from zoo.tasks.base import Task, parameter_groups
from zoo.tasks.transfer import hold_frozen_norms

log = logging.getLogger("zoo")
LOWER_IS_BETTER = ("loss", "wer", "per", "mae", "rmse")
LEAST_STEPS, LEAST_BATCH = 20, 16  # per epoch with data.batch_size=auto


def fit(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> None:
    """Train from the start or from last.ckpt; with trainer.max_epochs=0, only validate.

    The best weights are saved to model.safetensors.
    """
    if run.cfg.compile and trainer.strategy.root_device.type == "cpu":
        check_compiler(f"compile={run.cfg.compile}")
    _check_norms(run, task, data)
    callback_of(trainer, BestProduct).facts = {
        "config": OmegaConf.to_container(run.cfg, resolve=True),
        "recipe": read_recipe(run),
        "data": asdict(data.load()),
        **provenance(),
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RateTraining):
            _prepare(callback, run, data)
    callback_of(trainer, TrainingMonitor), callback_of(trainer, ResumeCheckpoint)
    _check_limits(run.cfg, data)
    _check_metrics(run.cfg, task)
    if distributed.rank():
        torch.manual_seed(run.cfg.seed + distributed.rank())  # for dropout; rank 0 keeps the seed of a single process
    else:  # everything is built, so the changes made with resume are valid
        write_config(run.folder / CONFIG, OmegaConf.to_yaml(run.cfg))
    with _explained(run, trainer, data):
        if trainer.max_epochs == 0:
            trainer.validate(task, datamodule=data, verbose=False)
            return
        in_bfloat16 = trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16")
        with SmallMapsAsProducts() if in_bfloat16 and not run.cfg.compile else contextlib.nullcontext():
            trainer.fit(task, datamodule=data, ckpt_path=run.last_checkpoint, weights_only=True)


def _prepare(callback: RateTraining, run: Run, data: ResidentData) -> None:
    """Tell training for bytes how its net is packed, what the net was before, and what its targets are called."""
    settings = run.cfg.compress.after_fit.get("pack") or {}
    names = ("half", "fold_norms", "bias_bits")
    callback.as_packed = partial(as_packed, **{name: settings[name] for name in names if name in settings})
    if any(run.cfg.compress.before_fit.values()):
        callback.original = partial(build_original, run, data)
    if is_auto(run.cfg):
        callback.keys = KEYS


def with_batch_size(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> Run:
    """Return the run with the batch size that data.batch_size=auto stands for, which the data take over."""
    if run.cfg.data.batch_size != "auto":
        return run
    if run.cfg.data.get("batch_tokens"):
        raise BadInput("data.batch_size=auto and data.batch_tokens both set the size of batches; use one of them")
    data.batch_size = find_batch_size(trainer, task, data)
    log.info("data.batch_size=auto: batches of %d samples.", data.batch_size)
    return run.with_values(data={"batch_size": data.batch_size})


@contextlib.contextmanager
def _explained(run: Run, trainer: lightning.Trainer, data: ResidentData) -> Iterator[None]:
    """Turn errors of training that settings or a checkpoint are to blame for into ZooError."""
    try:
        yield
    except NotImplementedError as error:  # torch has no kernel for this precision, or else it is a bug of the net's
        if trainer.precision == "32-true":
            raise
        raise BadInput(f"trainer.precision={trainer.precision} does not suit this net here: {reason(error)}") from error
    except RuntimeError as error:
        if memory.is_out_of_memory(error):
            raise ZooError(
                f"{trainer.strategy.root_device.type} ran out of memory with data.batch_size={data.batch_size}; "
                "data.batch_size=auto finds one that fits, and trainer.precision=bf16-mixed needs half as much"
            ) from error
        _blame_checkpoint(run, trainer, error)
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        _blame_checkpoint(run, trainer, error)
        raise


def _blame_checkpoint(run: Run, trainer: lightning.Trainer, error: Exception) -> None:
    """Raise BadInput if a resumed run failed before its first step with the loaded checkpoint."""
    if run.last_checkpoint is not None and not callback_of(trainer, ResumeCheckpoint).has_begun:
        raise BadInput(
            f"{run.last_checkpoint} does not hold the state of this run ({reason(error)}); train again without it"
        ) from error


def _check_norms(run: Run, task: Task, data: ResidentData) -> None:
    """Refuse batches of one sample if a batch norm would get one value per channel, which has no deviation."""
    together = run.cfg.trainer.sync_batchnorm and distributed.world_size() > 1
    if together or data.batch_size // distributed.world_size() > 1 or run.cfg.trainer.max_epochs == 0:
        return
    ghost = copy.deepcopy(task.net).to("meta", torch.float32).train()
    hold_frozen_norms(ghost)

    def check(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if norm.training and inputs[0].numel() == inputs[0].shape[1]:
            raise BadInput(
                f"data.batch_size={data.batch_size}: expected at least {2 * distributed.world_size()} with "
                f"model={run.cfg.choices.model}, in which a batch norm would get one value per channel"
            )

    for module in ghost.modules():
        if isinstance(module, BATCH_NORMS):
            module.register_forward_pre_hook(check)
    with torch.compiler.set_stance("force_eager"):
        ghost(*data.example())


def _check_limits(cfg: DictConfig, data: ResidentData) -> None:
    """Refuse fractions of less than one batch, and a validation interval longer than an epoch."""
    for split in SPLITS:
        key, limit = f"trainer.limit_{split}_batches", cfg.trainer[f"limit_{split}_batches"]
        if isinstance(limit, float) and 0 < limit * (num := len(data.loader(split, "cpu"))) < 1:
            raise BadInput(f"{key}: expected at least {1 / num:.2g}, which is one batch of {num}, got {limit}")
    interval, limit = cfg.trainer.get("val_check_interval"), cfg.trainer.limit_train_batches
    if isinstance(interval, int) and cfg.trainer.get("check_val_every_n_epoch", 1) is not None:
        num = len(data.loader("train", "cpu"))
        num = num if limit is None else limit if isinstance(limit, int) else int(limit * num)
        if interval > num:
            raise BadInput(
                f"trainer.val_check_interval: expected at most {num}, the batches of an epoch, got {interval}"
            )


def _check_metrics(cfg: DictConfig, task: Task) -> None:
    """Refuse callbacks that watch a metric that no validation measures, or that would keep its worst value."""
    known = {f"val/{name}" for name in task.meter.names}
    known |= {"train/accuracy"} if "val/accuracy" in known else set()
    if (cfg.model.get("num_classes") or math.inf) <= TOP:
        known.discard("val/top5")
    if "ema" in cfg.callbacks:
        known |= {f"val/raw_{name}" for name in task.meter.names}
    for name, node in cfg.callbacks.items():
        for key in ("metric", "monitor"):
            watched = node.get(key) if node else None
            if watched is not None and watched not in known:
                near = choices(watched, known)
                raise BadInput(f"callbacks.{name}.{key}: expected a metric that is measured, got '{watched}'; {near}")
            if watched is None and key == "monitor" and node and key in node:
                raise BadInput(f"callbacks.{name}.monitor: expected a metric, got null; {choices('', known)}")
            metric = str(watched).rpartition("/")[2].removeprefix("raw_")
            if metric in LOWER_IS_BETTER and node.get("mode") == "max":
                raise BadInput(f"callbacks.{name}.mode: expected min for {watched}, got 'max'")


def find_batch_size(trainer: lightning.Trainer, task: Task, data: ResidentData) -> int:
    """Return the fastest batch size, summed over all processes, timed on a copy of the task with made-up samples.

    An epoch keeps at least 20 steps, unless its batches would be smaller than 16. The copy trains eagerly even if
    the net will be compiled.
    """
    device = trainer.strategy.root_device
    precision = trainer.precision_plugin
    copied: Any = precision.convert_module(copy.deepcopy(task)).to(device).train()
    copied.on_fit_start()  # brings teachers to the device
    optimizer = copied.optimizer(parameter_groups(copied.net, copied.head_lr))

    before, tried = memory.reset_peak(), 0

    def step(num_samples: int) -> None:
        nonlocal tried
        if device.type == "cpu" and num_samples > tried > 0:  # where running out of memory would kill the run
            expected = (memory.peak_bytes() - before) * num_samples / tried
            if expected > TOO_FULL * memory.available_bytes():
                raise torch.OutOfMemoryError(f"{num_samples} samples need {expected / 1e9:.1f} GB")
        tried = max(tried, num_samples)
        inputs, *targets = data.random_batch(num_samples, device)
        with precision.forward_context():
            loss = copied.training_step((precision.convert_input(inputs), *targets), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    num = data.load().num_samples["train"]
    largest = max(1, max(num // LEAST_STEPS, min(num, LEAST_BATCH)) // distributed.world_size())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        mine = fastest_batch_size(step, largest, device)
    return min(distributed.all_gather_object(mine)) * distributed.world_size()
