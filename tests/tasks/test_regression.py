"""Numbers for labels: the metrics, a run from table to prediction, what is refused."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.preprocessing import StandardScaler
from small import FACTS
from torch import nn

import zoo
from zoo.checkpoint.product_file import read_product
from zoo.errors import BadInput
from zoo.measure.number_scores import evaluate_numbers, in_units
from zoo.records.metadata import FORMAT, parse_metadata
from zoo.run import passes
from zoo.run.config_checks import check_numbers
from zoo.tasks.regression import NumberMeter, Standard
from zoo.tasks.transfer import matched_by_name, rescaled, rows_of


@pytest.mark.parametrize("num", [1, 3])
def test_metrics_over_all_batches_are_scikit_learns(num):
    torch.manual_seed(0)
    labels = 40 + torch.tensor([12.0, 0.01, 3e4])[:num] * torch.randn(200, num)
    scaler = StandardScaler().fit(labels.double())
    scale = {"mean": scaler.mean_.tolist(), "std": scaler.scale_.tolist()}
    outputs = torch.from_numpy(scaler.transform(labels.double())).float() + 0.3 * torch.randn(200, num)
    meter = NumberMeter(scale)
    for part in (slice(0, 90), slice(90, 200)):
        meter.update(outputs[part], labels[part])
    found = {name: float(value) for name, value in meter.compute().items()}
    predicted = scaler.inverse_transform(outputs.double())
    expected = {
        "mae": mean_absolute_error(labels.double(), predicted),
        "rmse": root_mean_squared_error(labels.double(), predicted),
        "r2": r2_score(labels.double(), predicted),
        "loss": float(np.mean((scaler.transform(labels.double()) - outputs.double().numpy()) ** 2)),
    }
    assert found == pytest.approx(expected, rel=1e-12)
    assert (meter.num_samples, meter.num_nan, meter.batches) == (200, 0, [])
    names = ["a", "b", "c"][:num]
    evaluation = evaluate_numbers(outputs, labels, names, scale)
    assert {name: evaluation[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    by_name = mean_absolute_error(labels.double(), predicted, multioutput="raw_values")
    assert [row["mae"] for row in evaluation["classes"].values()] == pytest.approx(by_name)


def test_passes_before_training_measure_numbers_by_r2():
    """The labels are numbers, on which a count of right answers would mean nothing."""
    torch.manual_seed(0)
    labels, scale = 100 + 10 * torch.randn(40, 1), {"mean": [100.0], "std": [10.0]}
    outputs = (labels - 100) / 10 + 0.3 * torch.randn(40, 1)
    pairs = list(zip(outputs.split(16), labels.split(16), strict=True))
    data = SimpleNamespace(eval_batch_size=16, number_scale=scale, limited_batches=lambda *_: pairs)
    expected = r2_score(labels.double(), 100 + 10 * outputs.double())
    assert passes._accuracy(data, nn.Identity()) == pytest.approx(expected)


def test_r2_of_equal_labels_is_scikit_learns_and_a_nan_output_spoils_the_metrics():
    scale = {"mean": [0.0], "std": [1.0]}
    labels = torch.full((5, 1), 0.1)
    for outputs in (labels, labels + 1):
        meter = NumberMeter(scale)
        meter.update(outputs, labels)
        assert float(meter.compute()["r2"]) == r2_score(labels.double(), outputs.double())
    meter.update(torch.tensor([[math.nan], [1.0]]), torch.tensor([[1.0], [2.0]]))
    assert math.isnan(meter.compute()["mae"])
    assert meter.num_nan == 1


def test_labels_are_standardized_in_fp32_whatever_the_precision_of_the_task():
    labels = torch.tensor([[1000.5], [1001.25]])
    standard = Standard({"mean": [1001.0], "std": [0.3]}).to(torch.bfloat16)
    assert torch.equal(standard(labels), (labels - 1001) / 0.3)


def test_weights_taken_over_for_another_scale_predict_the_same_numbers():
    class Net(nn.Sequential):
        head_names = ("0",)

    torch.manual_seed(0)
    before, after, inputs = Net(nn.Linear(5, 2)), Net(nn.Linear(5, 2)), torch.randn(7, 5)
    theirs = {"classes": ["age", "height"], "number_scale": {"mean": [40.0, 170.0], "std": [12.0, 9.0]}}
    ours = {"classes": ["height", "age"], "number_scale": {"mean": [175.0, 30.0], "std": [3.0, 20.0]}}
    rows = [rows_of(before, "", facts) for facts in (theirs, ours)]
    after.load_state_dict(rescaled(after, matched_by_name(after, before.state_dict(), *rows), theirs, ours))
    expected = in_units(before(inputs), theirs["number_scale"])[:, [1, 0]]
    assert torch.allclose(in_units(after(inputs), ours["number_scale"]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        (True, None),
        (None, {"mean": [1.0] * 10, "std": [1.0] * 10}),
        (True, {"mean": [1.0] * 10, "std": [1.0] * 9}),
        (True, {"mean": [1.0] * 10, "std": [0.0] * 10}),
        (True, {"mean": ["1"] * 10, "std": [1.0] * 10}),
        (True, {"mean": [1.0] * 10}),
    ],
)
def test_a_file_with_a_scale_that_does_not_fit_its_numbers_is_refused(numbers, scale):
    config = {**FACTS["config"], "data": {**FACTS["config"]["data"], "numbers": numbers}}
    facts = {"format": FORMAT, **FACTS, "config": config, "data": {**FACTS["data"], "number_scale": scale}}
    with pytest.raises(BadInput, match=r"^file does not have the metadata"):
        parse_metadata(json.dumps(facts), "file")
    config["data"]["numbers"], facts["data"]["number_scale"] = True, {"mean": [1.0] * 10, "std": [2.0] * 10}
    assert parse_metadata(json.dumps(facts), "file")["data"] == facts["data"]


@pytest.fixture
def bright(tmp_path):
    """120 grey pictures, and their brightness in two units."""
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    rows = []
    for i in range(120):
        level = draw.uniform(20, 235)
        pixels = np.clip(draw.normal(level, 20, (28, 28)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:03}.png")
        split = "train" if i < 80 else "validation" if i < 100 else "test"
        numbers = {"kelvin": f"{5000 + 10 * level:.3f}", "share": f"{level / 255:.5f}"}
        rows.append({"file": f"pictures/{i:03}.png", "split": split, "kind": "odd" if i % 2 else "even", **numbers})
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "labels.csv", rows


def line_of(table, *more: str) -> list[str]:
    return [
        *("data=image_table", f"data.table={table}", "data.split=split", "data.image_size=28", "data.batch_size=16"),
        *("data.num_workers=0", "data.augment=null", "trainer=cpu", "trainer.log_every_n_steps=2", "model=lenet5"),
        *("optim.lr=0.01", "callbacks.graph=null", "task=regression", "data.label=kelvin", *more),
    ]


@pytest.fixture
def trained(command, bright, tmp_path):
    """The folder of a run on the brightness of pictures."""

    def run(*more: str):
        outcome = command("train", *line_of(bright[0], "logger=csv", *more))
        assert outcome.code == 0, outcome.err
        assert "MAE" in outcome.out
        return sorted(tmp_path.glob("runs/*/*"))[-1]

    return run


def test_a_run_is_selected_by_mae_and_answers_in_the_units_of_the_labels(trained, bright, tmp_path):
    folder, (_, rows) = trained("trainer.max_epochs=2", "callbacks=early_stopping"), bright
    result = json.loads((folder / "result.json").read_text())
    assert result["test"].keys() == result["validation"].keys() == {"mae", "rmse", "r2", "loss"}
    facts = read_product(folder / "model.safetensors").facts
    numbers = np.array([[np.float32(row["kelvin"])] for row in rows if row["split"] == "train"], np.float64)
    scaler = StandardScaler().fit(numbers)
    assert facts["data"]["number_scale"]["mean"] == pytest.approx(scaler.mean_.tolist())
    assert facts["data"]["number_scale"]["std"] == pytest.approx(scaler.scale_.tolist())
    course = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert facts["best"]["metrics"]["val/mae"] == min(float(row["val/mae"]) for row in course if row["val/mae"])
    assert not [name for name in course[0] if "accuracy" in name]
    test = [row for row in rows if row["split"] == "test"]
    answers = zoo.load(folder).predict([str(tmp_path / row["file"]) for row in test])
    assert {name for found in answers for name, _ in found} == {"kelvin"}
    predicted, true = [found[0][1] for found in answers], [np.float32(row["kelvin"]) for row in test]
    assert mean_absolute_error(true, predicted) == pytest.approx(result["test"]["mae"], rel=1e-4)
    assert r2_score(true, predicted) == pytest.approx(result["test"]["r2"], abs=1e-4)


@pytest.mark.slow
def test_every_command_takes_its_files(trained, command, bright, tmp_path):
    more = ("trainer.max_epochs=6", "name=bright", "data.label_columns=[kelvin,share]", "preflight=true")
    folder, (_, rows) = trained(*more, "logger=tensorboard", "callbacks=[diagnostics,ema]"), bright
    result = json.loads((folder / "result.json").read_text())
    assert result["test"]["r2"] > 0.8
    assert command("evaluate", "checkpoint=runs/bright", f"data_root={tmp_path}").code == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for name in ("mae", "rmse", "r2", "loss"):
        assert evaluation[name] == pytest.approx(result["test"][name], rel=1e-4)
    assert evaluation["classes"].keys() == {"kelvin", "share"}
    with Image.open(folder / "predicted.png") as picture:
        assert picture.width > picture.height
    for script, *line in (
        ("evaluate", "checkpoint=runs/bright", f"data_root={tmp_path}", "corruptions=true"),
        ("scripts/explain", "checkpoint=runs/bright", "pictures/000.png"),
        ("scripts/calibrate", "checkpoint=runs/bright", f"data_root={tmp_path}"),
        ("scripts/compare", f"{folder}/model.safetensors", f"{folder}/model.safetensors", f"data_root={tmp_path}"),
    ):
        assert "gives numbers" in command(script, *line).err.splitlines()[-1]
    exported = command("scripts/export", "checkpoint=runs/bright", f"data_root={tmp_path}", "format=[zoo,onnx]")
    assert exported.code == 0, exported.err
    assert 0.8 < json.loads((folder / "exports.json").read_text())["rows"][1]["accuracy"] <= 1
    for file in ("model.safetensors", "model.onnx", "model.zoo"):
        out = ("pictures", "out=predictions.csv", "grid=grid.png")
        outcome = command("scripts/predict", str(folder / file), *out)
        assert outcome.code == 0, outcome.err
        assert "  kelvin " in outcome.out
        with (tmp_path / "predictions.csv").open() as table:
            found = {row["file"]: row for row in csv.DictReader(table)}
        pairs = [(float(row["kelvin"]), float(found[row["file"]]["kelvin"])) for row in rows]
        assert r2_score(*zip(*pairs, strict=True)) > 0.8
    small = command(
        "train",
        *line_of(bright[0], *more[2:3], "init_from=runs/bright", "compress=rate", "name=small"),
        "trainer.max_epochs=2",
        "compress.rate.max_drop=20",
    )
    assert small.code == 0, small.err
    assert "test MAE" in small.out
    outcome = command("scripts/compare", "runs", "out=page")
    assert outcome.code == 0, outcome.err
    assert "test MAE" in outcome.out


def test_a_task_and_data_that_do_not_fit_are_refused(compose):
    table = ("data=image_table", "data.table=x")
    for line, says in (
        (["task=regression"], "mnist_5k has classes"),
        ([*table, "task=regression", "data.numbers=false"], "image_table has classes"),
        ([*table, "data.numbers=true"], "use task=regression"),
    ):
        cfg = compose(*line)
        chosen = {"task": "regression" if "task=regression" in line else "classification"}
        chosen["data"] = "image_table" if "data=image_table" in line else "mnist_5k"
        with pytest.raises(BadInput, match=says):
            check_numbers(cfg, chosen, "images")


@pytest.mark.slow
def test_what_does_not_fit_numbers_is_refused_in_one_sentence(command, bright):
    line, usual = line_of(bright[0]), ("data=image_table", f"data.table={bright[0]}", "data.split=split")
    for change, says in (
        ([*line, "data.label=kind"], "expected a number such as 1.5 in column 'kind', got 'even' in line 2"),
        ([*line, "data.separator=|"], "data.separator"),
        ([*line, "data.numbers=false"], "task=regression"),
        ([*line, "data.sampler=balanced"], "data.sampler=balanced"),
        ([*line, "+data.mix._target_=zoo.data.mix.MixUp"], "data.mix"),
        ([*line, "task.label_smoothing=0.1"], "label_smoothing"),
        ([*line, "task.class_weights=balanced"], "class_weights"),
        ([*line, "calibrate=true"], "calibrate=true"),
        ([*line, "callbacks=early_stopping", "callbacks.early_stopping.monitor=val/accuracy"], "val/mae"),
        (["task=regression", "data=mnist_5k"], "data=mnist_5k has classes"),
        ([*usual, "data.label=kelvin", "data.numbers=true"], "use task=regression"),
        ([*usual, "data.label=kelvin", "task=multilabel", "data.numbers=true"], "task=regression"),
    ):
        outcome = command("train", *change)
        assert outcome.code == 2, (change, outcome.out)
        assert says in outcome.err.splitlines()[-1], (change, outcome.err)
