import random

import numpy as np
import pytest
import torch

from zoo.callbacks.resume import AtomicCheckpointIO, get_random_states, set_random_states
from zoo.errors import BadInput


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002  the global stream is meant


def test_random_streams_go_on_after_a_round_trip_through_a_file(tmp_path):
    file = AtomicCheckpointIO()
    file.save_checkpoint({"random_states": get_random_states()}, tmp_path / "x.ckpt")
    expected = [draw() for _ in range(3)]
    set_random_states(file.load_checkpoint(tmp_path / "x.ckpt")["random_states"])
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", None, {"x": 1}], ids=["empty", "text", "cut short", "foreign"]
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(1000)}, path)
    if isinstance(content, dict):
        torch.save(content, path)
    else:
        path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(BadInput, match="damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"x": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match="no checkpoint of ours"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()
