"""A run's folder is locked by one process at a time, and no link in it leads outside."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from zoo import files
from zoo.errors import BadInput
from zoo.export.export_report import check_boards
from zoo.records import config_file

HOLD = (
    "import sys, time; from zoo.files import locked\nwith locked(sys.argv[1], 'it'): print(flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(monkeypatch):
    """Return a function that starts another process which holds a lock, and returns that process."""
    monkeypatch.setattr(files, "SECONDS_FOR_LOCK", 0.1)
    started = []

    def hold(path):
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"\n"
        return started[-1]

    yield hold
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


@pytest.fixture
def begun(compose, toy_smoke, tmp_path):
    """Write the folder of a run that was stopped before its first checkpoint."""
    folder = tmp_path / "runs/toy/2026-01-01"
    folder.mkdir(parents=True)
    config = OmegaConf.to_container(compose(*toy_smoke))
    choices = {"model": "lenet5", "data": "fashion_mnist", "task": "classification", "compress": "none"}
    config_file.write_config(
        folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**config, "choices": choices}))
    )
    return folder


def test_a_lock_is_for_one_process_and_ends_with_it_however_it_ends(holder, tmp_path):
    with files.locked(tmp_path / ".lock", "it"):
        pass
    other = holder(tmp_path / ".lock")
    with pytest.raises(BadInput, match="it is in use by another process"), files.locked(tmp_path / ".lock", "it"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with files.locked(tmp_path / ".lock", "it"):
        pass


def test_a_run_that_another_process_trains_is_not_resumed(command, holder, begun):
    litter = begun / ".last.ckpt.x.part"
    litter.touch()
    other = holder(begun / ".lock")
    outcome = command("train", f"resume={begun}")
    assert outcome.code == 2
    assert f"{begun} is in use by another process" in outcome.sentence
    assert litter.exists()  # the other process may be writing it
    assert {path.name for path in begun.iterdir()} == {"config.yaml", ".lock", litter.name}
    other.kill()
    other.wait()
    outcome = command("train", f"resume={begun}")
    assert outcome.code == 0, outcome.err
    assert not litter.exists()


@pytest.mark.parametrize("name", ["log.txt", "metrics.csv", "00000", "projector_config.pbtxt", ".lock"])
def test_nothing_is_written_through_a_link(command, begun, tmp_path, name):
    target = tmp_path / "mine"
    target.mkdir() if name == "00000" else target.write_text("mine")
    (begun / name).symlink_to(target)
    outcome = command("train", f"resume={begun}")
    assert outcome.code == 2
    assert f"{begun / name} is a link" in outcome.sentence
    assert list(target.iterdir()) == [] if name == "00000" else target.read_text() == "mine"


def test_a_pipe_in_a_folder_is_told_and_not_waited_for(command, begun):
    os.mkfifo(begun / "last.ckpt")
    outcome = command("train", f"resume={begun}")
    assert outcome.code == 2
    assert "last.ckpt is a link or a special file" in outcome.sentence
    (begun / "config.yaml").unlink()
    os.mkfifo(begun / "config.yaml")
    assert "is not a run folder" in command("train", f"resume={begun}").sentence
    assert command("scripts/compare", str(begun)).code == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("lr: 0.003", "lr: 0.004"), "delete its first line"),
        (lambda text: "\n".join(text.splitlines()[1:-20]) + "\n", "config.yaml"),
        (lambda text: "a: &a [*a]\n" + text, "aliases"),
    ],
    ids=["edited", "cut", "aliases"],
)
def test_a_config_that_is_not_the_runs_is_told(command, begun, change, sentence):
    (begun / "config.yaml").write_text(change((begun / "config.yaml").read_text()))
    outcome = command("train", f"resume={begun}")
    assert outcome.code == 2
    assert sentence in outcome.sentence


def without(state, *path):
    """Remove an entry of nested dictionaries."""
    for key in path[:-1]:
        state = state[key]
    del state[path[-1]]


# States that Lightning would ignore, or fail on with a traceback.
LACKING = {
    "a callback": lambda state: without(state, "callbacks", "BestProduct"),
    "a part of a callback": lambda state: without(state, "callbacks", "TrainingMonitor", "losses"),
    "no dictionary": lambda state: state["callbacks"]["BestProduct"].update(best=[1]),
    "no metrics": lambda state: state["callbacks"]["BestProduct"].update(best={"epoch": 0}),
    "the data's place": lambda state: without(state, "ImageData"),
    "a data's epoch": lambda state: without(state, "ImageData", "train_loader", "epoch"),
    "the loop": lambda state: without(state, "loops", "fit_loop"),
    "a loop's progress": lambda state: without(state, "loops", "fit_loop", "epoch_progress", "current", "completed"),
    "an optimizer": lambda state: state.update(optimizer_states=[]),
    "a schedule": lambda state: state.update(lr_schedulers=[]),
    "counts": lambda state: without(state, "train_counts"),
    "a weight": lambda state: without(state, "state_dict", next(iter(state["state_dict"]))),
    "generators": lambda state: state["random_states"][0].update(python=(3, (1, 2), None)),
}


def test_a_checkpoint_that_lacks_what_the_run_needs_is_told_in_one_sentence(command, toy_smoke, only_run):
    assert command("train", *toy_smoke).code == 0
    folder = only_run()
    whole = (folder / "last.ckpt").read_bytes()
    for what, damage in LACKING.items():
        (folder / "last.ckpt").write_bytes(whole)
        state = torch.load(folder / "last.ckpt", weights_only=True)
        damage(state)
        torch.save(state, folder / "last.ckpt")
        outcome = command("train", f"resume={folder}", "trainer.max_epochs=2")
        assert outcome.code == 2, (what, outcome.err)
        *_, last = outcome.err.strip().splitlines()
        assert last.startswith(f"error: {folder}/last.ckpt "), (what, outcome.err)
        assert "Traceback" not in outcome.err
    (folder / "last.ckpt").write_bytes(whole)
    assert command("train", f"resume={folder}", "trainer.max_epochs=2").code == 0


def test_exporting_replaces_nothing_that_a_link_leads_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").touch()
    check_boards(tmp_path / "run")
    (tmp_path / "run/exports").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="exports is a link"):
        check_boards(tmp_path / "run")
    (tmp_path / "run/exports").unlink()
    (tmp_path / "run/exports").mkdir()
    (tmp_path / "run/exports/onnx").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="exports/onnx is a link"):
        check_boards(tmp_path / "run")
