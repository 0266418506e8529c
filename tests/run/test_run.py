"""A run from its command to its files, as a user sees it."""

import contextlib
import csv
import itertools
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import statistics
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import safetensors.torch
import torch
import yaml
from conftest import scalars, toy_images, toy_run, with_plots
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from sklearn.metrics import f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from zoo import memory
from zoo.callbacks.resume import ResumeCheckpoint
from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import read_product, save_product
from zoo.errors import BadInput
from zoo.instantiate import build
from zoo.models import small_maps
from zoo.models.inception_v3 import InceptionV3
from zoo.models.lenet import LeNet5
from zoo.run.directory import Run, _resumed_folder
from zoo.run.fit import _check_limits, _check_metrics, find_batch_size
from zoo.run.start_from_file import with_those_of_file
from zoo.run.task import build_task
from zoo.run.trainer import resolve_precision
from zoo.tasks.classification import ImageClassification
from zoo.tasks.metrics import ClassificationMeter


def csv_rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_whole_folder_and_learns(command, toy, only_run):
    outcome = command("train", *with_plots(toy))
    assert outcome.code == 0, outcome.err
    folder = only_run()
    files = {path.name for path in folder.iterdir() if not path.name.startswith(("events.out.tfevents", ".lock"))}
    assert files == {
        *("config.yaml", "metrics.csv", "last.ckpt", "model.safetensors", "result.json", "log.txt"),
        *("predictions.safetensors", "projector_config.pbtxt", "00000"),
    }
    assert len(list(folder.glob("events.out.tfevents*"))) == 1

    result = json.loads((folder / "result.json").read_text())
    assert result["params"] == 61_706
    assert result["macs"] == 416_520
    assert result["test"]["accuracy"] > 0.9
    assert result["num_samples"] == {"train": 640, "val": 60, "test": 200}
    assert result["epochs"] == 3
    assert result["bytes"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert f"{result['test']['accuracy']:.2%}" in outcome.out
    assert "tensorboard --logdir runs" in outcome.out

    rows = csv_rows(folder)
    assert [r["step"] for r in rows if r["train/loss"]] == ["3", "7", "9", "13", "17", "19", "23", "27", "29"]
    best = max(float(r["val/accuracy"]) for r in rows if r["val/accuracy"])
    assert result["validation"]["accuracy"] == best

    tags = scalars(folder)
    curves = {"train/loss", "train/accuracy", "val/accuracy", "val/loss"}
    others = {f"val/{name}" for name in ("top5", "balanced_accuracy", "macro_f1")}
    assert {tag for tag in tags if tag < "w"} == curves | others  # what is shown first
    after = {"while training", "with the result"}
    assert {tag.partition("/")[0] for tag in tags if tag >= "w"} == {*after, "with the result, more"}
    assert [tag for tag in tags if len(tags[tag]) == 1 and not tag.startswith("with the result")] == []
    assert tags["with the result/test accuracy"][0][1] == pytest.approx(result["test"]["accuracy"])


def test_the_hparams_table_gets_a_row_with_real_metrics_and_says_what_was_limited(command, toy_smoke, only_run):
    """Two batches of 20 images are measured, out of 60 and 200."""
    outcome = command("train", *toy_smoke, "+data.eval_batch_size=20")
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    assert result["num_samples"] == {"train": 128, "val": 40, "test": 40}
    assert result["split_sizes"] == {"train": 640, "val": 60, "test": 200}
    assert result["settings"]["trainer.limit_test_batches"] == 2
    assert "validation (40 of 60)" in outcome.out
    assert "test (40 of 200)" in outcome.out
    events = EventAccumulator(str(only_run()))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert start["Model"].string_value == "lenet5"
    assert start["With compression"].string_value == "none"
    assert start["Parameters, M"].number_value == pytest.approx(0.061706, rel=1e-3)
    assert start["Size, kB"].number_value == pytest.approx(result["product_bytes"] / 1000, rel=1e-3)
    assert start["lr"].number_value == pytest.approx(0.003)
    assert start["limit_test_batches"].number_value == 2
    assert "accumulate_grad_batches" not in start
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    first = sorted(column.name for column in experiment.hparam_infos if column.differs)  # TensorBoard shows five
    assert first == ["Model", "On data", "Parameters, M", "Size, kB", "With compression"]
    columns = experiment.metric_infos
    shown = ["latency, ms", "validation accuracy", "test accuracy", "test loss", "minutes"]
    assert [column.display_name for column in columns][:5] == shown
    assert {"test loss", "validation loss", "test top5", "MMACs"} <= {column.display_name for column in columns}
    assert not {column.display_name for column in columns} & start.keys()
    tags = scalars(only_run())
    for column in columns:  # a column without a value would show -1
        assert tags[column.name.tag]
    assert tags["with the result/test accuracy"][0][1] == pytest.approx(result["test"]["accuracy"])


def test_part_of_the_batches_has_samples_of_every_class_though_the_data_are_in_their_order(command, only_run):
    line = ["data=mnist_5k", "model=lenet300", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    limits = ["trainer.limit_test_batches=1", "trainer.limit_val_batches=1", "trainer.log_every_n_steps=1"]
    assert command("train", *line, *limits).code == 0
    labels = safetensors.torch.load_file(only_run() / "predictions.safetensors")["labels"]
    counts = labels.bincount(minlength=10)  # of 1,000 test images, 100 of each class, in two batches
    assert counts.tolist() == [50] * 10


def test_the_product_knows_its_net_its_data_and_its_makers(command, toy_smoke, only_run):
    command("train", *toy_smoke)
    with safetensors.safe_open(only_run() / "model.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["zoo"])
    assert facts["config"]["model"]["_target_"] == "zoo.models.lenet.LeNet5"
    assert facts["data"]["classes"][9] == "Ankle boot"
    assert len(facts["data"]["mean"]) == 1
    assert facts["data"]["split_hash"]
    assert facts["versions"]["torch"]
    assert facts["recipe"] == []
    assert facts["best"]["epoch"] == 0
    assert "val/accuracy" in facts["best"]["metrics"]


def test_an_evaluation_of_another_checkpoint_is_not_replaced(command, teacher, tmp_path):
    assert command("evaluate", f"checkpoint={teacher}", "out=here").code == 0
    before = (tmp_path / "here/evaluation.json").read_bytes()
    (tmp_path / "other").mkdir()
    product = read_product(teacher)
    save_product(tmp_path / "other/model.safetensors", {k: 2 * v for k, v in product.weights.items()}, product.facts)
    refused = command("evaluate", "checkpoint=other/model.safetensors", "out=here")
    assert (refused.code, "another checkpoint" in refused.sentence) == (2, True)
    assert (tmp_path / "here/evaluation.json").read_bytes() == before
    assert command("evaluate", f"checkpoint={teacher}", "out=here").code == 0  # the same again


def test_evaluate_needs_nothing_but_the_file_and_repeats_the_runs_numbers(command, toy, only_run, tmp_path):
    command("train", *toy)
    folder = only_run()
    result = json.loads((folder / "result.json").read_text())
    shutil.move(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    shutil.rmtree(tmp_path / "runs")
    for split, key in (("test", "test"), ("val", "validation")):
        outcome = command("evaluate", f"checkpoint={tmp_path}/elsewhere.safetensors", f"split={split}")
        assert outcome.code == 0, outcome.err
        ending = "_elsewhere.safetensors" + ("" if split == "test" else "_val")
        evaluation = json.loads((tmp_path / f"evaluation{ending}.json").read_text())
        assert evaluation["accuracy"] == pytest.approx(result[key]["accuracy"])
        assert evaluation["loss"] == pytest.approx(result[key]["loss"], rel=1e-5)
        matrix = torch.tensor(evaluation["confusion_matrix"])
        assert int(matrix.sum()) == evaluation["num_samples"]
        assert "Ankle boot" in outcome.out
    assert (tmp_path / "confusion_matrix_elsewhere.safetensors.png").read_bytes().startswith(b"\x89PNG")


def test_other_data_than_the_file_knows_are_refused(command, toy_smoke, only_run, fashion_root, tmp_path):
    command("train", *toy_smoke)
    product = only_run() / "model.safetensors"
    shutil.copytree(fashion_root, tmp_path / "other")
    labels = tmp_path / "other/FashionMNIST/raw/train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8], content[9] = content[9], content[8]
    labels.write_bytes(content)
    outcome = command("evaluate", f"checkpoint={product}", f"data_root={tmp_path}/other")
    assert outcome.code == 2
    assert "not those the net was trained on" in outcome.sentence


def test_a_file_that_asks_for_foreign_code_is_refused(command, toy_smoke, only_run, tmp_path):
    """An attacker can compute checksums as well: a file may call only nets and data of the zoo."""
    from zoo.checkpoint.product_file import save_product
    from zoo.models.lenet import LeNet5

    command("train", *toy_smoke)
    facts = read_product(only_run() / "model.safetensors").facts
    for group, node in (
        ("model", {"_target_": "os.system", "command": f"touch {tmp_path}/owned"}),
        ("data", {**facts["config"]["data"], "source": {"_target_": "os.getcwd"}}),
        ("model", {"_target_": "zoo.models.lenet.torch.load", "f": str(tmp_path / "pickle"), "weights_only": False}),
        ("model", {"_target_": "zoo.models.lenet.LeNet5", "in_channels": "${e}"}),
        ("data", {**facts["config"]["data"], "_target_": "zoo.data.sources._unpack_debian_fashion_mnist"}),
    ):
        evil = {**facts, "config": {**facts["config"], group: node}}
        save_product(tmp_path / "evil.safetensors", LeNet5(image_size=28).state_dict(), evil)
        outcome = command("evaluate", f"checkpoint={tmp_path}/evil.safetensors")
        assert outcome.code == 2
        assert f"{group}." in outcome.sentence or "config is too long, or is an interpolation" in outcome.sentence
    assert not (tmp_path / "owned").exists()


def test_a_sweep_makes_a_folder_a_run_and_survives_one_that_fails(command, toy_smoke, tmp_path):
    line = [a for a in toy_smoke if not a.startswith(("name=", "data.batch_size="))]
    outcome = command("train", "-m", "model=lenet300,lenet5", "data.batch_size=64,100000", *line)
    assert outcome.code == 2
    assert outcome.err.count("error: data.batch_size=100000 is larger") == 2
    done = sorted(path.parent.parent.name for path in tmp_path.glob("runs/*/*/result.json"))
    assert done == ["lenet300_fashion_mnist", "lenet5_fashion_mnist"]


@pytest.mark.parametrize("name", ["7", "nan"])
def test_a_name_that_looks_like_a_number_is_a_name(command, toy_smoke, tmp_path, name):
    line = [a for a in toy_smoke if not a.startswith("name=")]
    assert command("train", *line, f"name={name}").code == 0
    (result,) = tmp_path.glob(f"runs/{name}/*/result.json")
    assert json.loads(result.read_text())["name"] == name
    assert command("train", f"resume={result.parent}").code == 0


def test_an_automatic_batch_size_and_a_budget_of_tokens_exclude_each_other(command, toy):
    done = command(
        "train",
        "data=reverse",
        "data.batch_tokens=600",
        "data.batch_size=auto",
        *[a for a in toy if a.startswith(("trainer", "runs="))],
    )
    assert done.code == 2
    assert "data.batch_size=auto and data.batch_tokens both set the size of batches; use one of them" in done.err


def test_an_automatic_batch_size_is_settled_before_anything_is_drawn(command, toy, tmp_path):
    line = [a for a in toy if not a.startswith(("name=", "data.batch_size=", "trainer.max_epochs="))]
    line += ["trainer.max_epochs=1", "model=alexnet"]  # has dropout
    assert command("train", "data.batch_size=auto", *line, "name=auto").code == 0
    (folder,) = tmp_path.glob("runs/auto/*")
    size = yaml.safe_load((folder / "config.yaml").read_text())["data"]["batch_size"]
    assert size in (16, 32)  # 640 images, 20 steps
    assert f"data.batch_size=auto: batches of {size} samples." in (folder / "log.txt").read_text()
    assert command("train", f"data.batch_size={size}", *line, "name=given").code == 0
    (given,) = tmp_path.glob("runs/given/*")
    ours, theirs = (read_product(f / "model.safetensors").weights for f in (folder, given))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_no_batch_is_tried_that_a_cpu_has_no_memory_for(compose, toy, fashion_root, monkeypatch):
    """Without CPU memory a trial kills the process; without GPU memory it only raises an error."""
    cfg = compose(*toy, f"data_root={fashion_root}")
    data, net = build(cfg.data, "data"), LeNet5(1, 10, 28)
    run = Run(Path("unused"), cfg)
    task, trainer = build_task(run, net, data), lightning.Trainer(accelerator="cpu", logger=False, callbacks=[])
    tried = []
    clock = itertools.count()
    monkeypatch.setattr("zoo.measure.throughput.time.perf_counter", lambda: next(clock))  # larger is always faster
    monkeypatch.setattr(memory, "peak_bytes", lambda: 10**9 + max(tried, default=0) * 10**6)
    monkeypatch.setattr(memory, "available_bytes", lambda: 39 * 10**6)
    random_batch = data.random_batch
    monkeypatch.setattr(data, "random_batch", lambda num, device: tried.append(num) or random_batch(num, device))
    assert find_batch_size(trainer, task, data) == 16
    assert set(tried) == {16}  # with 640 images it would try 32 as well, which would take more than four fifths


def test_a_batch_norm_of_one_value_is_refused_before_training(command, toy, tmp_path):
    """torch would refuse it in the first step: Inception-v3's auxiliary head ends in maps of one pixel."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        InceptionV3(1, 10, 28).train()(torch.zeros(1, 1, 28, 28))
    line = [a for a in toy if not a.startswith("data.batch_size=")]
    outcome = command("train", *line, "data.batch_size=1", "model=inception_v3")
    assert outcome.code == 2
    assert all(words in outcome.sentence for words in ("data.batch_size=1", "at least 2", "batch norm"))
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_sweep_over_folds_ends_with_mean_and_spread(command, toy, tmp_path):
    outcome = command("train", "-m", "data.folds=2", "data.fold=0,1", *toy, "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/result.json")]
    for split in ("validation", "test"):
        found = [100 * result[split]["accuracy"] for result in results]
        assert f"{statistics.mean(found):.2f} % ± {statistics.stdev(found):.2f}" in outcome.out


def test_weights_are_taken_over_and_a_head_of_another_size_is_replaced_and_said(
    command, toy, toy_smoke, only_run, tmp_path
):
    command("train", *toy)
    product = (only_run()).rename(tmp_path / "first") / "model.safetensors"
    first = json.loads((product.parent / "result.json").read_text())

    outcome = command("train", *toy, f"init_from={product}", "optim.lr=1e-9", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    again = json.loads((only_run() / "result.json").read_text())
    assert again["test"]["accuracy"] == pytest.approx(first["test"]["accuracy"], abs=0.01)
    shutil.rmtree(tmp_path / "runs")

    outcome = command("train", *toy_smoke, f"init_from={product}", "task=rotation")
    assert outcome.code == 0, outcome.err
    assert "classifier.5 starts from random values" in outcome.err

    outcome = command("train", *toy_smoke, f"init_from={product}", "model=lenet300")
    assert outcome.code == 2
    assert "another net" in outcome.sentence


def test_a_finished_run_can_be_trained_further_in_the_same_folder_and_its_rate_may_jump(command, toy, only_run):
    """After 30 steps both milestones have passed; with 50 steps in total, only the first one at half has."""
    command("train", *toy, "schedule=step")
    first = csv_rows(only_run())
    for name, seconds in (("evaluation.json", 0), ("evaluation_model.zoo.json", 1), ("evaluation_val.json", 2**32)):
        (only_run() / name).write_text("{}")
        os.utime(only_run() / name, (seconds, seconds))
    outcome = command("train", f"resume={only_run()}", "trainer.max_epochs=5")
    assert outcome.code == 0, outcome.err
    assert "\nevaluation.json, evaluation_model.zoo.json: from an earlier product" in outcome.err
    assert "learning rate jumps from 3e-05 to 0.0003: the schedule now has 50 steps" in outcome.err
    second = csv_rows(only_run())
    kept = [row for row in second if int(row["step"]) < 30]
    assert [r["train/loss"] for r in kept] == [r["train/loss"] for r in first if int(r["step"]) < 30]
    assert max(int(r["step"]) for r in second if r["train/loss"]) == 49
    assert json.loads((only_run() / "result.json").read_text())["epochs"] == 5
    assert yaml.safe_load((only_run() / "config.yaml").read_text())["trainer"]["max_epochs"] == 5


def test_a_run_folder_and_the_newest_in_a_folder_stand_for_their_product(command, toy_smoke, tmp_path):
    assert command("train", *toy_smoke).code == 0
    (one,) = tmp_path.glob("runs/toy/*")
    wanted = read_product(one / "model.safetensors").weights
    for place in (one, one.parent):
        assert all(torch.equal(weight, wanted[name]) for name, weight in read_product(place).weights.items())
    outcome = command("train", f"init_from={one.parent}", "trainer=smoke", "name=two")  # with its net and its data
    assert outcome.code == 0, outcome.err
    (two,) = tmp_path.glob("runs/two/*")
    assert yaml.safe_load((two / "config.yaml").read_text())["init_from"] == str(one / "model.safetensors")
    facts = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert facts[0]["split_hash"] == facts[1]["split_hash"]
    shutil.copytree(one, one.parent / "later")
    (one / "model.safetensors").unlink()
    assert read_product(one.parent).path == one.parent / "later/model.safetensors"
    assert "a folder without a model.safetensors" in sentence_of_evaluate(command, tmp_path / "data")


def sentence_of_evaluate(command, place) -> str:
    return command("evaluate", f"checkpoint={place}").sentence


@pytest.mark.parametrize("kind", ["data set", "pictures"])
def test_the_commands_at_the_end_of_a_run_can_be_copied(command, fashion_root, tmp_path, kind):
    """Also for data outside of the default folder."""
    line = [one for one in toy_run(fashion_root) if "trainer" not in one and one != "name=toy"]
    if kind == "pictures":
        for split, name in itertools.product(("train", "val"), ("a", "b")):
            folder = tmp_path / "my pictures" / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(toy_images(6, seed=ord(name) + len(split))[0]):
                Image.fromarray(image).save(folder / f"{i}.png")
        line = ["data=image_folder", f"data.root={tmp_path / 'my pictures'}", "data.num_validation=2", "model=lenet5"]
        line += ["data.image_size=28", "data.batch_size=4", "data.cache=host", "data.num_workers=0"]
    done = command("train", *line, "trainer=smoke", "name=toy run")
    assert done.code == 0, done.err
    lines = dict(re.findall(r"^(Evaluate|Compress|Export) +python (.*)$", done.out, re.MULTILINE))
    more = {"Evaluate": [], "Compress": ["trainer=smoke", "name=next"], "Export": ["format=safetensors"]}
    assert lines.keys() == more.keys()
    for what, text in lines.items():
        script, *arguments = shlex.split(text)
        done = command(script.removesuffix(".py"), *arguments, *more[what])
        assert done.code == 0, (text, done.err)


def test_only_files_in_run_folders_stand_for_a_missing_path(tmp_path):
    for folder, files in (("backup", ["model.zoo"]), ("run", ["config.yaml", "model.safetensors"])):
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).touch()
    (tmp_path / "run" / "lenet").mkdir()
    for name in ("model.zoo", "m?del.safetensors", "lenet"):
        assert file_of(tmp_path / name) == tmp_path / name
    assert file_of(tmp_path / "model.safetensors") == tmp_path / "run/model.safetensors"


def test_an_older_run_is_used_only_with_a_warning(tmp_path, caplog):
    for stamp in ("2026-11-29_10-00-00", "2026-11-30_09-00-00"):
        (tmp_path / "first" / stamp).mkdir(parents=True)
        (tmp_path / "first" / stamp / "config.yaml").touch()
    older = tmp_path / "first/2026-11-29_10-00-00/model.safetensors"
    older.touch()
    assert file_of(tmp_path / "first") == older
    assert "the newest run, 2026-11-30_09-00-00, has no model.safetensors; using" in caplog.text


def test_of_a_folder_of_runs_the_newest_is_resumed(tmp_path):
    for stamp in ("2026-11-29_10-00-00", "2026-11-30_09-00-00", "2026-11-30_09-00-00-1"):
        (tmp_path / "first" / stamp).mkdir(parents=True)
        (tmp_path / "first" / stamp / "config.yaml").write_text("name: first\n")
        cfg = OmegaConf.create({"resume": str(tmp_path / "first"), "runs": str(tmp_path)})
        assert _resumed_folder(cfg) == tmp_path / "first" / stamp
        assert with_those_of_file([f"resume={tmp_path}/first"]) == [f"resume='{tmp_path}/first/{stamp}'"]


@pytest.mark.parametrize(
    ("setting", "came"),
    [
        ({"limit_train_batches": 0.0001}, "limit_train_batches: expected at least 0.01, "),
        ({"limit_val_batches": 0.04}, "limit_val_batches: expected at least 0.05, "),
        ({"limit_test_batches": 0.4}, "limit_test_batches: expected at least 0.5, "),
        ({"val_check_interval": 101}, "val_check_interval: expected at most 100, "),
        ({"val_check_interval": 11, "limit_train_batches": 10}, "val_check_interval: expected at most 10, "),
        ({"val_check_interval": 26, "limit_train_batches": 0.25}, "val_check_interval: expected at most 25, "),
        ({"limit_train_batches": 0.01, "limit_val_batches": 0.05, "limit_test_batches": 0.5}, None),
        ({"limit_val_batches": 0, "limit_test_batches": 5, "val_check_interval": 100}, None),
        ({"val_check_interval": 101, "check_val_every_n_epoch": None}, None),
    ],
)
def test_less_than_a_batch_is_refused_before_training(compose, setting, came):
    cfg = compose(*(f"++trainer.{key}={'null' if value is None else value}" for key, value in setting.items()))
    batches = {"train": 100, "val": 20, "test": 2}
    data = SimpleNamespace(loader=lambda split, device: range(batches[split]))
    with pytest.raises(BadInput, match=came) if came else contextlib.nullcontext():
        _check_limits(cfg, data)


@pytest.mark.parametrize("key", ["callbacks.product.metric", "callbacks.early_stopping.monitor"])
def test_a_metric_that_is_not_measured_is_refused_before_training(compose, key):
    task = SimpleNamespace(meter=ClassificationMeter())
    _check_metrics(compose("callbacks=early_stopping", f"{key}=val/top5"), task)
    with pytest.raises(BadInput, match=f"^{key}: expected a metric .*got 'val/acc'; did you mean val/accuracy"):
        _check_metrics(compose("callbacks=early_stopping", f"{key}=val/acc"), task)
    with pytest.raises(BadInput, match=f"^{key}: expected a metric .*got 'val/top5'"):
        _check_metrics(compose("callbacks=early_stopping", f"{key}=val/top5", "model.num_classes=5"), task)


def test_stopping_follows_the_metric_that_selects_the_epoch(compose):
    for task, watched in (("multilabel", ("val/map", "max")), ("regression", ("val/mae", "min"))):
        stopping = compose("data=image_table", "data.table=x", f"task={task}", "callbacks=early_stopping").callbacks
        assert (stopping.early_stopping.monitor, stopping.early_stopping.mode) == watched
    last = compose("callbacks=early_stopping", "callbacks.product.metric=null")
    with pytest.raises(BadInput, match=r"^callbacks\.early_stopping\.monitor: .*null"):
        _check_metrics(last, SimpleNamespace(meter=ClassificationMeter()))


@pytest.mark.parametrize("name", ["product", "early_stopping"])
def test_a_callback_that_would_keep_the_worst_epoch_is_refused(compose, name):
    key = {"product": "metric", "early_stopping": "monitor"}[name]
    line = ["callbacks=early_stopping", f"callbacks.{name}.{key}=val/loss"]
    task = SimpleNamespace(meter=ClassificationMeter())
    _check_metrics(compose(*line, f"callbacks.{name}.mode=min"), task)
    with pytest.raises(BadInput, match=f"^callbacks.{name}.mode: expected min for val/loss, got 'max'"):
        _check_metrics(compose(*line), task)


def test_resume_keeps_the_runs_own_config(command, toy_smoke, only_run):
    command("train", *toy_smoke)
    outcome = command("train", f"resume={only_run()}", "optim.lr=1")
    assert outcome.code == 2
    assert "optim.lr=1 cannot be set with resume" in outcome.sentence
    outcome = command("train", f"resume={only_run()}", "data.root=pictures")  # which the default data do not have
    assert outcome.code == 2
    assert "data.root cannot be set with resume" in outcome.sentence


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_last_checkpoint_is_one_sentence_and_the_product_stays(command, toy_smoke, only_run, damage):
    command("train", *toy_smoke)
    folder = only_run()
    before = (folder / "model.safetensors").read_bytes()
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000] if damage == "cut" else b"something else")
    outcome = command("train", f"resume={folder}", "trainer.max_epochs=4")
    assert outcome.code == 2
    assert "last.ckpt is damaged" in outcome.err
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_net_is_one_sentence(command, toy_smoke, only_run, tmp_path):
    command("train", *toy_smoke)
    only_run().rename(tmp_path / "lenet")
    command("train", *toy_smoke, "model=lenet300")
    shutil.copy(tmp_path / "lenet/last.ckpt", only_run() / "last.ckpt")
    outcome = command("train", f"resume={only_run()}", "trainer.max_epochs=4")
    assert outcome.code == 2
    assert "last.ckpt is of another net" in outcome.err.splitlines()[-1]


def test_nan_stops_the_run_says_the_step_and_keeps_the_good_weights(command, toy, only_run):
    """The first epochs are sound; then the run is resumed with a learning rate that makes any net diverge."""
    command("train", *toy, "schedule=constant", "optim=sgd", "optim.lr=0.01", "trainer.max_epochs=1")
    folder = only_run()
    product, last = ((folder / name).read_bytes() for name in ("model.safetensors", "last.ckpt"))
    config = folder / "config.yaml"
    state = torch.load(folder / "last.ckpt", weights_only=True)
    for group in state["optimizer_states"][0]["param_groups"]:
        group["initial_lr"] = group["lr"] = 1e18
    state["lr_schedulers"][0]["base_lrs"] = [1e18, 1e18]
    torch.save(state, folder / "last.ckpt")
    last = (folder / "last.ckpt").read_bytes()

    outcome = command("train", f"resume={folder}", "trainer.max_epochs=3")
    assert outcome.code == 3
    sentence = outcome.err.strip().splitlines()[-1]
    assert sentence.startswith("error: the loss became nan at step 1")  # 11 or one of the next
    assert "optim.lr" in sentence
    assert (folder / "model.safetensors").read_bytes() == product
    assert (folder / "last.ckpt").read_bytes() == last
    assert config.exists()


def test_a_full_disk_while_saving_is_one_sentence_and_what_was_saved_stays(command, process, toy, only_run):
    """The kernel limits files of the resumed run to 300 kB: the product still fits, last.ckpt does not."""
    command("train", *toy)
    folder = only_run()
    before = {name: (folder / name).read_bytes() for name in ("last.ckpt", "model.safetensors", "result.json")}
    assert len(before["model.safetensors"]) < 300_000 < len(before["last.ckpt"])
    running = process("train", f"resume={folder}", "trainer.max_epochs=5")
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    _, err = running.communicate()
    assert running.returncode == 1
    assert err.strip().splitlines()[-1].startswith("error: File too large"), err
    assert (folder / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert read_product(folder / "model.safetensors").facts["recipe"] == []
    assert not list(folder.glob(".*.part"))


def test_a_run_folder_that_cannot_be_written_is_one_sentence(command, toy, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    outcome = command("train", *toy)
    assert outcome.code == 1
    assert "runs" in outcome.sentence
    assert (tmp_path / "runs").read_text() == "a file where the folder should be"


def test_data_that_are_not_there_leave_no_run_behind_that_looks_whole(command, tmp_path, monkeypatch):
    from zoo.data import sources

    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    outcome = command("train", "data=fashion_mnist", f"data_root={tmp_path}/empty", "data.source.download=false")
    assert outcome.code == 2
    assert "FashionMNIST was not found" in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*/result.json"))


def test_early_stopping_ends_a_run_that_no_longer_improves(command, toy, only_run):
    line = [*toy, "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=50"]
    outcome = command("train", *line, "schedule=constant", "optim.lr=1e-9")
    assert outcome.code == 0, outcome.err
    assert json.loads((only_run() / "result.json").read_text())["epochs"] == 2


def test_with_ema_the_product_holds_the_averaged_weights_that_were_validated(command, toy, only_run):
    outcome = command("train", *toy, "callbacks=ema", "callbacks.ema.decay=0.9")
    assert outcome.code == 0, outcome.err
    folder = only_run()
    product = read_product(folder / "model.safetensors")
    state = torch.load(folder / "last.ckpt", weights_only=True)
    (average,) = (v["average"] for k, v in state["callbacks"].items() if "WeightEMA" in k)
    live = {k.removeprefix("net."): v for k, v in state["state_dict"].items() if k.startswith("net.")}
    assert product.facts["best"]["epoch"] == 2  # the toy task gets better every epoch
    for name, kept in product.weights.items():
        assert torch.equal(kept, average[name])
        assert not torch.equal(kept, live[name])


def test_callbacks_are_combined_by_name_and_keep_those_that_every_run_has(command, toy_smoke, only_run):
    outcome = command("train", *with_plots(toy_smoke), "callbacks=[ema,early_stopping]")
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    always = {"progress", "monitor", "product", "resume", "graph", "predictions"}
    assert config["callbacks"].keys() == always | {"ema", "early_stopping"}
    assert config["choices"]["callbacks"] == "ema+early_stopping"


@pytest.mark.parametrize("callbacks", ["emma", "[diagnostics,emma]"])
def test_a_callback_that_there_is_not_is_told_with_what_was_meant(command, callbacks):
    outcome = command("train", f"callbacks={callbacks}")
    assert outcome.code == 2
    assert "callbacks=emma" in outcome.sentence
    assert "ema" in outcome.sentence.partition("did you mean")[2]


def test_a_metric_named_in_the_config_is_measured_logged_and_kept_and_is_scikit_learns(command, toy, only_run):
    node = "{_target_: torchmetrics.classification.MulticlassF1Score, num_classes: 10}"
    line = [*with_plots(toy), f"+task.metrics.f1={node}", "callbacks.product.metric=val/f1", "callbacks=ema"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    with safe_open(only_run() / "predictions.safetensors", "numpy") as file:
        labels, predicted = (file.get_tensor(name) for name in ("labels", "predicted"))
    wanted = f1_score(labels, predicted, average="macro", labels=sorted({*labels, *predicted}))
    assert result["test"]["f1"] == pytest.approx(wanted, abs=1e-6)
    assert "f1" in outcome.out
    tags = scalars(only_run()).keys()
    assert {"val/f1", "val/raw_f1"} <= tags


@pytest.mark.parametrize("name", ["accuracy", "top5", "num_samples"])
def test_a_metric_that_the_task_measures_already_needs_another_name(command, name):
    node = "{_target_: torchmetrics.classification.MulticlassF1Score, num_classes: 10}"
    outcome = command("train", f"+task.metrics.{name}={node}")
    assert outcome.code == 2
    assert f"task.metrics.{name}" in outcome.sentence


def test_with_ema_the_raw_weights_are_validated_beside_the_average(command, compose, toy, only_run):
    """Compare with a manual pass over the final weights; several batches, the last one short."""
    line = [*toy, "+data.eval_batch_size=25"]
    assert command("train", *line, "callbacks=ema").code == 0
    net = LeNet5(image_size=28).eval()
    state = torch.load(only_run() / "last.ckpt", weights_only=True)["state_dict"]
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    data = build(compose(*line).data, "data")
    data.load()
    with torch.no_grad():
        logits, labels = map(torch.cat, zip(*((net(x), y) for x, y in data.loader("val", "cpu")), strict=True))
    (*_, last) = (row for row in csv_rows(only_run()) if row["val/accuracy"])
    assert float(last["val/raw_accuracy"]) == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert float(last["val/raw_loss"]) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert last["val/raw_loss"] != last["val/loss"]
    tags = scalars(only_run())
    assert [s for s, _ in tags["val/raw_loss"]] == [s for s, _ in tags["val/loss"]] == [9, 19, 29]
    validation = json.loads((only_run() / "result.json").read_text())["validation"]
    measured = {"accuracy", "loss", "top5", "balanced_accuracy", "macro_f1"}
    assert validation.keys() == measured | {f"raw_{name}" for name in measured}


def test_ema_and_its_second_validation_leave_training_as_it_is(command, toy, only_run, tmp_path):
    """Same weights, random states and train accuracy, also with limited batches."""
    states = []
    for choice in ("default", "ema"):
        line = ["model=resnet20", "model.depths=[1,1,1]", "model.stochastic_depth=0.5", "trainer.limit_val_batches=2"]
        assert command("train", *toy, *line, "+data.eval_batch_size=25", f"callbacks={choice}").code == 0
        states.append(torch.load(only_run() / "last.ckpt", weights_only=True))
        only_run().rename(tmp_path / choice)
    one, two = states
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert value.equal(two["state_dict"][name]), name
    assert one["random_states"][0]["torch"].equal(two["random_states"][0]["torch"])


@pytest.mark.parametrize(("precision", "by"), [("32-true", "norm"), ("bf16-mixed", "norm"), ("32-true", "value")])
def test_gradients_are_clipped_in_every_precision(command, toy, only_run, precision, by):
    """Clipped to almost nothing, plain SGD cannot move the weights."""
    line = [a for a in toy if not a.startswith("optim.")] + ["optim=sgd", "optim.momentum=0", "optim.nesterov=false"]
    line += ["optim.weight_decay=0", "trainer.gradient_clip_val=1e-6", f"trainer.precision={precision}", "seed=5"]
    line += [f"trainer.gradient_clip_algorithm={by}"]
    assert command("train", *line).code == 0
    torch.manual_seed(5)
    start = LeNet5(image_size=28).state_dict()
    product = read_product(only_run() / "model.safetensors")
    assert all(float((w - start[name]).abs().max()) < 1e-4 for name, w in product.weights.items())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_a_net_cast_to_a_precision_trains_is_counted_exactly_and_goes_on(command, toy, only_run, precision, loss):
    line = [f"trainer.precision={precision}", f"task.loss={loss}", "seed=2"]  # 1 loses a class where AVX2 rounds bf16
    assert command("train", *toy, *line).code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert (result["precision"], result["macs"]) == (precision, 416_520)
    assert result["test"]["accuracy"] > 0.9
    hits = 200 * result["test"]["accuracy"]  # bf16 would round the share to three digits
    assert hits == pytest.approx(round(hits), abs=1e-4)
    weights = read_product(only_run() / "model.safetensors").weights
    assert {w.dtype for w in weights.values()} == {torch.bfloat16 if precision == "bf16-true" else torch.float64}
    assert command("train", f"resume={only_run()}", "trainer.max_epochs=4").code == 0
    outcome = command("evaluate", f"checkpoint={only_run()}/model.safetensors")
    assert outcome.code == 0, outcome.err


def test_accumulated_batches_are_one_step_with_the_mean_loss(command, toy, only_run):
    line = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=1", "optim.lr=1e-9", "trainer.log_every_n_steps=1"]
    assert command("train", *toy, *line).code == 0
    rows = [r for r in csv_rows(only_run()) if r["train/loss"]]
    assert [r["step"] for r in rows] == ["0", "1", "2", "3", "4"]  # ten batches
    for row in rows:
        assert float(row["train/loss"]) == pytest.approx(math.log(10), abs=0.1)  # an untrained net only guesses


def test_a_reader_that_leaves_early_is_not_taken_for_ctrl_c(process, toy_smoke, tmp_path):
    """As in `python train.py | head -1`."""
    with process("train", *toy_smoke) as running:
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()
    assert "Ctrl-C" not in err
    assert running.returncode != 130


def test_bad_input_leaves_no_folder_behind(command, tmp_path):
    assert command("train", "model.activation=rellu", "name=typo").code == 2
    assert not list(tmp_path.glob("runs/*"))


def test_a_refused_resume_leaves_the_config_as_it_was(command, toy_smoke, only_run):
    assert command("train", *toy_smoke).code == 0
    before = (only_run() / "config.yaml").read_text()
    for change in ("trainer.max_epochs=-1", "trainer.precision=bf61"):
        assert command("train", f"resume={only_run()}", change).code == 2
        assert (only_run() / "config.yaml").read_text() == before


def test_a_state_gone_to_nan_replaces_no_checkpoint(command, toy, only_run, monkeypatch):
    """The loss is NaN from step 5 on; a signal at step 7, before the next logged step, must not save that."""
    step, end = ImageClassification.training_step, ResumeCheckpoint.on_train_batch_end

    def nan_from_5(self, batch, batch_idx):
        return step(self, batch, batch_idx) * (float("nan") if self.trainer.global_step >= 4 else 1.0)

    def signal_at_7(self, trainer, *args):
        self._signal = signal.SIGTERM if trainer.global_step == 7 else None
        end(self, trainer, *args)

    monkeypatch.setattr(ImageClassification, "training_step", nan_from_5)
    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_end", signal_at_7)
    outcome = command("train", *toy, "trainer.log_every_n_steps=10")
    assert outcome.code == 3
    assert "nan at step 5" in outcome.sentence
    assert "no weights were saved" in outcome.sentence
    assert not (only_run() / "last.ckpt").exists()
    outcome = command("train", f"resume={only_run()}")
    assert outcome.code == 3
    assert "Nothing was saved" in outcome.err


@pytest.mark.parametrize(
    ("setting", "expected"), [("false", []), ("true", [None]), *((m, [m]) for m in ("reduce-overhead", "max-autotune"))]
)
def test_compile_takes_torchs_modes(command, toy_smoke, monkeypatch, setting, expected):
    seen = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: seen.append(mode))
    monkeypatch.setenv("CXX", "true")  # any program
    done = command("train", *toy_smoke, f"compile={setting}")
    assert done.code == 0
    assert seen == expected
    assert ("torch compiles the net in its first step" in done.err) == (setting != "false")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_nothing_is_trained_where_there_is_no_compiler(command, toy_smoke, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = command("train", *toy_smoke, "compile=true")
    expected = "compile=True compiles the net, and there is no compiler 'no-such-compiler'; install g++, or set CXX"
    assert (done.code, done.err.splitlines()[-1]) == (2, f"error: {expected}")


@pytest.mark.slow
def test_a_compiled_net_trains_and_keeps_the_names_of_its_weights(command, toy_smoke, only_run):
    assert command("train", *toy_smoke, "compile=true").code == 0
    assert "features.0.weight" in read_product(only_run() / "model.safetensors").weights


def test_tf32_is_one_switch_for_matrices_and_convolutions(command, toy_smoke):
    for flag, precision in (("false", "highest"), ("true", "high")):
        assert command("train", *toy_smoke, f"tf32={flag}").code == 0
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == (flag == "true")


def test_precision_is_fp32_on_a_cpu_and_a_named_one_is_kept():
    assert resolve_precision("auto", "cpu") == "32-true"
    assert resolve_precision("bf16-true", "cpu") == "bf16-true"


@pytest.mark.parametrize(("capability", "taken"), [("AVX2", "32-true"), ("AVX512", "bf16-mixed")])
def test_a_cpu_trains_in_bf16_where_it_need_not_emulate_it(
    command, toy_smoke, only_run, monkeypatch, capability, taken
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    products, as_product = [], small_maps.as_product
    monkeypatch.setattr(small_maps, "as_product", lambda *args: products.append(args) or as_product(*args))
    net = ["model=resnet50", "model.depths=[1,1,1]", "model.widths=[4,4,4]"]  # has small maps
    outcome = command("train", *toy_smoke, *net, "trainer.precision=bf16-mixed")
    assert outcome.code == 0
    assert ("it trains in 32-true" in outcome.err) == (taken == "32-true")
    assert bool(products) == (taken == "bf16-mixed")
    assert json.loads((only_run() / "result.json").read_text())["precision"] == taken


def test_weights_keep_the_mean_and_std_that_they_were_trained_with(command, toy, teacher, tmp_path):
    """On another split, whose own mean is another, an untrained net is the file's, unless the user sets them."""
    theirs = read_product(teacher).facts["data"]
    for name, *line in (["kept"], ["set", "data.mean=[1.0]", "data.std=[2.0]"]):
        settings = (
            f"init_from={teacher}",
            "trainer.max_epochs=0",
            "compress=packed",
            "+data.split_seed=3",
            f"name={name}",
        )
        done = command("train", *toy, *settings, *line)
        assert done.code == 0, done.err
        (folder,) = tmp_path.glob(f"runs/{name}/*")
        ours = read_product(folder / "model.safetensors").facts["data"]
        assert ours["split_hash"] != theirs["split_hash"]
        expected = ([1.0], [2.0]) if line else (theirs["mean"], theirs["std"])
        assert (ours["mean"], ours["std"]) == expected
