"""Damaged files and hostile values in a run's folder are never misread and never end in a traceback."""

import copy
import json
import os
import time

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from stored import CONFIG, RESULT, unseen

from zoo.callbacks.loggers import MetricsCSV
from zoo.compare.learning_curve import curve
from zoo.errors import BadInput
from zoo.records import config_file, json_files, metrics_file, predictions_file

CELL = {
    "format": "onnx",
    "precision": "fp32",
    "runtime": "onnxruntime",
    "files": ["model.onnx"],
    "reason": None,
    "size_bytes": 1000,
    "accuracy": 0.9,
    "largest_difference": 1e-6,
    "latency_ms": {"1": {"p50": 1.0, "p95": 2.0}, "64": {"p50": 9.0, "p95": 9.5}},
    "peak_bytes": 10**8,
    "modules": ["onnxruntime"],
}
REFUSED = {**{key: CELL[key] for key in ("format", "precision", "runtime")}, "files": [], "reason": "no operator"}
WHOLE = {
    **RESULT,
    "exports": {"onnx": CELL, "zoo": REFUSED},
    "compress": {
        "pack": {"ledger": {"bytes": 10, "ratio": 2.0}, "stages": {"P": 5.0}},
        "int8": {"float": {"product_bytes": 1000, "test": {"accuracy": 0.9}}},
    },
    "product_bytes": 1000,
    "latency_ms": 1.5,
    "folder": "runs/first/2026",
    "split_sizes": {"test": 1000},
    "processes": 1,
}
EXPORTS = {"checkpoint": "runs/x/model.safetensors", "net": "vgg11", "data": "mnist", "accuracy": 0.9, "rows": [CELL]}
TIMES = {
    "machine": "a CPU",
    "threads": 2,
    "torch": "2.14.1",
    "batch": 16,
    "runtime": "eager",
    "layers": {"Linear": 0.5},
    "nets": {"0123": {"ms": 1.0, "dense_ms": 2.0}},
}
STEPS = [{"pass": "prune_channels", "macs": 100, "layout": {"conv1": {"sizes": {"out_channels": 2}}}}]


def write_result(path):
    json_files.write_result(path, WHOLE)


def write_exports(path):
    json_files.write_sealed(path, EXPORTS)


def write_recipe(path):
    json_files.write_recipe(path, STEPS)


def write_config(path):
    config_file.write_config(
        path, OmegaConf.to_yaml(OmegaConf.create({**CONFIG, "optim": {"lr": 0.01}, "init_from": None}))
    )


