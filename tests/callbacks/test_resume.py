import copy
import random
import shutil
import zipfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from stored import unseen

from zoo.callbacks.resume import AtomicCheckpointIO, get_random_states, set_random_states
from zoo.callbacks.state import check_training
from zoo.errors import BadInput
from zoo.optim.muon import Muon

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
    with pytest.raises(BadInput, match=r"last\.ckpt is damaged or not a checkpoint of this project"):
        read(tmp_path / "last.ckpt")


def test_the_checkpoint_before_is_offered_and_then_the_product(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (3, 4, 5):
        AtomicCheckpointIO().save_checkpoint({**STATE, "global_step": step}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=rf"of step 4, is intact: mv {tmp_path}/previous\.ckpt {path}"):
        read(path)
    (tmp_path / "previous.ckpt").write_bytes(b"damaged, too")
    with pytest.raises(BadInput, match="start a new run"):
        read(path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadInput, match=rf"init_from={tmp_path}/model\.safetensors"):
        read(path)


def rewritten(path, compression, name, change):
    """Rewrite an archive with another compression, and with one of its parts changed."""
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


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.zeros(4, 4)[:, :2],
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to(torch.float8_e5m2),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
    ],
    ids=["spread", "gaps", "complex", "float8", "sparse", "meta"],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(tmp_path, tensor):
    torch.save({**STATE, "callbacks": {"x": {"deep": [(tensor,)]}}}, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match=r"last\.ckpt is damaged or not a checkpoint of this project"):
        read(tmp_path / "last.ckpt")


def test_tensors_in_any_order_of_memory_are_read(tmp_path):
    images = torch.zeros(2, 3, 4, 5)
    kept = [images.to(memory_format=torch.channels_last), images.mT, images[1:], torch.zeros(()), torch.zeros(0, 3)]
    torch.save({**STATE, "callbacks": {"x": {"kept": kept}}}, tmp_path / "last.ckpt")
    assert len(read(tmp_path / "last.ckpt")["callbacks"]["x"]["kept"]) == len(kept)


def of_training(kind=torch.optim.AdamW, steps=2):
    """Return a substitute for a trainer with one optimizer and schedule, and the states of both after some steps."""
    net = torch.nn.Linear(3, 2)
    optimizer = kind(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(steps):
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step(lambda: net(torch.ones(1, 3)).sum())
        schedule.step()
    states = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    configs = [SimpleNamespace(scheduler=schedule)]
    return SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=configs, lightning_module=net), states


@pytest.mark.parametrize(
    "kind", ["AdamW", "SGD", "Adagrad", "RMSprop", "Rprop", "NAdam", "Adafactor", "LBFGS", "ASGD", "Muon"]
)
def test_the_state_of_every_kind_of_optimizer_is_taken_up(kind):
    """Our Muon counts its steps in its groups, which have no count before the first step."""
    kind = partial(Muon, matrices=True) if kind == "Muon" else getattr(torch.optim, kind)
    fresh, _ = of_training(kind, steps=0)
    check_training(fresh, of_training(kind)[1])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("optimizer_states",), []),
        (("lr_schedulers",), []),
        (("optimizer_states", 0, "state"), "x"),
        (("optimizer_states", 0, "state", 7), {}),
        (("optimizer_states", 0, "state", 0), "x"),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(2)),
        (("optimizer_states", 0, "state", 0, "exp_avg"), "x"),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(3, 2)),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.tensor([7.0])),  # the kernel would read out of bounds
        (("optimizer_states", 0, "state", 0, "exp_avg_sq"), torch.tensor(7.0)),
        (("optimizer_states", 0, "state", 0, "step"), torch.tensor(torch.nan)),
        (("optimizer_states", 0, "param_groups", 0, "params"), [1, 0]),  # would swap their states
        (("optimizer_states", 0, "param_groups", 0, "params"), [0, 0]),
        (("optimizer_states", 0, "param_groups", 0, "params"), ["a", None]),
        (("optimizer_states", 0, "param_groups"), "x"),
        (("optimizer_states", 0, "param_groups", 0), {}),
        (("optimizer_states", 0, "param_groups", 0, "lr"), "x"),
        (("optimizer_states", 0, "param_groups", 0, "lr"), torch.inf),
        (("optimizer_states", 0, "param_groups", 0, "betas"), [0.9]),
        (("optimizer_states", 0, "param_groups", 0, "amsgrad"), True),
        (("optimizer_states", 0, "param_groups", 0, "fused"), "x"),
        (("lr_schedulers", 0, "last_epoch"), "x"),
        (("lr_schedulers", 0, "base_lrs"), []),
        (("lr_schedulers", 0, "get_lr"), 1),
        (("lr_schedulers", 0), {}),
    ],
)
def test_a_state_of_another_kind_is_refused_before_it_is_loaded(path, value):
    trainer, states = of_training()
    check_training(trainer, states)
    states = copy.deepcopy(states)
    part = states
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=r"(it|its) "):
        check_training(trainer, states)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(3)),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.tensor([7.0])),
        (("random_states", 0, "torch"), torch.zeros(3)),
        (("random_states", 0, "numpy", "state", "pos"), 2**31 - 1),
        (("random_states", 0, "numpy", "state", "pos"), -1),
        (("ImageData",), [1]),
        (("ImageData", "train_loader", "position"), "x"),
        (("loops", "fit_loop", "epoch_loop.state_dict", "_batches_that_stepped"), "x"),
    ],
    ids=["optimizer", "one number", "generator", "NumPy", "below 0", "data", "position", "loop"],
)
def test_a_run_that_cannot_go_on_from_its_state_says_so(command, tmp_path, path, value):
    """For the first, a fused optimizer wrote out of bounds, which crashed the process."""
    folder = tmp_path / "runs" / "resnet" / "earlier"
    shutil.copytree(ROOT / "tests" / "earlier" / "run", folder)
    state = part = torch.load(folder / "last.ckpt", weights_only=True)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    torch.save(state, folder / "last.ckpt")
    done = command("train", f"resume={folder}", "trainer.max_epochs=3")
    told = done.err.strip().splitlines()
    assert (done.code, len(told)) == (2, 2)  # where it resumes, and why it fails
    assert "last.ckpt does not hold the state of this run" in told[1]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"x": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(BadInput, match="not a checkpoint of this project"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()
