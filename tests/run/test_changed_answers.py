"""How compression changed the answers, as scikit-learn counts it, from saved predictions or a second test."""

import json

import numpy as np
import pytest
from conftest import with_plots
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, recall_score
from stored import RESULT

from zoo.records.json_files import read_result, write_result
from zoo.records.predictions_file import Predictions
from zoo.report import final_tables, settings_row
from zoo.run.changed_answers import compared

CLASSES = ["a", "b", "c"]
ANSWERS = {"agreement": 0.95, "class": "b", "recall": [0.8, 0.7], "calibration_error": [0.01, 0.03]}


def drawn(seed):
    """Draw predictions of 300 images, whose labels are always the same."""
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    predicted = np.where(rng.random(300) < 0.8, labels, rng.integers(0, 3, 300)).astype(np.uint8)
    return Predictions.of_images("one", labels.astype(np.uint8), predicted, rng.random(300).astype(np.float16))


def test_the_figures_are_those_of_scikit_learn():
    before, after = drawn(1), drawn(2)
    found = compared(before, after, CLASSES)
    assert found["agreement"] == pytest.approx(accuracy_score(before.predicted, after.predicted))
    recalls = [recall_score(one.labels, one.predicted, average=None) for one in (before, after)]
    changes, most = np.abs(recalls[1] - recalls[0]), CLASSES.index(found["class"])
    assert changes[most] == pytest.approx(changes.max())
    assert found["recall"] == pytest.approx([one[most] for one in recalls])
    edges = np.quantile(after.confidence.astype(float), np.linspace(0, 1, 16))
    which = np.searchsorted(edges[1:-1], after.confidence.astype(float))
    gaps = [abs((after.confidence.astype(float) - after.right)[which == i].sum()) for i in range(15)]
    assert found["calibration_error"][1] == pytest.approx(sum(gaps) / 300)


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
    row = settings_row.row(result)
    assert (row["agreement with the original"], row["calibration error before"]) == (0.95, 0.01)
    assert {name.removesuffix(" before") for name in row} >= {"most changed recall", "calibration error"}


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
