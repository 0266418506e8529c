"""The tables at the end of a run, and the lines of its epochs."""

import pytest
from omegaconf import OmegaConf
from stored import RESULT

from zoo.report import final_tables
from zoo.report.epoch_lines import aligned, epoch_cells

VALIDATION = {"loss": 0.25, "accuracy": 0.9, "top5": 0.99, "num_samples": 500.0, "f1": 0.8}


def test_an_epoch_has_its_most_important_columns_at_any_width():
    cells = epoch_cells("60/60", {"loss": 0.5, "accuracy": 0.85}, VALIDATION, 1234.5, 0.00098, is_best=True)
    for width in (80, 100, 200):
        names, values = aligned(cells, width)
        assert max(len(names), len(values)) <= width
        assert values.split()[:7] == ["60/60", "0.5000", "85.00%", "0.2500", "90.00%", "1234.5", "best"]
        assert ("0.00098" in values) == (width > 80)
    for name, value in (("kept", "best"), ("train loss", "0.5000"), ("train accuracy", "85.00%"), ("val f1", "0.8000")):
        assert names.index(name) + len(name) == values.index(value) + len(value)


def test_all_shares_of_an_epoch_are_per_cent_and_a_line_of_an_image_classifier_has_its_mark_in_80_columns():
    shares = {"accuracy": 0.972, "top5": 0.998, "balanced_accuracy": 0.9721, "macro_f1": 0.9722}
    cells = epoch_cells("100/100", {"loss": 0.5, "accuracy": 0.85}, {"loss": 0.25, **shares}, 1234.5, 1e-3, True)
    named = ("val accuracy", "val top-5", "val balanced accuracy", "val macro F1")
    assert [cells[name] for name in named] == ["97.20%", "99.80%", "97.21%", "97.22%"]
    assert all(line.endswith(one) for line, one in zip(aligned(cells, 80), ("kept", "best"), strict=True))
    sequences = epoch_cells(
        "9/9", {"loss": 1, "token_accuracy": 0.5}, {"loss": 1, "wer": 0.3, "per": 0.1}, 9, 1e-3, True
    )
    assert aligned(sequences, 80)[0].endswith("kept")


def test_columns_are_aligned_over_epochs_and_there_are_fewer_without_validation():
    lines = [
        aligned(epoch_cells(f"{i}/10", {"loss": 10.0**-i}, VALIDATION, 10.0**i, 0.1, i == 2))[1] for i in (1, 2, 4)
    ]
    assert len({line.index("0.2500") for line in lines}) == 1
    names, values = aligned(epoch_cells("1/10", {"loss": 0.5}, {}, 1.0, 0.1, False))
    assert names.split() == ["epoch", "train", "loss", "seconds", "kept", "mean", "lr"]
    assert values.split() == ["1/10", "0.5000", "1.0", "0.1"]


@pytest.mark.parametrize("width", [80, 200])
def test_what_compression_changed_is_shown_as_far_as_it_is_known(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    before = {"product_bytes": 240_000, "macs": 2_000_000, "test": {"accuracy": 0.985}}
    before["repair"] = {"before": 0.98, "cut": 0.1, "norms": 0.4, "refit": 0.925}
    before["time_kept"] = 0.5234
    after = {"product_bytes": 20_000, "macs": 1_000_000, "test": {**RESULT["test"], "accuracy": 0.98}, "before": before}
    result = {**RESULT, **after, "compress": {"pack": {}}, "folder": "runs/small/2026"}
    final_tables.show_result(result, cfg)
    shown = capsys.readouterr().out
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:5]] for cells in map(split, shown.splitlines())}
    assert rows["test accuracy"] == ["98.50%", "98.00%", "-0.50 points"]
    assert rows["bytes"] == ["240,000", "20,000", "12× less"]
    assert rows["MMACs"] == ["2", "1", "2× less"]
    assert rows["time per batch"] == ["100%", "52.3%", "1.91× less"]
    assert rows["98.00%"][:3] == ["10.00%", "40.00%", "92.50%"]  # dense, cut, with norms, refitted
    assert not {"parameters", "latency, ms"} & rows.keys()
    assert "runs/small/2026/model.zoo, 20,000 bytes" in shown
    assert "compress=rate" not in shown
    assert max(len(line) for line in shown.splitlines() if "python" not in line) <= 80


@pytest.mark.parametrize(("balanced", "is_shown"), [(0.98, False), (0.9804, False), (0.95, True)])
def test_metrics_of_rare_classes_are_shown_where_classes_differ_in_size(balanced, is_shown, capsys):
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    metrics = {**RESULT["test"], "accuracy": 0.98, "balanced_accuracy": balanced, "macro_f1": 0.94}
    final_tables.show_result({**RESULT, "test": metrics, "validation": metrics, "product_bytes": 9, "folder": "a"}, cfg)
    shown = capsys.readouterr().out
    assert ("balanced accuracy" in shown, "macro F1" in shown) == (is_shown, is_shown)


@pytest.mark.parametrize(("balanced", "is_guess"), [(0.1, True), (0.105, True), (0.2, False)])
def test_a_net_whose_accuracy_is_that_of_a_guess_is_said_to_have_learned_nothing(balanced, is_guess, capsys):
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    metrics = {**RESULT["test"], "accuracy": 0.11, "balanced_accuracy": balanced}
    settings = {**RESULT["settings"], "model.num_classes": 10, "optim.lr": 0.01}
    result = {**RESULT, "test": metrics, "settings": settings, "product_bytes": 9, "folder": "a"}
    final_tables.show_result(result, cfg)
    shown = capsys.readouterr().out
    assert ("guessing one of 10 classes. Try optim.lr=0.001; if that is not enough, preflight" in shown) == is_guess
    assert ("compress=rate" in shown, "export.py" in shown) == (not is_guess, not is_guess)
    final_tables.show_result({**result, "split_sizes": {"train": 9, "val": 9, "test": 9_999_999}}, cfg)
    assert "guessing" not in capsys.readouterr().out


def test_what_diagnostics_advise_is_the_only_advice_and_a_net_with_one_answer_is_said_to_have_one(capsys):
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    settings = {**RESULT["settings"], "model.num_classes": 10, "optim.lr": 0.01}
    more = {"remedies": ["optim.lr=0.5", "model.init=he"], "one_answer": {"class": "7", "num": 1000}}
    result = {**RESULT, "test": {"accuracy": 0.1, "balanced_accuracy": 0.1, "loss": 2.3}, "settings": settings, **more}
    final_tables.show_result({**result, "product_bytes": 9, "folder": "a"}, cfg)
    shown = capsys.readouterr().out
    assert "One class   All 1,000 test images are called 7.\n" in shown
    assert "classes. Try optim.lr=0.5; if that is not enough, model.init=he.\n" in shown
    assert "preflight" not in shown


def split(line):
    return [*line.split("│"), "", "", "", "", ""]


def test_what_is_not_compressed_has_no_such_table(capsys):
    cfg = OmegaConf.create({"runs": "runs", "data_root": "data", "data": {}})
    final_tables.show_result({**RESULT, "folder": "runs/a/1", "product_bytes": 250_840}, cfg)
    assert "compression" not in capsys.readouterr().out
