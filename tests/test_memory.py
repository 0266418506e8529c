"""Free memory is what the tightest limit leaves: the machine's, a cgroup's of either version, or the process's."""

import math
import resource
import subprocess
import sys

import pytest
from conftest import ROOT

from zoo import memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write the files that Linux shows for a machine with 8,000 kB available and a process of 100 kB."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def write(**files):
        for name, text in files.items():
            path = (proc if name.startswith(("meminfo", "self")) else groups) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(
        meminfo="MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **{"self/status": "VmPeak: 900 kB\nVmSize: 100 kB\n"}
    )
    return write


def test_without_limits_it_is_what_linux_has_available(machine):
    assert memory.available_bytes() == 8000 * 1024


V1 = {
    "self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n",
    "memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/a/b/memory.usage_in_bytes": "1000000\n",
    "memory/a/memory.limit_in_bytes": "3000000\n",  # the limit is that of the cgroup above
    "memory/a/memory.usage_in_bytes": "1500000\n",
    "memory/a/memory.stat": "inactive_file 7\ntotal_inactive_file 200000\n",
}
V2 = {
    "self/cgroup": "0::/a/b\n",
    "a/b/memory.max": "max\n",
    "a/b/memory.high": "3000000\n",
    "a/b/memory.current": "1500000\n",
    "a/b/memory.stat": "anon 7\ninactive_file 200000\n",
    "a/memory.max": "5000000\n",
    "a/memory.current": "1500000\n",
}
# A container without a cgroup namespace: the kernel names a path of the host, and its own folder is shown as the root
V1_CONTAINER = {
    "self/cgroup": "4:memory:/docker/17\n",
    "memory/memory.limit_in_bytes": "3000000\n",
    "memory/memory.usage_in_bytes": "1500000\n",
    "memory/memory.stat": "total_inactive_file 200000\n",
}
V2_CONTAINER = {
    "self/cgroup": "0::/\n",
    "memory.max": "3000000\n",
    "memory.current": "1500000\n",
    "memory.stat": "inactive_file 200000\n",
}


@pytest.mark.parametrize("files", [V1, V2, V1_CONTAINER, V2_CONTAINER])
def test_a_cgroup_leaves_its_limit_less_what_is_used_and_no_mere_cache(machine, files):
    machine(**files)
    assert memory.available_bytes() == 3_000_000 - (1_500_000 - 200_000)


def test_the_processes_of_a_run_share_the_machine_and_not_their_own_limits(machine, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.available_bytes() == 8000 * 1024 // 2
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1_000_000, math.inf))
    assert memory.available_bytes() == 1_000_000 - 100 * 1024


def test_what_is_used_up_is_0_and_an_unknown_system_sets_no_bound(machine, tmp_path, monkeypatch):
    machine(**V2)
    (tmp_path / "cgroup/a/memory.current").write_text("6000000\n")
    assert memory.available_bytes() == 0
    monkeypatch.setattr(memory, "PROC", tmp_path / "nowhere")
    assert memory.available_bytes() == sys.maxsize


def test_this_kernel_is_understood():
    """A process with `ulimit -v` 4 GiB can map the reported memory, minus some MiB of the interpreter, but not more."""
    code = (
        "import mmap, resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "from zoo import memory; free = memory.available_bytes(); print(free)\n"
        "kept = mmap.mmap(-1, free - 2**24)\n"
        "try: mmap.mmap(-1, 2**25)\n"
        "except OSError: print('full')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    free, full = done.stdout.split()
    assert 2**31 < int(free) < 2**32
    assert full == "full"


def test_a_peak_counts_what_was_freed():
    """In a process of its own: what other tests have left may be freed at the same time."""
    code = (
        "from zoo import memory; before = memory.reset_peak(); size = 2**26\n"
        "block = bytearray(size); block[:: 2**12] = b'1' * (size >> 12); del block\n"
        "print(memory.peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 60 * MIB < int(done.stdout) < 100 * MIB
