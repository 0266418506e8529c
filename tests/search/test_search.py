"""A search resumes where it was killed, neither a crash nor a NaN loss ends it, and pruning saves epochs."""

import json
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import torch
from conftest import scalars
from optuna.trial import TrialState
from stored import CONFIG, RESULT

from zoo.search import study, trials

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
ONE_OF_EACH = ["optim.lr=0.003,1e30", "+callbacks.crash=null,{_target_:os.abort}", "sampler=random", "seed=2"]


def trials_of(folder):
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db").trials


def processes_in(folder):
    """Return the ids of processes that train in a folder, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder) and "train.py" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def wait_for(condition, running):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)


def kill_in_mid_trial(process, line, folder, number=0):
    """Start a search, kill it as soon as a trial has saved its first state, and check that the trial ends with it."""
    running = process("scripts/search", *line)
    wait_for(lambda: list(folder.glob(f"trial_{number:03}/*/last.ckpt")), running)
    assert processes_in(folder.parents[1])
    running.send_signal(signal.SIGKILL)
    running.communicate()
    time.sleep(0.5)
    assert processes_in(folder.parents[1]) == []
    assert not list(folder.glob(f"trial_{number:03}/*/result.json")), "the trial had ended before it could be killed"
    assert trials_of(folder)[number].state == RUNNING


@pytest.fixture
def line(toy):
    return [a for a in toy if not a.startswith(("name=", "optim.lr="))] + ["name=found", "optim=sgd"]


def test_killed_in_mid_trial_it_goes_on_and_a_crash_and_a_nan_do_not_end_it(command, process, line, tmp_path):
    """With this seed the first of three draws is sound, the second crashes, and the third learns at a rate of 1e30."""
    line, folder = [*line, *ONE_OF_EACH, "trainer.max_epochs=20", "trials=3"], tmp_path / "runs/found"
    kill_in_mid_trial(process, line, folder)
    outcome = command("scripts/search", *line)
    assert outcome.code == 0, outcome.err
    assert [trial.state for trial in trials_of(folder)] == [COMPLETE, FAIL, PRUNED]
    assert "failed: killed by SIGABRT" in outcome.out
    assert "diverged: the loss became" in outcome.out

    (run,) = (file.parent for file in folder.glob("trial_000/*/config.yaml"))  # one, since it was resumed
    result = json.loads((run / "result.json").read_text())
    assert result["epochs"] == 20
    assert trials_of(folder)[0].value == result["validation"]["accuracy"]
    assert len(scalars(run)["val/accuracy"]) == 20
    (best,) = (line for line in outcome.out.splitlines() if line.startswith("Best "))
    assert "optim.lr=0.003 +callbacks.crash=null" in best


@pytest.mark.slow
def test_killed_twice_it_draws_and_finds_what_an_undisturbed_search_does(command, process, line, tmp_path):
    line = ["optim.lr=tag(log,interval(1e-3,1))", "model=lenet5,lenet300", "pruner=halving", "trials=6", *line]
    line = [*line, "trainer.max_epochs=12"]
    folder = tmp_path / "runs/found"
    assert command("scripts/search", *line).code == 0
    undisturbed = trials_of(folder)
    folder.rename(tmp_path / "undisturbed")
    kill_in_mid_trial(process, line, folder)
    number = next(t.number for t in undisturbed if t.number and t.state == COMPLETE)
    kill_in_mid_trial(process, line, folder, number)
    assert command("scripts/search", *line).code == 0
    for trial, expected in zip(trials_of(folder), undisturbed, strict=True):
        assert trial.params == expected.params
        assert trial.state == expected.state
        assert trial.value == expected.value
        assert trial.intermediate_values == expected.intermediate_values


# A trainer of milliseconds, whose validation rises to 1 for learning rates near 0.01, and to less for others.
DOUBLE = """
import json, math, os, sys, time
from pathlib import Path

said = dict(argument.split("=", 1) for argument in sys.argv[1:])
if "resume" in said:
    folder = Path(said["resume"].strip("'"))
    said = json.loads((folder / "said.json").read_text())
else:
    folder = Path(said["runs"].strip("'")) / said["name"] / "stamp"
    folder.mkdir(parents=True)
    (folder / "said.json").write_text(json.dumps(said))
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    config = {**CONFIG, "trainer": {"max_epochs": int(said["trainer.max_epochs"])}}
    (folder / "config.yaml").write_text(json.dumps(config) + "\\n")
best, rows = 1 - abs(math.log10(float(said["optim.lr"])) + 2) / 10, ["step,epoch,val/accuracy"]
for epoch in range(int(said["trainer.max_epochs"])):
    time.sleep(0.1)
    value = best * (1 - 0.5 ** (epoch + 1))
    rows.append(f"{epoch},{epoch}.0,{value}")
    (folder / "metrics.part").write_text("\\n".join(rows) + "\\n")
    (folder / "metrics.part").rename(folder / "metrics.csv")