def write_metrics(path):
    logger = MetricsCSV(path.parent)
    for step in range(20):
        logger.log_metrics({"train/loss": 2.0 / (step + 1), "train/gradient_norm": float("inf")}, step)
        if step % 5 == 4:
            logger.log_metrics({"epoch": step // 5, "val/accuracy": step / 20, "val/loss": 1e-7 * step}, step)
    logger.finalize("success")


def write_predictions(path):
    from zoo.callbacks.predictions import save, torch

    labels = torch.arange(100, dtype=torch.uint8)
    save(path, {"labels": labels, "predicted": labels % 90, "confidence": torch.full((100,), 0.5).half()}, "one")


def read_predictions(path):
    found = predictions_file.read_predictions(path)
    return found.split_hash, found.right.tolist()


def write_latencies(path):
    json_files.write_latencies(path, TIMES)


FILES = {
    "result.json": (write_result, json_files.read_result),
    "exports.json": (write_exports, json_files.read_exports),
    "recipe.json": (write_recipe, json_files.read_recipe),
    "latencies.json": (write_latencies, json_files.read_latencies),
    "config.yaml": (write_config, config_file.read_config),
    "metrics.csv": (write_metrics, metrics_file.read_metrics),
    "predictions.safetensors": (write_predictions, read_predictions),
}


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    path = tmp_path / request.param
    write, read = FILES[request.param]
    write(path)
    return path, read


def test_no_cut_and_no_flipped_bit_is_read_as_something_else(file):
    path, read = file
    assert unseen(path, read) == []


def test_what_is_no_ordinary_file_is_refused_at_once(file, tmp_path):
    """Reading a pipe without a writer would block, and reading a device would never end."""
    path, read = file
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        path.rename(tmp_path / "aside") if path.is_file() else path.unlink() if path.is_fifo() else path.rmdir()
        make(path)
        with pytest.raises(BadInput, match=path.name):
            read(path)


def test_a_file_larger_than_any_of_its_kind_is_refused_before_it_is_read(file):
    path, read = file
    with open(path, "r+b") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(BadInput, match=path.name):
        read(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", json.dumps(WHOLE)),
        ("exports.json", json.dumps(EXPORTS)),
        ("recipe.json", json.dumps(STEPS)),
        ("config.yaml", OmegaConf.to_yaml(OmegaConf.create({**CONFIG, "optim": {"lr": 0.01}, "init_from": None}))),
        ("metrics.csv", "step,epoch,val/loss\r\n0,,\r\n1,0.0,1e-05\r\n"),
    ],
)
def test_files_of_earlier_versions_have_no_checksum_and_are_read(tmp_path, name, text):
    write, read = FILES[name]
    (tmp_path / name).write_bytes(text.encode())
    if name == "metrics.csv":
        assert read(tmp_path / name) == [{"step": 0}, {"step": 1, "epoch": 0.0, "val/loss": 1e-5}]
        return
    before = read(tmp_path / name)
    write(tmp_path / name)
    assert "checksum" in (tmp_path / name).read_text() or "sha256" in (tmp_path / name).read_text()
    assert read(tmp_path / name) == before


def test_predictions_of_earlier_versions_are_read_and_nan_is_not_right(tmp_path):
    path, labels = tmp_path / "predictions.safetensors", np.zeros(3, dtype=np.uint8)
    confidence = np.array([0.5, np.nan, 0.9], dtype=np.float16)
    save_file({"labels": labels, "predicted": labels, "confidence": confidence}, path, {"split_hash": "one"})
    assert read_predictions(path) == ("one", [True, False, True])
    save_file({"correct": np.array([1, 0], dtype=np.uint8)}, path)
    assert read_predictions(path) == (None, [True, False])


DEEP = None
for _ in range(500):
    DEEP = [DEEP]
HOSTILE = {
    "null": "null",
    "true": "true",
    "a number": "12",
    "below 0": "-1",
    "a fraction": "0.5",
    "huge": "1" * 5000,
    "beyond": "1e999",
    "NaN": "NaN",
    "infinite": "-Infinity",
    "a text": '"text"',
    "no text": '""',
    "long": json.dumps("x" * 100_000),
    "control": '"\\u001b[31m"',
    "a list": "[1]",
    "an empty list": "[]",
    "a map": '{"x": {}}',
    "an empty map": "{}",
    "deep": json.dumps(DEEP),
}
PLACEHOLDER = '"<here>"'


def places(value, path=()):
    """Yield every key of plain data, at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(record, place, text):
    """Write a record as JSON with one value replaced or removed."""
    record = copy.deepcopy(record)
    part = record
    for key in place[:-1]:
        part = part[key]
    if text is None:
        del part[place[-1]]
        return json.dumps(record)
    part[place[-1]] = "<here>"
    return json.dumps(record).replace(PLACEHOLDER, text)


FITTING = {  # by the type of the original value
    int: {"a number"},
    float: {"a number", "a fraction"},
    str: {"a text", "control", "no text"},
    list: {"a list", "an empty list"},
    dict: {"a map", "an empty map"},
    type(None): {"null"},
}
# Keys that are optional or may be null, and places where any plain data are allowed.
OPTIONAL = {"onnx", "zoo", "pack", "int8", "float", "settings", "exports", "compress", "product_bytes", "latency_ms"}
OPTIONAL |= {"folder", "split_sizes", "processes", "model.safetensors", "P", "torch", "train", "val", "layout", "conv1"}
OPTIONAL |= {"accuracy", "loss", "sizes", "layers", "nets", "Linear", "0123"}
FREE = {("settings", "compress"), ("compress", "int8"), ("model", "_target_")}
FREE |= {("data", key) for key in CONFIG["data"]} | {(0, "macs"), (0, "layout", "conv1", "sizes", "out_channels")}


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("result.json", WHOLE),
        ("exports.json", EXPORTS),
        ("recipe.json", STEPS),
        ("latencies.json", TIMES),
        ("config.yaml", CONFIG),
    ],
)
def test_no_hostile_value_ends_in_a_traceback_or_is_taken_for_another(tmp_path, name, record):
    path, (_, read) = tmp_path / name, FILES[name]
    wrong, cases = [], 0
    for place in places(record):
        before = record
        for key in place:
            before = before[key]
        fitting = set(FITTING[type(before)])
        if type(place[-1]) is int or place[-1] in OPTIONAL:
            fitting |= {"absent"}
        if place[-1] in ("accuracy", "loss", "commit", "reason"):
            fitting |= {"null", "no text"}
        if place[-1] == "loss":
            fitting |= {"below 0"}
        for what, text in {**HOSTILE, "absent": None}.items():
            path.write_text(f"{changed(record, place, text)}\n")
            cases += 1
            try:
                read(path)
            except BadInput as error:
                wrong += [] if str(path) in str(error) and "\n" not in str(error) else [(place, what, str(error))]
                continue
            if what in ("huge", "deep") or (what not in fitting and place not in FREE):
                wrong.append((place, what))
    if name == "config.yaml":  # in YAML, NaN is .nan and names may look like numbers
        wrong = [one for one in wrong if one[0] != ("name",) and one[1] not in ("NaN", "infinite", "beyond")]
    assert wrong == []
    assert cases >= 19 * len(list(places(record)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]), "aliases"),
        ("a: !!python/object/apply:os.system [true]", "tags"),
        ("a: !!binary aGVsbG8=", "tags"),
        ("name: ${oc.env:HOME}", "unresolved"),
        ("name: ???", "unresolved"),
        ("name: x\nname: y", "mapping"),
        ("a: " + "[" * 100 + "]" * 100, "deeper"),
        ("1: x", "not a string"),
        ("lr: .nan", "NaN"),
        (f"lr: {'9' * 40}", "64 bits"),
        ("[]", "object"),
        ("text", ""),
        ("\0", ""),
        ("a: b: c", ""),
    ],
)
def test_yaml_that_means_more_than_it_says_is_refused_at_once(tmp_path, text, why):
    body = OmegaConf.to_yaml(OmegaConf.create(CONFIG))
    (tmp_path / "config.yaml").write_text(f"{'' if text in ('[]', 'text') else body}{text}\n")
    begun = time.monotonic()
    with pytest.raises(BadInput, match=rf"(?i)config\.yaml is damaged, or was not written by the zoo \(.*{why}"):
        config_file.read_config(tmp_path / "config.yaml")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
def test_what_is_no_path_is_no_checkpoint_of_exports(tmp_path, name):
    (tmp_path / "exports.json").write_text(json.dumps(EXPORTS | {"checkpoint": name}))
    with pytest.raises(BadInput, match=r"exports\.json"):
        json_files.read_exports(tmp_path / "exports.json")
    (tmp_path / "exports.json").write_text(json.dumps(EXPORTS | {"checkpoint": "caf\udce9/model.safetensors"}))
    assert json_files.read_exports(tmp_path / "exports.json")["checkpoint"] == os.fsdecode(b"caf\xe9/model.safetensors")


def test_a_config_that_was_edited_says_so_and_what_to_do(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(path)
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(BadInput, match="delete its first line"):
        config_file.read_config(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert config_file.read_config(path)["optim"]["lr"] == 0.02


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,epoch\n0,0.0,1\n",
        "step,epoch\n0\n",
        "step,step\n0,0\n",
        "epoch,step\n0,0\n",
        "step,epoch\n1,0\n0,0\n",
        "step,epoch\nx,0\n",
        "step,epoch\n0,0.5\n",
        "step,epoch\n0,-1\n",
        "step,x\n0,0x1\n",
        "step,x\n0,1_0\n",
        'step,x\n0,"1\n',
        "step,x\n0,١\n",
    ],
)
def test_metrics_that_are_no_table_of_numbers_are_refused(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(BadInput, match=r"metrics\.csv is damaged"):
        curve(tmp_path, "x")


def test_the_checksum_of_metrics_is_a_column_that_readers_of_tables_pass_over(tmp_path):
    write_metrics(tmp_path / "metrics.csv")
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True, deletechars="")
    assert rows["train/loss"].tolist() == [2.0 / (step + 1) for step in range(20)]
    assert curve(tmp_path, "val/accuracy") == [(i + 1, (5 * i + 4) / 20) for i in range(4)]
