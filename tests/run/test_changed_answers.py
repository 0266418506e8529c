"""How compression changed the answers, as scikit-learn counts it, from saved predictions or a second test."""

import json

import numpy as np
import pytest
import torch
from conftest import with_plots
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, recall_score
from stored import RESULT

from zoo.measure.agreement import most_changed
from zoo.measure.calibration import answers, calibration, calibration_error, change_interval
from zoo.records.json_files import read_result, write_result
from zoo.records.predictions_file import Predictions
from zoo.report import final_tables, settings_row
from zoo.run.changed_answers import compared

CLASSES = ["a", "b", "c"]
ANSWERS = {"agreement": 0.95, "class": "b", "recall": [0.8, 0.7], "calibration_error": [0.01, 0.03]}


def drawn(seed, spoilt=""):
    """Draw predictions of 300 images, whose labels are always the same; half of a `spoilt` class is wrong."""
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    predicted = np.where(rng.random(300) < 0.8, labels, rng.integers(0, 3, 300))
    if spoilt:
        i = CLASSES.index(spoilt)
        predicted = np.where((labels == i) & (np.arange(300) < 150), (i + 1) % 3, predicted)
    confidence = rng.random(300).astype(np.float32)
    return Predictions.of_images("one", labels.astype(np.uint8), predicted.astype(np.uint8), confidence)


def test_the_figures_are_those_of_scikit_learn():
    before, after = drawn(1), drawn(2, spoilt="b")
    found = compared(before, after, CLASSES)
    assert found["agreement"] == pytest.approx(accuracy_score(before.predicted, after.predicted))
    recalls = [recall_score(one.labels, one.predicted, average=None) for one in (before, after)]
    changes, most = np.abs(recalls[1] - recalls[0]), CLASSES.index(found["class"])
    assert changes[most] == pytest.approx(changes.max())
    lost, won = (int((a.right & ~b.right).sum()) for a, b in ((before, after), (after, before)))
    assert found["p"] == pytest.approx(binomtest(lost, lost + won).pvalue)
    assert found["recall"] == pytest.approx([one[most] for one in recalls])
    edges = np.quantile(after.confidence.astype(float), np.linspace(0, 1, 16))
    which = np.searchsorted(edges[1:-1], after.confidence.astype(float))
    gaps = [abs((after.confidence.astype(float) - after.right)[which == i].sum()) for i in range(15)]
    assert found["calibration_error"][1] == pytest.approx(sum(gaps) / 300)


def test_a_tie_of_a_few_images_is_no_most_changed_class_and_the_accuracies_show_no_difference():
    labels = (np.arange(1000) % 10).astype(np.uint8)
    first, other = labels.copy(), labels.copy()
    other[:3] = 9  # one image of each of three classes, as a run lost 1.00 points in class 3
    found = compared(
        *(Predictions.of_images("", labels, one, np.ones(1000, np.float32)) for one in (first, other)), "ab" * 5
    )
    assert not {"class", "recall"} & found.keys()
    assert found["p"] == pytest.approx(binomtest(3, 3).pvalue)


def test_a_class_counts_if_its_change_is_significant_among_so_many_classes():
    labels = torch.arange(1000) % 10
    for num, expected in ((8, None), (9, 4)):  # of 10 classes: p = 2 / 2 ** num below or above 0.005
        other = labels.clone()
        other[labels == 4] = torch.where(torch.arange(100) < num, 5, 4)
        other[0] = 1
        assert (binomtest(num, num).pvalue < 0.05 / 10) == (expected is not None)
        assert most_changed(labels, labels, other, 10) == expected


def test_the_error_of_calibration_is_that_of_the_picture_to_the_last_digit():
    draw = torch.Generator().manual_seed(0)
    logits, labels = 9 * torch.randn(1000, 10, generator=draw), torch.randint(10, (1000,), generator=draw)
    confidence, predicted = answers(logits)
    one = Predictions.of_images("", *(part.numpy() for part in (labels, predicted, confidence)))
    assert compared(one, one, CLASSES * 4)["calibration_error"] == [calibration(logits, labels)["error"]] * 2
    halved = calibration_error(confidence.half().double(), torch.from_numpy(one.right).double())
    assert halved != pytest.approx(calibration(logits, labels)["error"], abs=1e-6)  # as earlier versions had it


