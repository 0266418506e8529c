"""The processes of a run, one per device: rank, world size and communication.

They are started by zoo.run.launch, torchrun or SLURM, which set environment variables; without, a run is one process.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import BadInput
from zoo.files import write_json

# Environment variables set by zoo.run.launch: the run folder it created, and its process id.
FOLDER, LAUNCHER = "ZOO_RUN", "ZOO_LAUNCHER"
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
T = TypeVar("T")
OF_TORCHRUN: tuple[str, ...] = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OF_SLURM: tuple[str, ...] = (
    "SLURM_NTASKS",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NODELIST",
    "SLURM_JOB_ID",
)


def rank() -> int:
    """Return the rank of this process; rank 0 writes the files and the log."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of this run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_numbers() -> None:
    """Raise BadInput if a process count or rank of torchrun or SLURM in the environment is not a number."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS"):
        value = os.environ.pop(name) if not os.environ.get(name, "0").isdecimal() else None
        if value is not None:  # removed, since only rank 0, read from the environment, prints the error
            raise BadInput(f"{name}: expected a whole number in the environment, got '{value}'; unset {name}")


def check_all_there() -> None:
    """Raise BadInput if the environment marks this process as one of several but is incomplete."""
    its = os.environ
    by_slurm = _is_task_of_slurm() and "RANK" not in its
    if not by_slurm and rank() == 0 and world_size() == 1:
        return
    starter, names = ("srun", OF_SLURM) if by_slurm else ("torchrun", OF_TORCHRUN)
    there = [name for name in names if its.get(name)]
    if lacking := [name for name in names if name not in there]:
        why = f"{lacking[0]}: expected in the environment with {there[0]}, got nothing"
    elif not by_slurm and rank() >= world_size():
        why = f"RANK: expected a number below WORLD_SIZE={world_size()}, got {rank()}"
    else:
        return
    for name in there:
        del its[name]  # so that this process prints the error as if it were the only one
    raise BadInput(f"{why}; start processes with {starter}, or one process with env -u {' -u '.join(there)}")


def started_together() -> bool:
    """Return whether torchrun or SLURM started this process as one of several."""
    return world_size() > 1 or _is_task_of_slurm()


def _is_task_of_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dying_with(parent: int) -> Callable[[], None]:
    """Return a function for a child process to call, so that it is killed when its parent ends for any reason."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has already ended
            os._exit(1)

    return ask_kernel


def die_with_launcher() -> None:
    """Have this process killed when zoo.run.launch ends, if it was started by it."""
    if LAUNCHER in os.environ:
        dying_with(int(os.environ[LAUNCHER]))()


@dataclass(frozen=True)
class LastWords:
    """The final error of a process, written where torchrun's elastic agent reads it."""

    message: str  # one sentence
    exit_code: int
    lost: bool = False  # it failed because another process had failed
    rank: int = field(default_factory=rank)
    timestamp: float = field(default_factory=time.time)  # torchrun's own report uses this and `message`

    def leave(self) -> bool:
        """Write the error unless an earlier one exists; return whether a file exists afterwards."""
        path = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
        with contextlib.suppress(OSError):  # such as a full disk, which may be the error itself
            if path and not os.path.exists(path):
                write_json(path, asdict(self))
        return os.path.exists(path)


def last_words(logs: str) -> list[LastWords]:
    """Return the errors that processes left below the agent's log folder, the earliest first."""
    words = [LastWords(**json.loads(path.read_text())) for path in Path(logs).rglob("error.json")]
    return sorted(words, key=lambda one: one.timestamp)


def take_over_slurm() -> None:
    """Translate the environment of an `srun` job with several tasks into torchrun's variables, used everywhere else."""
    its = os.environ
    if not _is_task_of_slurm() or "RANK" in its:
        return
    from lightning.fabric.plugins.environments import SLURMEnvironment

    tasks = re.match(r"\d+", its["SLURM_STEP_TASKS_PER_NODE"])  # such as 8(x2)
    assert tasks is not None
    its.update(
        RANK=its["SLURM_PROCID"],
        LOCAL_RANK=its["SLURM_LOCALID"],
        GROUP_RANK=its["SLURM_NODEID"],
        WORLD_SIZE=its["SLURM_NTASKS"],
        LOCAL_WORLD_SIZE=tasks.group(),
        MASTER_ADDR=SLURMEnvironment.resolve_root_node_address(its["SLURM_NODELIST"]),
        MASTER_PORT=str(15000 + int(its["SLURM_JOB_ID"]) % 10000),  # so that jobs on one machine do not collide
        TORCHELASTIC_RUN_ID=its["SLURM_JOB_ID"],
    )


@contextmanager
def process_group(accelerator: str) -> Iterator[None]:
    """Connect the processes of a run, and silence stdout of all but the first."""
    if world_size() == 1:
        yield
        return
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, _, _ = next(torch.distributed.rendezvous("env://"))
    group = torch.distributed.PrefixStore("group", store)
    torch.distributed.init_process_group(
        store=group, rank=rank(), world_size=world_size(), timeout=timedelta(minutes=30)
    )
    with contextlib.ExitStack() as stack:
        if rank():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    _meet(store)  # not after an error, when the others may never arrive
    torch.distributed.destroy_process_group()


def _meet(store: Any) -> None:
    """Wait for all processes: one that exits early resets connections that others may still read from."""
    with contextlib.suppress(RuntimeError):  # the store's host has exited, which it does only after all arrived
        if store.add("here", 1) == world_size():
            store.set("all here", "")
        store.wait(["all here"])


def are_connected() -> bool:
    """Return whether the processes of this run are connected; before that, all do the same and fail alike."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def broadcast_object(value: T) -> T:
    """Broadcast the value of the first process to all."""
    if world_size() == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def all_gather_object(value: T) -> list[T]:
    """Gather the values of all processes, by rank, in every process."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: Any) -> Any:
    """Return the sum of a tensor over all processes."""
    if world_size() > 1:
        import torch

        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
    return tensor


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the first process of each machine before the others, so that only it downloads files."""
    if world_size() == 1:
        yield
        return
    import torch

    first = os.environ["LOCAL_RANK"] == "0"
    if not first:
        torch.distributed.barrier()
    yield
    if first:
        torch.distributed.barrier()
