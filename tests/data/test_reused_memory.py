"""Memory of batches that is used again, and never while anything refers to it."""

import sys

import pytest
import torch

from zoo.data import reused_memory
from zoo.data.reused_memory import ReusedMemory


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(reused_memory, "LARGE", 1)


def images(num=4, memory_format=torch.channels_last):
    return torch.zeros(num, 3, 8, 6, dtype=torch.uint8).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_tensor_has_the_shape_and_layout_asked_for_and_the_memory_of_one_that_is_gone(memory_format):
    memory, like = ReusedMemory(), images(memory_format=memory_format)
    places = set()
    for i in range(5):
        found = memory.empty_like(like).fill_(i)
        assert (found.shape, found.stride(), found.dtype) == (like.shape, like.stride(), torch.float32)
        assert found.data_ptr() % 64 == 0  # as torch aligns its own
        places.add(found.data_ptr())
        assert (found == i).all()
    assert len(places) == 2  # the last one is there while the next is made


@pytest.mark.parametrize(
    "holding",
    [
        lambda x: x[1:, 0],
        lambda x: x.numpy(),
        lambda x: torch.utils.dlpack.to_dlpack(x),
        lambda x: (torch.ones(1, requires_grad=True) * x).sum(),  # autograd keeps it for the gradient
        lambda x: x.untyped_storage(),
    ],
    ids=["view", "numpy", "dlpack", "autograd", "storage"],
)
def test_memory_that_anything_refers_to_is_left_alone(holding):
    memory = ReusedMemory()
    first = memory.empty_like(images()).fill_(7)
    place = first.data_ptr()
    held = holding(first)
    del first
    others = [memory.empty_like(images()) for _ in range(3)]
    assert place not in {other.data_ptr() for other in others}
    del held, others
    assert len(memory._unused) == 2


def test_other_sizes_get_other_memory_and_small_ones_that_of_torch(monkeypatch):
    memory = ReusedMemory()
    place = memory.empty_like(images()).data_ptr()
    assert memory.empty_like(images(3)).data_ptr() != place
    assert memory.empty_like(images(0)).shape == (0, 3, 8, 6)
    assert memory.empty_like(images()).data_ptr() == place
    monkeypatch.setattr(reused_memory, "LARGE", 4 * images().numel() + 1)
    memory = ReusedMemory()
    memory.empty_like(images())
    assert len(memory._unused) == 0


def test_no_memory_is_used_twice_whenever_another_thread_lets_go_of_some():
    """Between any two steps of Python's that return the memory of a tensor, another tensor is made."""
    step, is_last = 0, False
    while not is_last:
        step += 1
        memory, made = ReusedMemory(), []
        one, other = (memory.empty_like(images()) for _ in range(2))
        num_steps = 0

        def trace(frame, event, _, memory=memory, made=made, step=step):
            nonlocal num_steps
            if frame.f_code is ReusedMemory._take_back.__code__:
                frame.f_trace_opcodes = True
                num_steps += event == "opcode"
                if num_steps == step and not made:
                    made.append(memory.empty_like(images()))
            return trace

        del one
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            del other
        finally:
            sys.settrace(before)
        is_last = not made
        made += [memory.empty_like(images()) for _ in range(3)]
        assert len({tensor.data_ptr() for tensor in made}) == len(made)
    assert step > 3
