"""Start a run that is for several devices: the very command again, a process a device, by the engine of torchrun."""

import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo import folder, ranks
from zoo.errors import BadInput, ZooError


def is_for_many(cfg: DictConfig) -> bool:
    """Tell whether a run asks for more devices than one, and nobody has started a process for each."""
    ranks.take_over_slurm()
    return ranks.world_size() == 1 and num_processes(folder.config_of(cfg)) > 1


def num_processes(cfg: DictConfig) -> int:
    """Give how many devices of this machine trainer.devices asks for: a number, a list of them, -1 or auto for all."""
    devices = cfg.trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    if devices not in ("auto", -1):
        return int(devices)
    import torch

    return max(1, torch.cuda.device_count()) if cfg.trainer.accelerator in ("auto", "gpu", "cuda") else 1


def start(cfg: DictConfig) -> dict[str, Any]:
    """Run a process for each device to its end and give the run's result.

    As soon as one process fails or is killed, all others are stopped and ZooError says what happened.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):  # they would tell it again, at length
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with folder.made(cfg) as run:
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
        )
        try:
            with _environment(run, num):
                elastic_launch(engine, sys.executable)(*command)
        except SignalException as stop:
            raise _told(128 + int(stop.sigval)) from stop
        except ChildFailedError as error:
            failed, first = error.get_first_failure()
            if first.exitcode < 0:
                how = signal.Signals(-first.exitcode).name
                raise ZooError(
                    f"process {failed} of {num} was killed by {how}, so that the others were stopped; "
                    f"python train.py resume={os.path.relpath(run.folder)} goes on from what was saved"
                ) from error
            if first.exitcode == BadInput.exit_code:
                raise _told(first.exitcode, BadInput) from error
            raise _told(first.exitcode) from error
    result: dict[str, Any] = json.loads((run.folder / "result.json").read_text())
    return result


def _told(exit_code: int, kind: type[ZooError] = ZooError) -> ZooError:
    """Make an error of which a process of the run has told already."""
    error = kind("")
    error.exit_code = exit_code
    return error


@contextmanager
def _environment(run: folder.Run, num: int) -> Iterator[None]:
    """Tell the processes where their run is, which devices it has and, on a CPU, how many threads each."""
    before = dict(os.environ)
    os.environ[ranks.FOLDER] = str(run.folder)
    os.environ.pop("HYDRA_FULL_ERROR")  # which zoo.cli has set for this process
    devices = run.cfg.trainer.devices
    if OmegaConf.is_list(devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(device) for device in devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, ranks.num_cores() // num)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