def test_the_interval_of_a_change_is_that_of_images_that_are_drawn_together():
    right, confidence = torch.ones(1000, dtype=torch.float64), torch.full((1000,), 0.9, dtype=torch.float64)
    assert change_interval((confidence, right), (confidence - 0.2, right)) == pytest.approx([0.2, 0.2])
    low, high = change_interval((confidence, right), (confidence, right.clone()))
    assert low == high == 0


def test_a_missing_prediction_agrees_with_none_and_other_images_are_not_compared():
    before, after = drawn(1), drawn(1)
    after.confidence[:30] = np.nan
    assert compared(before, after, CLASSES)["agreement"] == 0.9
    other = Predictions.of_images("one", before.labels[::-1].copy(), before.predicted, before.confidence)
    assert compared(before, other, CLASSES) is None


def test_they_are_kept_and_shown_under_the_same_names(tmp_path, capsys):
    result = {**RESULT, "before": {"answers": ANSWERS, "test": {"accuracy": 0.91}}, "compress": {"pack": PACK}}
    write_result(tmp_path / "result.json", {**result, "product_bytes": 9, "folder": "a"})
    result = read_result(tmp_path / "result.json")
    assert result["before"]["answers"] == ANSWERS
    final_tables.show_result(result, OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}}))
    shown = {
        line.split("│")[1].strip(): line.split("│")[2:5] for line in capsys.readouterr().out.splitlines() if "│" in line
    }
    cells = {name: [cell.strip() for cell in row] for name, row in shown.items()}
    assert cells["agreement with the original"] == ["–", "95.00%", ""]
    assert cells["most changed recall, b"] == ["80.00%", "70.00%", "-10.00 points"]
    assert cells["calibration error"] == ["1.00%", "3.00%", "+2.00 points"]
    row = settings_row.metrics(result)
    assert not row.keys() & settings_row.row(result).keys()
    assert (row["agreement with the original"], row["calibration error before"]) == (0.95, 0.01)
    assert {name.removesuffix(" before") for name in row} >= {"most changed recall", "calibration error"}


def test_what_may_be_noise_is_said_to_be_no_difference(capsys):
    answers = {"agreement": 0.99, "p": 0.45, "calibration_error": [0.01, 0.03], "calibration_change": [-0.01, 0.04]}
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    for change, times in (({}, 2), ({"p": 0.01}, 1), ({"p": 0.01, "calibration_change": [0.01, 0.04]}, 0)):
        before = {"answers": answers | change, "test": {"accuracy": 0.91}}
        result = {**RESULT, "before": before, "compress": {"pack": PACK}, "product_bytes": 9, "folder": "a"}
        final_tables.show_result(result, cfg)
        shown = capsys.readouterr().out
        assert shown.count("no difference shown") == times
        assert "recall" not in shown
        assert max(map(len, shown.split("Net  ")[0].splitlines())) <= 80


PACK = {"ledger": {"bytes": 9, "ratio": 1.0}, "stages": {"dense": 12.0}}


@pytest.mark.slow
def test_a_compressing_run_compares_itself_with_the_net_it_began_with(command, toy, only_run, tmp_path):
    line = [*with_plots(toy), "callbacks.graph=null"]
    assert command("train", *line).code == 0
    first = only_run()
    again = [*line, "trainer.max_epochs=0", "compress=weight_int4", f"init_from={first}"]
    assert command("train", *again, "name=small").code == 0
    (folder,) = (tmp_path / "runs/small").iterdir()
    saved = [load_file(one / "predictions.safetensors") for one in (first, folder)]
    found = json.loads((folder / "result.json").read_text())["before"]["answers"]
    assert found["agreement"] == pytest.approx(accuracy_score(saved[0]["predicted"], saved[1]["predicted"]))
    (first / "predictions.safetensors").unlink()
    done = command("train", *again, "name=other")
    (folder,) = (tmp_path / "runs/other").iterdir()
    second = json.loads((folder / "result.json").read_text())["before"]["answers"]
    assert second["agreement"] == pytest.approx(found["agreement"], abs=0.01)
    assert second["calibration_error"] == pytest.approx(found["calibration_error"], abs=1e-3)
    assert "agreement with the original" in done.out
