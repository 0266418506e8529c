"""Runs of two processes on a CPU: same results as one process, and the loss of one of them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, sentence_of
from safetensors.torch import load_file

from zoo import distributed

# 3,499 digits for training; two processes get unequal numbers for validation and for testing
ODD = [
    "trainer=cpu",
    "data.batch_size=64",
    "data.num_test=1001",
    "data.num_validation=501",
    "optim=sgd",
    "optim.lr=0.01",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=50",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
]
TWO = ["trainer.devices=2"]


@pytest.fixture
def train(process, tmp_path):
    """Run train.py to completion in a separate process, and return the folder of its run."""

    def run(name, *arguments):
        one = process("train", f"name={name}", *arguments)
        _, err = one.communicate(timeout=300)
        assert one.returncode == 0, err
        assert not err.strip(), err
        (folder,) = (path.parent for path in tmp_path.glob(f"runs/{name}/*/result.json"))
        return folder

    return run


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def curve(folder):
    return [float(row["train/loss"]) for row in rows(folder) if row["train/loss"]]


def test_two_processes_give_the_curve_of_one_and_count_every_test_image_once(train, process):
    alone, two, parts = (
        train("alone", *ODD),
        train("two", *ODD, *TWO),
        train("parts", *ODD, *TWO, "trainer.strategy=fsdp2"),
    )
    assert len(curve(alone)) == 50
    for other in (two, parts):
        assert curve(other) == pytest.approx(curve(alone), abs=1e-4)
        result = json.loads((other / "result.json").read_text())
        assert result["processes"] == 2
        assert result["num_samples"]["test"] == 1001
        evaluated = process("evaluate", f"checkpoint={other}/model.safetensors")  # by one process, same weights
        evaluated.communicate(timeout=100)
        evaluation = json.loads((other / "evaluation.json").read_text())
        assert evaluation["num_samples"] == 1001
        assert result["test"]["accuracy"] == evaluation["accuracy"]
        assert result["test"]["loss"] == pytest.approx(evaluation["loss"], abs=1e-6)
        kept, whole = (load_file(folder / "predictions.safetensors") for folder in (other, alone))
        assert kept["labels"].equal(whole["labels"])  # in the order of the data
        assert float((kept["labels"] == kept["predicted"]).double().mean()) == result["test"]["accuracy"]
        assert not list(other.glob("*.part"))
        norms, expected = ([row["train/gradient_norm"] for row in rows(folder)] for folder in (other, alone))
        assert [float(n) for n in norms if n] == pytest.approx([float(n) for n in expected if n], rel=1e-2)
    assert "train/accuracy" in (two / "metrics.csv").read_text()


def test_torchrun_and_slurm_start_the_processes_as_well(tmp_path):
    smoke = ["name=theirs", "trainer=smoke", "trainer.accelerator=cpu", "callbacks.progress=null"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, str(ROOT / "train.py"), *smoke], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("runs/theirs/*")
    assert json.loads((folder / "result.json").read_text())["processes"] == 2

    slurm = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "17", "SLURM_NODELIST": "localhost"}
    slurm |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "zoo"}
    line = [sys.executable, str(ROOT / "train.py"), *smoke, "name=slurm"]
    tasks = [
        subprocess.Popen(
            line,
            cwd=tmp_path,
            env={**os.environ, **slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [task.communicate(timeout=200)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    (folder,) = tmp_path.glob("runs/slurm/*")
    assert json.loads((folder / "result.json").read_text())["processes"] == 2


@pytest.fixture
def endless(process, tmp_path):
    """Start a run of two processes and return it once it has saved a checkpoint."""

    def start(name):
        many = [a for a in ODD if not a.startswith(("trainer.limit", "trainer.max"))]
        run = process("train", *many, *TWO, "trainer.max_epochs=1000", f"name={name}")
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob(f"runs/{name}/*/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.2)
        return run

    return start


def workers_of(pid):
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True)
    return sorted(int(line.split()[0]) for line in done.stdout.splitlines() if "train.py" in line)


def test_a_killed_process_ends_the_run_soon_in_one_sentence_and_resume_goes_on(endless, process, tmp_path):
    run = endless("lost")
    os.kill(workers_of(run.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, err = run.communicate(timeout=100)
    assert time.monotonic() - killed < 60
    assert run.returncode == 1
    (folder,) = tmp_path.glob("runs/lost/*")
    sentence = sentence_of(err)
    assert sentence.startswith("error: process 1 of 2 was killed by SIGKILL")
    assert f"resume={folder.relative_to(tmp_path)}" in sentence

    epochs = 1 + max(int(float(row["epoch"])) for row in rows(folder) if row["epoch"])
    again = process("train", f"resume={folder}", f"trainer.max_epochs={epochs + 1}")
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    result = json.loads((folder / "result.json").read_text())
    assert result["processes"] == 2
    assert result["epochs"] == epochs + 1
    steps = [int(row["step"]) for row in rows(folder)]
    assert steps == sorted(set(steps))


PARENT = """
import subprocess, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from zoo.run import directory, launch
with launch._environment(directory.Run(Path("unused"), OmegaConf.create({"trainer": {"devices": 2}})), 2):
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(100)
"""
CHILD = """
import os, time
from zoo.cli.command import command
story = command("train")(lambda cfg: None)
try: story()
finally:
    print(os.getpid(), flush=True)
    time.sleep(100)
