"""Several labels per picture: the loss, metrics and thresholds, a run from table to prediction, what is refused."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

import zoo
from zoo.checkpoint.product_file import read_product
from zoo.data.image_tables import ImageTable
from zoo.errors import BadInput
from zoo.measure.accuracy import is_right
from zoo.measure.several_labels import best_thresholds, evaluate_labels
from zoo.tasks.multilabel import MultiLabelMeter, asymmetric_loss

COLOURS = {"red": 0, "green": 1, "blue": 2}


@pytest.mark.parametrize("has_ties", [False, True])
def test_metrics_with_one_threshold_per_label_are_scikit_learns(has_ties):
    torch.manual_seed(0)
    labels = (torch.rand(200, 5) < torch.tensor([0.5, 0.2, 0.05, 0.3, 0.02])).to(torch.uint8)
    labels[0] = 1  # at least one of each
    logits = torch.randn(200, 5) + 1.5 * labels
    logits = logits.round() if has_ties else logits
    meter = MultiLabelMeter()
    for part in (slice(0, 90), slice(90, 200)):
        meter.update(logits[part], labels[part])
    meter.choose_thresholds()
    found = meter.compute()
    chosen = (logits.double().sigmoid() > meter.thresholds).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {
            "map": average_precision_score(labels, logits, average="macro"),
            "micro_f1": f1_score(labels, chosen, average="micro"),
            "macro_f1": f1_score(labels, chosen, average="macro"),
            "loss": float(nn.BCEWithLogitsLoss()(logits.double(), labels.double())),
            "accuracy": float(((logits > 0) == labels.bool()).all(1).double().mean()),
        }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted)
    evaluation = evaluate_labels(logits, labels, list("abcde"), meter.thresholds)
    assert {name: evaluation[name] for name in wanted} == pytest.approx(wanted)
    assert [row["f1"] for row in evaluation["classes"].values()] == pytest.approx(
        f1_score(labels, chosen, average=None)
    )
    assert (meter.num_samples, meter.num_nan, meter.batches) == (200, 0, [])


def test_no_other_threshold_has_a_higher_f1():
    torch.manual_seed(1)
    labels = (torch.rand(20, 3) < 0.3).to(torch.uint8)
    logits = torch.randn(20, 3) + labels
    thresholds = best_thresholds(logits, labels)
    for i in range(3):
        shares = logits[:, i].double().sigmoid()
        mine = f1_score(labels[:, i], shares > thresholds[i])
        assert mine >= max(f1_score(labels[:, i], shares > one) for one in [-1.0, *(shares - 1e-9).tolist()]) - 1e-12


def test_a_label_without_positive_samples_is_not_in_map_and_nan_logits_predict_nothing():
    labels = torch.tensor([[1, 0], [0, 0], [1, 0], [1, 0]], dtype=torch.uint8)
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, -1.0], [float("nan"), 9.0]])
    thresholds = best_thresholds(logits, labels)
    assert thresholds[1] == 0.5
    found = evaluate_labels(logits, labels, ["a", "b"], thresholds)
    assert found["map"] == 1.0
    assert found["num_nan"] == 1
    assert found["classes"]["a"]["recall"] == pytest.approx(2 / 3)
    assert found["classes"]["b"]["average_precision"] is None
    assert is_right(logits, labels).tolist() == [True, False, True, False]


def test_the_asymmetric_loss_is_equation_7_and_without_focus_the_binary_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7, dtype=torch.float64), (torch.rand(50, 7) < 0.2).double()
    p = logits.sigmoid().numpy()
    shifted = np.maximum(p - 0.05, 0)
    wanted = np.where(labels.numpy() == 1, (1 - p) ** 1 * np.log(p), shifted**4 * np.log(1 - shifted))
    assert float(asymmetric_loss(logits, labels, 1.0, 4.0, 0.05)) == pytest.approx(-wanted.mean())
    plain = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert float(asymmetric_loss(logits, labels, 0.0, 0.0, 0.0)) == pytest.approx(float(plain))


@pytest.fixture
def coloured(tmp_path):
    """120 pictures of up to three bright channels, and their labels, separated and one column each."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for i in range(120):
        has = draw.integers(0, 2, 3)
        pixels = draw.integers(0, 90, (32, 32, 3)) + 150 * has
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
        names = [name for name, channel in COLOURS.items() if has[channel]]
        split = "train" if i < 80 else "validation" if i < 100 else "test"
        flags = {name: str(has[channel]) for name, channel in COLOURS.items()}
        rows.append({"file": f"pictures/{i:03}.png", "label": "|".join(sorted(names)), "split": split, **flags})
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "labels.csv", rows


