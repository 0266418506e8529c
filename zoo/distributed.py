"""The processes of a run, one a device: who this one is among them, and what all of them agree on.

They are started by zoo.run.launch, torchrun or SLURM, which say so in the environment; without, a run is one process.
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

# In the environment of processes that zoo.run.launch started: the run folder that it made for them, and its process id.
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
    """Return this process's number among those of its run; that of 0 writes the files and talks."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of this run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_numbers() -> None:
    """Raise BadInput where a number by which torchrun or SLURM counts processes is none."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS"):
        value = os.environ.pop(name) if not os.environ.get(name, "0").isdecimal() else None
        if value is not None:  # taken out, since the sentence itself is of the first process only
            raise BadInput(f"{name}: expected a whole number in the environment, got '{value}'; unset {name}")


def check_all_there() -> None:
    """Raise BadInput where the environment says of this process that it is one of several, and not of which."""
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
        del its[name]  # so that this process says it as one alone
    raise BadInput(f"{why}; start processes with {starter}, or one process with env -u {' -u '.join(there)}")


def started_together() -> bool:
    """Return whether torchrun or SLURM has started this process as one of several."""
    return world_size() > 1 or _is_task_of_slurm()


def _is_task_of_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dying_with(parent: int) -> Callable[[], None]:
    """Return what a child process calls to be killed as soon as its parent ends, however that ends."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return ask_kernel


def die_with_launcher() -> None:
    """Have this process killed as soon as zoo.run.launch ends, if that has started it."""
    if LAUNCHER in os.environ:
        dying_with(int(os.environ[LAUNCHER]))()


@dataclass(frozen=True)
class LastWords:
    """What a process of a run ended with, left where the engine of torchrun looks for it."""

    message: str  # one sentence
    exit_code: int
    lost: bool = False  # it failed since another process had
    rank: int = field(default_factory=rank)
    timestamp: float = field(default_factory=time.time)  # by this and `message` torchrun's own report goes

    def leave(self) -> bool:
        """Write them unless there are earlier ones; tell whether they or those are there to be read."""
        path = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
        with contextlib.suppress(OSError):  # such as a full disk, which may be what they tell of
            if path and not os.path.exists(path):
                write_json(path, asdict(self))
        return os.path.exists(path)


def last_words(logs: str) -> list[LastWords]:
    """Return what processes left below the engine's folder of logs, the earliest first."""
    words = [LastWords(**json.loads(path.read_text())) for path in Path(logs).rglob("error.json")]
    return sorted(words, key=lambda one: one.timestamp)


def take_over_slurm() -> None:
    """Say what `srun` says of a job of several tasks in torchrun's words, which all else here understands."""
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
        MASTER_PORT=str(15000 + int(its["SLURM_JOB_ID"]) % 10000),  # so that jobs on one machine do not meet
        TORCHELASTIC_RUN_ID=its["SLURM_JOB_ID"],
    )


@contextmanager
def joined(accelerator: str) -> Iterator[None]:
    """Connect the processes of a run, and keep all but the first from printing."""
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
    _meet(store)  # not after an error, when the others may never come
    torch.distributed.destroy_process_group()


def _meet(store: Any) -> None:
    """Wait until all processes are here: one that ends resets its connections, and what others had yet to read."""
    with contextlib.suppress(RuntimeError):  # the one that keeps the store has left, as it may only after all came
        if store.add("here", 1) == world_size():
            store.set("all here", "")
        store.wait(["all here"])


def are_connected() -> bool:
    """Return whether the processes of this run have met: before, all of them do and refuse the same."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def of_first(value: T) -> T:
    """Return what the first process gave, in each of them."""
    if world_size() == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def of_all(value: T) -> list[T]:
    """Return what each process gave, in each of them, in their order."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def total(tensor: Any) -> Any:
    """Return a tensor's sum over all processes."""
    if world_size() > 1:
        import torch

        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
    return tensor


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Let the first process of each machine go ahead, so that it alone downloads what the others then find."""
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
