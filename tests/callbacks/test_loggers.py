import csv

import pytest
from conftest import scalars
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from zoo.callbacks.board import DIAGNOSTICS, board_tag
from zoo.callbacks.loggers import MetricsCSV, TensorBoard
from zoo.errors import BadInput


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if not name.startswith("sha256:")} for row in found]


def test_metrics_of_a_step_share_a_row_and_new_columns_may_come_late(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, step=9)
    logger.log_metrics({"val/accuracy": 0.5}, step=9)
    logger.log_metrics({"train/loss": 1.0}, step=19)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "9", "train/loss": "2.0", "val/accuracy": "0.5"},
        {"step": "19", "train/loss": "1.0", "val/accuracy": ""},
    ]


def test_a_resumed_file_drops_what_lies_beyond_the_checkpoint_and_keeps_the_rest(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in (9, 19, 29):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.finalize("failed")
    second = MetricsCSV(tmp_path, from_step=20)
    second.log_metrics({"train/loss": 0.5}, step=29)
    second.finalize("success")
    assert [(r["step"], r["train/loss"]) for r in rows(tmp_path)] == [("9", "9.0"), ("19", "19.0"), ("29", "0.5")]


def test_tensorboard_shows_losses_and_accuracies_first_and_diagnostics_last_and_no_single_values():
    metrics = ["epoch", "lr", "train/loss", "train/accuracy", "train/gradient_norm", "train/samples_per_second"]
    metrics += [
        "val/loss",
        "val/accuracy",
        "val/wer",
        "val/raw_loss",
        "compress/stage",
        "test/accuracy",
        "packed/bytes",
    ]
    tags = sorted({tag for metric in metrics if (tag := board_tag(metric))})
    assert tags[:3] == ["train/accuracy", "train/loss", "val/accuracy"]
    groups = [*dict.fromkeys(tag.partition("/")[0] for tag in tags)]
    assert groups == ["train", "val", "while compressing", "while training"]
    assert max(*groups, "with the result", "with the test set", "with attention", DIAGNOSTICS) == DIAGNOSTICS


def test_the_text_of_a_result_has_no_empty_head_and_numbers_of_four_digits(tmp_path):
    board = TensorBoard(tmp_path)
    figures = {"latency, ms": 3.2265279987768736, "test accuracy": 0.987, "MMACs": 15.4178, "largest": 12345.678}
    board.log_hyperparams({"lr": 0.003, "Model": "lenet5", "Size, kB": 39908.0, "seed": 1}, figures, step=9)
    board.save()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (text,) = events.Tensors("result/text_summary")
    rows = make_ndarray(text.tensor_proto)[0].decode().splitlines()
    assert rows[:3] == ["| Model | lenet5 |", "|---|---|", "| Size, kB | 39908 |"]
    assert {"| latency, ms | 3.227 |", "| test accuracy | 0.987 |", "| MMACs | 15.42 |", "| largest | 12346 |"} <= {
        *rows
    }
    tags = scalars(tmp_path)
    assert tags["with the result/latency, ms"][0][1] == pytest.approx(figures["latency, ms"])
    assert {"with the result/test accuracy", "with the result, more/MMACs"} <= tags.keys()


def test_event_files_of_another_name_and_damaged_metrics_are_told_or_passed_over(tmp_path):
    (tmp_path / "events.out.").touch()
    (tmp_path / "events.out.tfevents").touch()
    TensorBoard(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,train/loss\n9,two\n")
    with pytest.raises(BadInput, match=r"metrics\.csv is damaged"):
        MetricsCSV(tmp_path, from_step=20)


def test_a_run_resumed_within_a_second_of_its_kill_keeps_all_its_points(tmp_path):
    """TensorBoard sorts a folder's files by second, host and process; the last may be the smaller one."""
    first = TensorBoard(tmp_path)
    for step in (9, 19, 29):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.save()
    (file,) = tmp_path.glob("events.out.*")
    *head, host, _process, number = file.name.split(".")
    file.rename(tmp_path / ".".join([*head, host, "99999999", number]))
    second = TensorBoard(tmp_path, from_step=20)
    for step in (29, 39):
        second.log_metrics({"train/loss": float(step)}, step=step)
    second.save()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [9, 19, 29, 39]
