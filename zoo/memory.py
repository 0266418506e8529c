"""Available memory and peak memory of this process."""

import contextlib
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from zoo import distributed

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# For versions 1 and 2: folder, files with limits, file with the usage, and the entry for its page cache
CGROUP_FILES = (
    ("memory", ["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file"),
    ("", ["memory.max", "memory.high"], "memory.current", "inactive_file"),
)


def available_bytes() -> int:
    """Return how many bytes this process may still allocate; the processes of a run share the memory of a machine.

    It is the minimum of what Linux reports as available and what cgroups (of containers, SLURM or systemd) and
    `ulimit -v` leave: beyond any of these, the process is killed or an allocation fails.
    """
    shared = min([1024 * _entry(PROC / "meminfo", "MemAvailable"), *_left_by_cgroups()])
    own = _address_space() - 1024 * _entry(PROC / "self/status", "VmSize", 0)
    least = max(0, min(shared / distributed.local_world_size(), own))
    return int(min(least, sys.maxsize))


def reset_peak() -> int:
    """Reset the peak memory, if Linux allows it, and return it."""
    with contextlib.suppress(OSError):
        (PROC / "self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return int(1024 * _entry(PROC / "self/status", "VmHWM", 0))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of Python or torch, which has no class for it on a CPU."""
    is_of_gpu = type(error).__name__ == "OutOfMemoryError"  # by name, since this module does not import torch
    return isinstance(error, MemoryError) or is_of_gpu or "allocate memory" in str(error)


def _address_space() -> float:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _left_by_cgroups() -> Iterator[float]:
    """Yield the bytes left by each limit of the process's cgroups and their parents, if visible.

    A container may show its own cgroup as the root, whatever path the kernel reports.
    """
    for line in _text(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, limits, used, cached = CGROUP_FILES[not controllers]
        inner = Path(path.strip("/"))
        for part in (inner, *inner.parents):
            folder = CGROUPS / root / part
            taken = _number(_text(folder / used), 0) - _entry(folder / "memory.stat", cached, 0)
            for limit in limits:
                yield _number(_text(folder / limit)) - taken


def _entry(path: Path, name: str, absent: float = math.inf) -> float:
    """Return the number after a name in a file with lines such as `MemAvailable:  300 kB`."""
    for line in _text(path).splitlines():
        words = line.replace(":", " ").split()
        if words[:1] == [name]:
            return _number(words[1], absent)
    return absent


def _number(text: str, absent: float = math.inf) -> float:
    return int(text) if text.strip().isdigit() else absent


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another operating system, or hidden in a container
        return ""
