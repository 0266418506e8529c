"""Evaluations, compared with scikit-learn and closed forms."""

import json

import pytest
import sklearn.metrics
import torch

from zoo.measure import evaluation
from zoo.report import plots, settings_row, tables, written_files


@pytest.fixture
def predictions():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (500,), generator=draw)
    logits = torch.randn(500, 4, generator=draw) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    return logits, labels


def test_matrix_recall_and_precision_are_scikit_learns(predictions):
    logits, labels = predictions
    found = evaluation.evaluate(logits, labels, ["a", "b", "c", "d"])
    guesses = logits.argmax(1)
    assert found["confusion_matrix"] == sklearn.metrics.confusion_matrix(labels, guesses).tolist()
    precision, recall, _, support = sklearn.metrics.precision_recall_fscore_support(labels, guesses)
    for i, row in enumerate(found["classes"].values()):
        assert row["recall"] == pytest.approx(recall[i])
        assert row["precision"] == pytest.approx(precision[i])
        assert row["num_samples"] == support[i]
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, guesses))
    assert found["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, logits.double().softmax(1)))


@pytest.mark.parametrize("num_classes", [2, 5, 6])
def test_the_top_five_are_told_of_more_than_five_classes(num_classes, capsys):
    """The last class is the least likely, so among six it is the one outside the top five."""
    logits, labels = torch.arange(num_classes, 0.0, -1).expand(4, -1), torch.tensor([0, 1, 1, num_classes - 1])
    found = evaluation.evaluate(logits, labels, list("abcdef")[:num_classes])
    tables.show_evaluation(found)
    assert found.get("top5") == (0.75 if num_classes == 6 else None)
    assert ("top-5 75.00%" in capsys.readouterr().out) == ("top5" in found) == (num_classes == 6)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    """A hundred predictions with 80 % confidence and 60 % accuracy are off by 20 points."""
    logits = torch.tensor([[0.8, 0.2]]).log().expand(100, 2)
    labels = torch.tensor([0] * 60 + [1] * 40)
    assert evaluation.evaluate(logits, labels, ["a", "b"])["calibration_error"] == pytest.approx(0.2, abs=1e-6)


def test_a_class_without_samples_has_no_recall_and_comes_last(tmp_path, capsys):
    found = evaluation.evaluate(torch.eye(3)[:2], torch.tensor([0, 1]), ["a", "b", "c"])
    assert found["classes"]["c"] == {"num_samples": 0, "recall": None, "precision": None}
    written_files.write_evaluation(tmp_path, found)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    tables.show_evaluation(found)
    *_, last = (line for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert [cell.strip() for cell in last.split("│")[1:-1]] == ["c", "0", "–", "–", "–"]


def test_the_picture_has_true_classes_in_rows_and_a_number_in_each_filled_cell():
    figure = plots.draw_confusion([[8, 2], [0, 10]], ["cat", "dog"])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "80", (0, 1): "20", (1, 1): "100"}


def test_columns_have_short_names_where_they_are_no_others():
    settings = {"model": "vit", "optim.lr": 0.1, "task.width": 1, "model.width": 2, "model.freeze": None}
    settings |= {"model.depths": [1, 2], "task.decode": {"max_length": 8}}
    assert settings_row.short_names(settings) == {
        "model": "vit",
        "lr": 0.1,
        "task.width": 1,
        "model.width": 2,
        "depths": "[1, 2]",
    }