result = {**RESULT, "validation": {"accuracy": value}, "test": {"accuracy": 1 - best}}
result["product_bytes"] = round(1000 * float(said["optim.lr"])) + 1000
(folder / "result.json").write_text(json.dumps(result))
"""
DOUBLE = f"CONFIG, RESULT = {CONFIG!r}, {RESULT!r}\n{DOUBLE}"


@pytest.fixture
def quick(command, tmp_path, monkeypatch):
    """Search with a trainer of milliseconds in place of train.py, and return the trials."""
    (tmp_path / "double.py").write_text(DOUBLE)
    monkeypatch.setattr(trials, "commands", lambda: {"train": tmp_path / "double.py"})
    monkeypatch.setattr(study, "SECONDS_BETWEEN_LOOKS", 0.02)

    def search(*arguments, name="found", code=0):
        line = ["optim.lr=tag(log, interval(1e-5, 1))", "trainer.max_epochs=3", f"name={name}", *arguments]
        outcome = command("scripts/search", *line)
        assert code in (None, outcome.code), outcome.err
        return trials_of(tmp_path / "runs" / name), outcome

    return search


@pytest.mark.parametrize("name", ["a%41b", "a?b", "a#b", "a{b}", "a b"])
def test_a_study_is_in_the_file_of_its_name_whatever_that_means_in_a_url(tmp_path, name):
    for _ in range(2):
        storage = study._storage(tmp_path / name)
        optuna.create_study(storage=storage, study_name="x", load_if_exists=True).ask()
        storage.remove_session()
        storage.engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with sqlite3.connect(tmp_path / name) as database:
        assert database.execute("SELECT COUNT(*) FROM trials").fetchall() == [(2,)]


def test_a_study_that_cannot_be_written_ends_in_one_sentence(command, monkeypatch):
    """Optuna and SQLAlchemy wrap SQLite's error, whether the disk is full or, as here, not writable."""
    storage = study._storage

    def read_only(path):
        whole = storage(path)
        sqlalchemy.event.listen(whole.engine, "checkout", lambda one, *_: one.execute("PRAGMA query_only = 1"))
        return whole

    monkeypatch.setattr(study, "_storage", read_only)
    outcome = command("scripts/search", "optim.lr=0.01,0.1", "name=found")
    assert outcome.code == 1
    assert "study.db: attempt to write a readonly database" in outcome.sentence


def test_a_study_that_is_no_database_ends_in_one_sentence(command, tmp_path):
    (tmp_path / "runs/found").mkdir(parents=True)
    (tmp_path / "runs/found/study.db").write_bytes(b"no database, and more than a hundred bytes" * 99)
    outcome = command("scripts/search", "optim.lr=0.01,0.1", "name=found")
    assert outcome.code == 2
    assert "study.db is damaged (file is not a database)" in outcome.sentence


def test_a_trial_that_falls_behind_is_stopped(quick, tmp_path):
    found, _ = quick("pruner=halving", "trials=8", "sampler=random", "trainer.max_epochs=20")
    best = -1.0
    for trial in found:
        first = trial.intermediate_values[1]  # of the first seven, only the leaders at epoch 1 continue
        assert trial.state == (COMPLETE if first > best else PRUNED) or trial.number == 7
        best = max(best, first)
    stopped = [trial.number for trial in found if trial.state == PRUNED]
    assert stopped
    for number in stopped:
        (file,) = tmp_path.glob(f"runs/found/trial_{number:03}/stamp/metrics.csv")
        assert len(file.read_text().splitlines()) < 21
        assert not (file.parent / "result.json").exists()


def test_the_best_is_chosen_by_validation_and_its_line_can_be_pasted(quick):
    """The trainer's test accuracy is better the worse its validation is, and its batch size has no effect."""
    found, outcome = quick("trials=12", "sampler=random", "pruner=none", "data=fashion_mnist", "data.batch_size=32,64")
    best = max(found, key=lambda trial: trial.value)
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("Best "))
    assert line.split() == [
        *("Best", "python", "train.py", "trainer.max_epochs=3", "data=fashion_mnist"),
        *(f"{key}={value}" for key, value in best.params.items()),
    ]
    importance = re.search(r"Importance  optim.lr (\d+)%", outcome.out)
    assert int(importance.group(1)) > 80