"""


def test_processes_die_with_the_one_that_started_them(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    stat = Path(f"/proc/{child}/stat")
    assert stat.exists()
    with parent:
        parent.kill()
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().split()[2] != "Z":  # possibly a zombie without a parent to reap it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    late = {**os.environ, distributed.LAUNCHER: str(parent.pid)}  # which ended before the child could check
    assert subprocess.run([sys.executable, str(ROOT / "train.py"), "--help"], env=late).returncode == 1


@pytest.mark.parametrize(
    ("cards", "arguments", "words"),
    [
        (0, ["trainer.devices=3"], ["trainer.devices=3", "at most 2", "CPU cores"]),
        (0, ["trainer.devices=99", "trainer.accelerator=cpu"], ["trainer.devices=99", "at most 2", "CPU cores"]),
        (0, ["trainer.devices=2", "trainer.accelerator=gpu"], ["trainer.accelerator: expected auto or cpu"]),
        (2, ["trainer.devices=3"], ["trainer.devices=3", "at most 2", "CUDA devices"]),
        (2, ["trainer.devices=[2]"], ["trainer.devices=[2]", "at most 2", "CUDA devices"]),
        (2, ["trainer.devices=[1,1]"], ["trainer.devices=[1, 1]", "each device once"]),
        (0, ["+trainer.num_nodes=2"], ["trainer.num_nodes: expected", "torchrun"]),
        (0, ["+trainer.num_nodes=2", *TWO], ["trainer.num_nodes: expected", "torchrun"]),
        (0, ["+trainer.num_nodes=x"], ["trainer.num_nodes: expected", "torchrun"]),
    ],
)
def test_devices_and_machines_that_are_not_there_are_refused(command, tmp_path, monkeypatch, cards, arguments, words):
    monkeypatch.setattr(distributed, "num_cores", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(cards))
    outcome = command("train", *arguments)
    assert outcome.code == 2
    assert all(word in outcome.sentence for word in words)
    assert not (tmp_path / "runs").exists()


def test_a_signal_stops_both_and_saves(endless):
    run = endless("told")
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 143
    assert err.strip().startswith("error: stopped by SIGTERM after step")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("raise OSError(28, 'No space left on device')", "error: No space left on device; files saved before"),
        ("import os; os._exit(7)", "error: process 1 of 2 ended with 7 and no message, so the others were"),
    ],
)
def test_what_ends_the_second_process_alone_is_told_in_one_sentence(process, tmp_path, monkeypatch, fails, words):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import lightning\n"
        "    def fail(*_, **__):\n"
        f"        {fails}\n"
        "    lightning.seed_everything = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    run = process("train", "trainer=smoke", "trainer.accelerator=cpu", *TWO, "name=half")
    _, err = run.communicate(timeout=200)
    assert run.returncode == 1
    assert sentence_of(err).startswith(words)
    assert not list((tmp_path / "temporary").iterdir())


def test_where_last_words_cannot_be_written_they_are_said(process, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "missing" / "error.json"))
    run = process("train", "compres=prune")
    _, err = run.communicate(timeout=100)
    assert run.returncode == 2
    assert "there is no setting 'compres'" in sentence_of(err)


def test_a_sweep_runs_each_of_its_jobs_in_two_processes(process, tmp_path):
    run = process("train", "-m", "seed=1,2", "trainer=smoke", "trainer.accelerator=cpu", *TWO, "name=sweep")
    _, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    results = [json.loads(file.read_text()) for file in tmp_path.glob("runs/sweep/*/result.json")]
    assert sorted((result["seed"], result["processes"]) for result in results) == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.batch_size=63"], "data.batch_size=63 cannot be divided among 2 processes"),
        (["trainer.strategy=fsdp2", "task.l1=0.1"], "fsdp2 shards them; use ddp"),
        (["trainer.strategy=fsdp2", "callbacks=ema"], "fsdp2 shards them; use ddp"),
        (["trainer.devices=0"], "trainer.devices: expected"),
        (["trainer.devices=[]"], "trainer.devices: expected"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_in_one_sentence_and_leaves_no_folder(process, tmp_path, arguments, words):
    run = process("train", "trainer=smoke", "trainer.accelerator=cpu", "callbacks.progress=null", *TWO, *arguments)
    _, err = run.communicate(timeout=200)
    assert run.returncode == 2
    sentence = sentence_of(err)
    assert words in sentence
    assert not list(tmp_path.glob("runs/*/*"))
