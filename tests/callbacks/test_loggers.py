import csv

from zoo.callbacks.loggers import MetricsCSV


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


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