def line_of(table, *more: str) -> list[str]:
    return [
        *("data=image_table", f"data.table={table}", "data.split=split", "data.image_size=28", "data.batch_size=16"),
        *("data.num_workers=0", "data.augment.crop=null", "trainer=cpu", "trainer.log_every_n_steps=2", "model=lenet5"),
        *("optim.lr=0.01", "callbacks.graph=null", "task=multilabel", *more),
    ]


def test_both_forms_of_a_table_have_the_same_labels(coloured):
    table, rows = coloured
    settings = {"table": str(table), "split": "split", "image_size": 28, "num_classes": None, "in_channels": 3}
    settings |= {"num_workers": 0, "batch_size": 8}
    separated = ImageTable(**settings, separator="|")
    columns = ImageTable(**settings, label_columns=["blue", "green", "red"])
    assert separated.load() == columns.load()
    _, labels = next(iter(separated.loader("test", "cpu")))
    names = ["blue", "green", "red"]
    written = {row["file"]: [int(row[name]) for name in names] for row in rows}
    files = [f"pictures/{path.rsplit('/', 1)[-1]}" for path in separated.files["test"].paths]
    assert labels.tolist() == [written[file] for file in files]
    assert separated.random_batch(4, torch.device("cpu"))[1].shape == (4, 3)
    with pytest.raises(BadInput, match=r"^data\.sampler"):
        ImageTable(**settings, separator="|", sampler="balanced").load()


@pytest.mark.slow
def test_a_run_is_selected_by_map_stores_its_thresholds_and_predicts_labels(command, coloured, tmp_path):
    table, rows = coloured
    way = "data.label_columns=[red,green,blue]"
    outcome = command("train", *line_of(table, way, "trainer.max_epochs=4", "name=colours", "preflight=true"))
    assert outcome.code == 0, outcome.err
    assert "mAP" in outcome.out
    (folder,) = tmp_path.glob("runs/colours/*")
    result = json.loads((folder / "result.json").read_text())
    assert {"map", "micro_f1", "macro_f1", "accuracy", "loss"} <= result["test"].keys()
    assert result["test"]["map"] > 0.95
    facts = read_product(folder / "model.safetensors").facts
    assert len(facts["thresholds"]) == 3
    course = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    assert facts["best"]["metrics"]["val/map"] == max(float(row["val/map"]) for row in course if row["val/map"])
    assert command("evaluate", "checkpoint=runs/colours", f"data_root={tmp_path}").code == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for name in ("map", "micro_f1", "macro_f1", "accuracy"):
        assert evaluation[name] == pytest.approx(result["test"][name], abs=1e-6)
    refused = command("evaluate", "checkpoint=runs/colours", f"data_root={tmp_path}", "corruptions=true")
    assert refused.code == 2
    assert "several labels" in refused.err.splitlines()[-1]
    trained = zoo.load(folder)
    test = [row for row in rows if row["split"] == "test"]
    answers = trained.predict([str(tmp_path / row["file"]) for row in test])
    right = [
        {name for name, _ in found} == {n for n in COLOURS if row[n] == "1"}
        for found, row in zip(answers, test, strict=True)
    ]
    assert sum(right) >= 18
    for found in answers:
        assert all(share > facts["thresholds"][trained.classes.index(name)] for name, share in found)


@pytest.mark.slow
def test_tasks_that_do_not_fit_the_labels_are_refused(command, coloured):
    table, _ = coloured
    line = line_of(table)
    for change, says in (
        ([], "task=multilabel is for several labels per picture"),
        (["task=classification", "data.separator=|"], "use task=multilabel"),
        (["data.separator=|", "calibrate=true"], "calibrate=true"),
    ):
        outcome = command("train", *line, *change)
        assert outcome.code == 2, (change, outcome.out)
        assert says in outcome.err.splitlines()[-1]