def test_with_a_cost_the_front_is_printed_stored_and_shown_and_goes_on_only_with_it(quick, tmp_path):
    """The accuracy falls with the distance of the rate from 0.01, and the bytes rise with the rate."""
    line = ["optim.lr=0.0001,0.001,0.01,0.1,1", "cost=bytes", "sampler=random", "trainer.max_epochs=1"]
    found, outcome = quick(*line, "trials=6")
    assert "pruner=median is off with two objectives" in outcome.out
    rates = {trial.number: float(trial.params["optim.lr"]) for trial in found}
    assert len({*rates.values()} - {0.01}) > 2
    assert 0.01 in rates.values()  # beyond it, both figures become worse
    stored = json.loads((tmp_path / "runs/found/front.json").read_text())
    assert stored["objectives"] == ["val/accuracy", "bytes"]
    assert {row["trial"] for row in stored["front"]} == {number for number, rate in rates.items() if rate <= 0.01}
    for row in stored["front"]:
        assert row["bytes"] == round(1000 * rates[row["trial"]]) + 1000
        assert (tmp_path / "runs/found" / row["run"] / "result.json").exists()
    assert [row["bytes"] for row in stored["front"]] == sorted(row["bytes"] for row in stored["front"])
    marked = sorted(int(folder.name[-3:]) for folder in (tmp_path / "runs/found/front").iterdir())
    assert marked == sorted(row["trial"] for row in stored["front"])
    table = outcome.out[outcome.out.index("The front") :]
    assert max(map(len, table[: table.index("completed")].splitlines())) <= 80
    assert quick(*[a for a in line if a != "cost=bytes"], "trials=6", code=2)[1].sentence.endswith(
        "is a search with cost bytes, not None; another name= begins a new one"
    )


def test_ctrl_c_stops_the_trials_and_the_same_command_ends_as_an_undisturbed_search(quick, monkeypatch):
    undisturbed, _ = quick("trials=12", name="undisturbed")
    sleep, looks = time.sleep, []

    def interrupted(seconds):
        looks.append(seconds)
        if len(looks) % 60 == 0:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(study.time, "sleep", interrupted)
    found, codes = [], []
    while not codes or codes[-1] == 130:
        found, outcome = quick("trials=12", code=None)
        codes.append(outcome.code)
    assert len(codes) > 2
    assert codes[-1] == 0
    assert [trial.params for trial in found] == [trial.params for trial in undisturbed]
    assert [trial.value for trial in found] == [trial.value for trial in undisturbed]


def test_a_study_is_as_long_as_it_was_asked_to_be_and_can_be_prolonged(quick):
    assert len(quick("trials=2", "pruner=none")[0]) == 2
    assert len(quick("trials=2", "pruner=none")[0]) == 2
    assert len(quick("trials=3", "pruner=none")[0]) == 3
    _, outcome = quick("trials=3", "pruner=none", "optim=sgd", code=2)
    assert "another name= begins a new one" in outcome.sentence


def test_trials_at_once_have_a_gpu_each_and_share_the_cores(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(study.distributed, "num_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found, _ = quick("trials=4", "jobs=2", "pruner=none")
    assert len(found) == 4
    environments = [json.loads(f.read_text()) for f in sorted(tmp_path.glob("runs/found/*/stamp/environment.json"))]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments[:2]] == ["4", "7"]
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {"4"}
    starts, ends = ([getattr(trial, what) for trial in found] for what in ("datetime_start", "datetime_complete"))
    assert max(starts[:2]) < min(ends[:2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["optim.lr=0.1"], "there is nothing to search over"),
        (["optim.lr=1,2", "jobs=0"], "jobs: expected a whole number of at least 1, got 0"),
        (["optim.lr=1,2", "jobs=9999"], "jobs=9999: expected at most"),
        (["optim.lr=1,2", "cost=size"], "cost: expected one of bytes, latency"),
        (["optim.lr=1,2", "cost=latency", "jobs=2"], "jobs=2: expected 1 with cost=latency"),
        (["compress=none,ptq_int8", "cost=latency"], "cost=latency: torch only simulates the int8 of compress=ptq"),
        (["optim.lr=1,2", "sampler=grid"], "sampler=grid is not a sampler; choose from random, tpe"),
        (["optim.lrr=1,2"], "there is no setting 'optim.lrr'; in optim did you mean optim.lr"),
        (["model=lenet5,lenet6"], "model=lenet6 cannot be chosen"),
        (["trials=1,2"], "trials=1,2 is the same for all trials"),
        (["optim.lr=tag(lin, interval(1, 2))"], "only supported tag is log"),
        (["optim.lr=1,2", "callbacks.product.metric=null"], "names no validation metric"),
        (["optim.lr=1,2", "trainer.devices=2"], "a trial has one device"),
        (["model=glob(*)"], "model=glob(*) cannot be searched over"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_sentence_and_leaves_nothing(command, tmp_path, arguments, sentence):
    outcome = command("scripts/search", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.sentence
    assert not (tmp_path / "runs").exists()
