import random
import zipfile

import numpy as np
import pytest
import torch
from stored import unseen

from zoo.callbacks.resume import AtomicCheckpointIO, get_random_states, set_random_states
from zoo.errors import BadInput

STATE = {
    "epoch": 1,
    "global_step": 4,
    "pytorch-lightning_version": "2.6.6",
    "state_dict": {"net.weight": torch.arange(12.0).view(3, 4)},
    "loops": {"fit_loop": {}},
    "callbacks": {"BestProduct": {"best": {}}},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1}]}],
    "lr_schedulers": [{"last_epoch": 4}],
    "random_states": [get_random_states()],
    "stopped_early_at": None,
}
HOSTILE = [None, "text", -1, [1], {"x": 1}, float("nan")]


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002  the global stream is meant


def test_random_streams_go_on_after_a_round_trip_through_a_file(tmp_path):
    file = AtomicCheckpointIO()
    file.save_checkpoint({**STATE, "random_states": [get_random_states()]}, tmp_path / "x.ckpt")
    expected = [draw() for _ in range(3)]
    set_random_states(file.load_checkpoint(tmp_path / "x.ckpt")["random_states"][0])
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "cut short"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(BadInput, match="damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def read(path):
    return AtomicCheckpointIO().load_checkpoint(path)


def test_no_damage_of_a_checkpoint_is_read_as_something_else(tmp_path):
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert unseen(tmp_path / "last.ckpt", read) == []


@pytest.mark.parametrize("key", STATE)
@pytest.mark.parametrize("value", [*HOSTILE, "absent"], ids=[*(str(type(one).__name__) for one in HOSTILE), "absent"])
def test_a_checkpoint_that_lacks_a_state_is_refused(tmp_path, key, value):
    state = {name: one for name, one in STATE.items() if name != key} | ({} if value == "absent" else {key: value})
    if type(value) is type(STATE[key]) or (key == "stopped_early_at" and value is None):
        return
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match=r"last\.ckpt is damaged or is no checkpoint of ours"):
        read(tmp_path / "last.ckpt")


def test_the_checkpoint_before_is_offered_and_then_the_product(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (3, 4, 5):
        AtomicCheckpointIO().save_checkpoint({**STATE, "global_step": step}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=rf"of step 4: mv {tmp_path}/previous\.ckpt {path}"):
        read(path)
    (tmp_path / "previous.ckpt").write_bytes(b"damaged, too")
    with pytest.raises(BadInput, match="train anew"):
        read(path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadInput, match=rf"init_from={tmp_path}/model\.safetensors"):
        read(path)


def rewritten(path, compression, name, change):
    """Write an archive again with another compression, and one of its parts changed."""
    with zipfile.ZipFile(path) as before:
        parts = {one: before.read(one) for one in before.namelist()}
    with zipfile.ZipFile(path, "w", compression) as after:
        for one, content in parts.items():
            after.writestr(one, change(content) if one.endswith(name) else content)


def test_a_checkpoint_that_takes_more_memory_than_its_file_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(STATE | {"zeros": torch.zeros(10_000_000, dtype=torch.uint8)}, path)
    rewritten(path, zipfile.ZIP_DEFLATED, "", bytes)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadInput, match="it is compressed"):
        read(path)
    torch.save(STATE, path)
    reserve = b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR."  # bytearray(2**31 - 1)
    rewritten(path, zipfile.ZIP_STORED, "data.pkl", lambda _: b"\x80\x02" + reserve)
    with pytest.raises(BadInput, match="it reserves memory"):
        read(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"x": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match="no checkpoint of ours"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()
