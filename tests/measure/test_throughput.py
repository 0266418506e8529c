import pytest
import torch

from zoo import memory
from zoo.measure import throughput
from zoo.measure.throughput import fastest_batch_size

CPU = torch.device("cpu")


class Machine:
    """A machine with its own clock: `seconds(n)` for a step of n samples, and memory for `room` samples."""

    def __init__(self, monkeypatch, seconds, room=10**9):
        self.now, self.seconds, self.room, self.tried = 0.0, seconds, room, set()
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)

    def step(self, n):
        self.tried.add(n)
        if n > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.now += self.seconds(n)


@pytest.mark.parametrize(
    ("launch", "fastest"),
    [(0.0, 16), (0.016, 256)],  # seconds per step in addition to 1 ms per sample: 272 ms for 256, 6 % of it overhead
)
def test_the_smallest_size_is_taken_that_is_about_as_fast_as_any(monkeypatch, launch, fastest):
    machine = Machine(monkeypatch, lambda n: launch + 0.001 * n)
    assert fastest_batch_size(machine.step, 4096, CPU) == fastest
    assert max(machine.tried) <= 8 * fastest


def test_one_size_that_is_slow_by_accident_ends_no_search(monkeypatch):
    machine = Machine(monkeypatch, lambda n: 1.0 if n != 64 else 10.0)
    assert fastest_batch_size(machine.step, 1024, CPU) == 1024


@pytest.mark.parametrize(("room", "fits"), [(100, 64), (5, 4), (1, 1)])
def test_running_out_of_memory_is_survived(monkeypatch, room, fits):
    machine = Machine(monkeypatch, lambda n: 1.0, room)
    assert fastest_batch_size(machine.step, 4096, CPU) == fits


def test_no_size_above_the_largest_is_tried(monkeypatch):
    machine = Machine(monkeypatch, lambda n: 1.0)
    assert fastest_batch_size(machine.step, 175, CPU) == 128
    assert fastest_batch_size(machine.step, 3, CPU) == 3


def test_other_errors_and_a_net_that_fits_nowhere_are_raised(monkeypatch):
    with pytest.raises(torch.OutOfMemoryError):
        fastest_batch_size(Machine(monkeypatch, lambda n: 1.0, room=0).step, 64, CPU)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fastest_batch_size(lambda n: torch.ones(n, 3) @ torch.ones(2), 64, CPU)


def test_what_a_cpu_says_where_memory_is_out_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.is_out_of_memory(caught.value)
