"""The progress bar, and the lines of epochs on the screen and in log.txt."""

import re

import pytest
import torch

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROW = re.compile(r"^ +(\d+)/(\d+) +([\d.]+) +([\d.]+%) +([\d.]+) +([\d.]+%) +([\d.]+)", re.MULTILINE)


@pytest.fixture
def on_terminal(monkeypatch):
    """Let Rich take the output for a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_without_a_terminal_each_epoch_leaves_a_line_there_and_in_the_log(command, toy, only_run):
    done = command("train", *toy)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    rows = ROW.findall(done.out)
    assert [(epoch, num) for epoch, num, *_ in rows] == [("1", "3"), ("2", "3"), ("3", "3")]
    log = (only_run() / "log.txt").read_text()
    assert re.findall(r"DEBUG zoo: ( +\d+/\d+ .*)", log) == [line for line in done.out.splitlines() if ROW.match(line)]
    assert re.search(r"command: train.py data=fashion_mnist .*name=toy", log)
    assert "test (200)" in log.partition("result:")[2]
    assert not re.search(r"Tip|litlogger|GPU available|max_epochs=3. reached|CUDA_HOME|is deprecated", log)
    assert (
        max((row[5] for row in rows), key=lambda share: float(share[:-1])) in done.out.partition("validation (60)")[2]
    )


def test_on_a_terminal_a_bar_has_loss_metric_speed_and_time_left_and_goes(command, toy, on_terminal):
    done = command("train", *toy, "callbacks.progress.refresh_rate=1")
    assert done.code == 0, done.err
    screens = re.split(r"[\r\n]+", ANSI.sub("", done.out))
    bars = [line for line in screens if line.startswith("epoch ")]
    shown = re.compile(r"epoch [123]/3 [━╸╺ ]+ loss \d\.\d{4}  accuracy [\d.]+%  [\d,]+ img/s  \d:\d\d:\d\d left")
    assert any(shown.match(line) for line in bars)
    assert max(map(len, bars)) <= 80
    assert re.findall(r"(\d)/3 +\d\.\d{4} +[\d.]+% +\d\.\d{4} ", "\n".join(screens)) == ["1", "2", "3"]
    assert done.out.count("\x1b[?25l") == done.out.count("\x1b[?25h")  # the cursor is visible again


def test_a_run_without_a_bar_is_silent_but_keeps_its_lines_in_the_log(command, toy_smoke, only_run):
    done = command("train", *toy_smoke, "callbacks.progress=null")
    assert done.code == 0, done.err
    assert not ROW.search(done.out)
    assert len(re.findall(r"DEBUG zoo: +1/1 ", (only_run() / "log.txt").read_text())) == 1


def test_no_update_of_the_bar_reads_a_tensor(command, toy, on_terminal, monkeypatch):
    """The losses of a step stay on the device until TrainingMonitor fetches those of four steps together."""
    read = []
    for name in ("item", "__float__", "tolist"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, plain=plain: read.append(1) or plain(self))
    line = ["trainer.max_epochs=1", "schedule=constant", "callbacks.progress.refresh_rate="]
    assert command("train", *toy, *line[:2], f"{line[2]}0").code == 0
    without = len(read)
    assert command("train", *toy, *line[:2], f"{line[2]}1").code == 0
    assert len(read) - without <= without + 1  # the validation metric, once
