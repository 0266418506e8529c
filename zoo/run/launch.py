"""Start a run on several devices: the same command again, one process per device, with torchrun's launcher."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo import distributed
from zoo.errors import BadInput, Interrupted, ZooError
from zoo.paths import RESULT
from zoo.records.json_files import read_result
from zoo.run import directory


def is_for_many(cfg: DictConfig) -> bool:
    """Return whether a run uses several devices and its processes have not been started yet.

    Raises BadInput if the devices do not exist: more processes than cores only wait for each other.
    """
    distributed.take_over_slurm()
    if distributed.world_size() > 1:
        return False
    settled = directory.config_of(cfg)
    _check_devices(settled)
    return num_processes(settled) > 1


def _check_devices(cfg: DictConfig) -> None:
    devices, accelerator = cfg.trainer.devices, cfg.trainer.accelerator
    if devices in (1, "auto", -1):
        return
    import torch

    on_cards = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    there, what = (torch.cuda.device_count(), "CUDA devices") if on_cards else (distributed.num_cores(), "CPU cores")
    named = list(devices) if OmegaConf.is_list(devices) else []
    if len(set(named)) < len(named):
        raise BadInput(f"trainer.devices={devices}: expected each device once")
    largest = max([*named, len(named) - 1]) + 1 if named else devices
    if largest > there:
        raise BadInput(f"trainer.devices={devices}: expected at most {there}, the number of {what} here")


def num_processes(cfg: DictConfig) -> int:
    """Return how many devices of this machine trainer.devices selects: a number, a list, or -1 or auto for all."""
    devices = cfg.trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    if devices not in ("auto", -1):
        return int(devices)
    import torch

    return max(1, torch.cuda.device_count()) if cfg.trainer.accelerator in ("auto", "gpu", "cuda") else 1


def start(cfg: DictConfig) -> dict[str, Any]:
    """Run one process per device to completion and return the run's result.

    As soon as one process fails or is killed, all others are stopped and ZooError reports the cause.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):  # they would repeat the error at length
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with directory.made(cfg) as run, tempfile.TemporaryDirectory(prefix="zoo_") as logs:
        num = num_processes(run.cfg)
        command = [sys.argv[0], *HydraConfig.get().overrides.task]
        engine = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        goes_on = f"python train.py resume={os.path.relpath(run.folder)} continues from the last checkpoint"
        try:
            with _environment(run, num):
                elastic_launch(engine, sys.executable)(*command)
        except SignalException as stop:
            messages = [w.message for w in distributed.last_words(logs) if w.exit_code == 128 + stop.sigval]
            messages.append(f"stopped by {signal.Signals(stop.sigval).name}; {goes_on}")
            raise Interrupted(messages[0], int(stop.sigval)) from stop
        except ChildFailedError as error:
            raise _cause(error.failures, distributed.last_words(logs), num, goes_on) from error
    return read_result(run.folder / RESULT)


def _cause(failures: dict[int, Any], words: list[distributed.LastWords], num: int, goes_on: str) -> ZooError:
    """Return the error that ended a run, not the errors it caused in other processes."""
    first, stopped = next(iter(failures)), (-signal.SIGTERM, 128 + signal.SIGTERM)
    words = [w for w in words if w.exit_code < 128 or w.rank == first]
    causes = [w for w in words if not w.lost]
    ended = {rank: f.exitcode for rank, f in failures.items() if rank == first or f.exitcode not in stopped}
    silent = [rank for rank in ended if rank not in {w.rank for w in words}]
    if silent and (first in silent or not causes):
        failed, code = silent[0], ended[silent[0]]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code} and no message"
        return ZooError(f"process {failed} of {num} {how}, so the others were stopped; {goes_on}")
    cause = (causes or words)[0]
    error = (BadInput if cause.exit_code == BadInput.exit_code else ZooError)(cause.message)
    error.exit_code = cause.exit_code
    return error


@contextmanager
def _environment(run: directory.Run, num: int) -> Iterator[None]:
    """Set the environment of the processes: their run folder, its devices and, on a CPU, the threads of each."""
    before = dict(os.environ)
    os.environ[distributed.FOLDER], os.environ[distributed.LAUNCHER] = str(run.folder), str(os.getpid())
    os.environ.pop("HYDRA_FULL_ERROR")  # which zoo.cli.command has set for this process
    devices = run.cfg.trainer.devices
    if OmegaConf.is_list(devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(device) for device in devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, distributed.num_cores() // num)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
