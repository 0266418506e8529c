"""W&B, MLflow and trackio get what TensorBoard gets. Each is skipped where its package is not installed."""

import importlib.util
import json
import os
import shutil
import struct
import time

import numpy as np
import pytest
import torch
from conftest import compose_run, scalars, with_plots
from matplotlib.figure import Figure

from zoo.callbacks.board import Board
from zoo.callbacks.loggers import MetricsCSV
from zoo.callbacks.other_loggers import NOT_IN_MLFLOW, OTHERS, build_loggers, mlflow_name
from zoo.errors import BadInput
from zoo.run.config_checks import check_settings

NAMES = sorted(OTHERS)


def pictures(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: {e.step for e in events.Images(tag)} for tag in events.Tags()["images"]}


def level_db_records(content):
    """Yield the records of a log in LevelDB's format, after W&B's seven bytes: blocks of 32 KiB with fragments."""
    place, parts = 7, []
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield b"".join(parts)
            parts = []


def whole_file(path):
    """Return the records of a W&B file, once its own process has written that it ended."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(600):
        records = [wandb_internal_pb2.Record.FromString(one) for one in level_db_records(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{path} has no end")


def read_wandb(folder):
    """Return scalars, pictures and settings of the W&B files of a run, and their ids."""
    curves, shown, settings, ids = {}, {}, {}, set()
    for file in sorted(folder.glob("wandb/*/run-*.wandb")):
        ids.add(file.stem.removeprefix("run-"))
        for record in whole_file(file):
            for item in (*record.config.update, *record.run.config.update):
                settings[item.key or item.nested_key[0]] = item.value_json
            row = {tuple(i.nested_key) or (i.key,): json.loads(i.value_json) for i in record.history.item}
            for (name, *part), value in row.items():
                if part == ["_type"] and value == "image-file":
                    shown.setdefault(name, set()).add(row["step",])
                elif not part and isinstance(value, int | float) and not name.startswith("_") and name != "step":
                    curves.setdefault(name, []).append((row["step",], value))
    return curves, shown, settings, ids


def read_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (run,) = runs
    curves = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    shown, folders = {}, [""]
    while folders:
        for artifact in client.list_artifacts(run.info.run_id, folders.pop()):
            if artifact.is_dir:
                folders.append(artifact.path)
            elif artifact.path.endswith(".png"):
                name, _, step = artifact.path.removesuffix(".png").rpartition(" ")
                shown.setdefault(name, set()).add(int(step))
    return curves, shown, run.data.params, {run.info.run_id}


def read_trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{folder.parent.name} {folder.name}"
    curves, shown = {}, {}
    for row in SQLiteStorage.get_logs("zoo", name):
        for key, value in row.items():
            if isinstance(value, dict) and value.get("_type") == "trackio.image":
                shown.setdefault(key, set()).add(row["step"])
            elif isinstance(value, int | float) and key not in ("step", "timestamp"):
                curves.setdefault(key, []).append((row["step"], value))
    return curves, shown, SQLiteStorage.get_run_config("zoo", name), {name}


READERS = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


@pytest.fixture(scope="session")
def home_of_trackio(tmp_path_factory):
    """Set where trackio writes, which it reads when it is imported."""
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))


@pytest.fixture
def other(request, monkeypatch, home_of_trackio):
    """A logger whose package is installed, without variables of its own that would make it use a network."""
    pytest.importorskip(request.param)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    return request.param


def of_mlflow(name, other):
    return mlflow_name(name) if other == "mlflow" else name


def assert_same(folder, other):
    curves, shown, settings, _ = READERS[other](folder)
    expected = {of_mlflow(name, other): points for name, points in scalars(folder).items()}
    assert curves.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in sorted(curves[name])] == [step for step, _ in sorted(points)], name
        np.testing.assert_allclose([v for _, v in sorted(curves[name])], [v for _, v in sorted(points)], rtol=1e-5)
    assert shown == {of_mlflow(name, other): steps for name, steps in pictures(folder).items()}
    return settings


@pytest.mark.parametrize("other", NAMES, indirect=True)
def test_scalars_pictures_and_settings_are_those_of_tensorboard_and_a_resumed_run_goes_on(tmp_path, other):
    folder = tmp_path / "runs" / "toy" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    ids = []
    for from_step in (None, 20):
        loggers = build_loggers(["tensorboard", other], folder, {"optim.lr": 0.1, "model": "lenet5"}, from_step)
        assert [type(one) for one in loggers if not isinstance(one, Board)] == [MetricsCSV]
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.5, "a")
        for logger in loggers:
            step = from_step or 9
            logger.log_metrics({"train/loss": 2.0, "lr": 0.1, "epoch": 0, "test/accuracy": 0.5}, step=step)
            logger.log_metrics({"val/accuracy": 0.25, "compress/stage": 1.0}, step=step)
            logger.log_hyperparams({"Parameters, M": 0.06, "lr": 0.1}, {"latency, ms": 0.4}, step=step)
            if isinstance(logger, Board):
                logger.add_picture("with the test set/confusion matrix", figure, step)
                logger.add_picture("zoo diagnostics/filters", torch.zeros(4, 5, 3, dtype=torch.uint8), step)
                logger.add_text("diagnostics/reading", "- Nothing stands out & <ends>.", step)
                logger.close()
        ids.append(READERS[other](folder)[-1])
        settings = assert_same(folder, other)
    assert ids[0] == ids[1]  # one run, with both parts
    assert len(ids[0]) == 1
    of_result = {of_mlflow("Parameters, M", other)} if other != "trackio" else set()  # which keeps those of the start
    assert {"optim.lr", *of_result} <= settings.keys()


@pytest.mark.parametrize("other", ["mlflow"], indirect=True)
def test_a_folder_of_mlflow_that_names_another_place_for_its_pictures_is_refused(tmp_path, other):
    folder = tmp_path / "toy" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    build_loggers([other], folder, {}, None)[-1].close()
    moved = tmp_path / "elsewhere" / "toy"
    shutil.copytree(folder.parent, moved)
    with pytest.raises(BadInput, match=r"mlruns was written in another folder"):
        build_loggers([other], moved / folder.name, {}, 9)


@pytest.mark.slow
@pytest.mark.parametrize("other", NAMES, indirect=True)
def test_a_whole_run_is_logged_as_in_tensorboard(command, toy, only_run, other):
    toy = [*with_plots(toy), "trainer.max_epochs=2", "callbacks=diagnostics", f"logger=[tensorboard,{other}]"]
    outcome = command("train", *toy)
    assert outcome.code == 0, outcome.err
    assert_same(only_run(), other)
    assert command("train", f"resume={only_run()}", "trainer.max_epochs=3").code == 0
    curves, _, _, ids = READERS[other](only_run())
    expected = scalars(only_run())["train/loss"]
    assert [step for step, _ in curves["train/loss"]] == [step for step, _ in expected]
    assert len(ids) == 1


def test_a_logger_whose_package_is_missing_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in NAMES:
        with pytest.raises(BadInput, match=rf"^logger: .*pip install -e '\.\[{name}\]'"):
            check_settings(compose_run(f"logger=[tensorboard,{name}]"))
    check_settings(compose_run("logger=[tensorboard,csv]"))


def test_without_tensorboard_a_run_has_its_metrics_file_alone(tmp_path):
    (logger,) = build_loggers(["csv"], tmp_path, {}, None)
    logger.log_metrics({"train/loss": 2.0}, step=9)
    logger.finalize("success")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_names_for_mlflow_have_only_its_characters_and_stay_below_the_run():
    assert mlflow_name("with the result/latency, ms") == "with the result/latency ms"
    for name in ("../../a", "a//b", "/etc/x", "with attention/…", "a/../b"):
        made = mlflow_name(name)
        assert not NOT_IN_MLFLOW.search(made)
        assert not {"", ".", ".."} & set(made.split("/"))
