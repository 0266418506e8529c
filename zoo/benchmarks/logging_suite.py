"""The cost of logging."""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo.benchmarks.rounds import Contender, Suite
from zoo.callbacks.monitor import TrainingMonitor
from zoo.instantiate import build
from zoo.paths import CONFIGS
from zoo.run.config_checks import GROUPS
from zoo.run.directory import Run
from zoo.run.fit import fit
from zoo.run.model import build_model
from zoo.run.result import measure_product
from zoo.run.task import build_task
from zoo.run.trainer import build_trainer, callback_of

NEEDED = ("monitor", "product", "resume")  # callbacks that every run requires


def logging_suite(cfg: DictConfig) -> Suite:
    """Time an epoch of training with and without logging, and the whole run that it belongs to.

    The baseline has no logger and only the required callbacks. No contender shows progress.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    chosen = HydraConfig.get().runtime.choices
    settled: Any = OmegaConf.create({**plain, "choices": {group: chosen.get(group) for group in GROUPS}})
    data = build(settled.data, "data")
    whole: dict[str, float] = {}

    def epoch(name: str, callbacks: dict[str, Any], logged: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            this = Run(Path(folder), OmegaConf.create({**settled, "runs": folder, "callbacks": callbacks}))
            task = build_task(this, build_model(this, data), data)
            start = time.perf_counter()
            trainer = build_trainer(this)
            if not logged:
                trainer.loggers = []
            fit(this, trainer, task, data)
            measure_product(this, trainer, task, data)
            whole[name] = time.perf_counter() - start
            return callback_of(trainer, TrainingMonitor).epoch_seconds[0]

    usual = {name: node for name, node in settled.callbacks.items() if name != "progress"}
    diagnostics = OmegaConf.load(CONFIGS / "callbacks/diagnostics.yaml").diagnostics
    kinds = {
        "no logging": ({name: usual[name] for name in NEEDED}, False),
        "default logging": (usual, True),
        "callbacks=diagnostics": ({**usual, "diagnostics": diagnostics}, True),
    }
    epochs: dict[str, Contender] = {name: functools.partial(epoch, name, *kind) for name, kind in kinds.items()}
    return Suite(epochs | {f"{name}: whole run": functools.partial(whole.__getitem__, name) for name in kinds})
