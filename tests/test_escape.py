"""Names in files are shown literally wherever they are printed or drawn."""

import html.parser
import io
import json
import logging

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich.table import Table
from safetensors.numpy import save_file
from stored import CONFIG, RESULT

from zoo import escape
from zoo.callbacks.prediction_plots import draw_mistakes
from zoo.report import final_tables, plots, tables

ESC = "\x1b]0;owned\x07\x1b[31m\u202e"
NAME = f"<script>alert(1)</script>[/]:smile: $x_{{$ `a|b` ![x](http://y)\n# {ESC}"


def printed(print_it, monkeypatch):
    """Return what a function prints to a terminal."""
    screen = io.StringIO()
    console = escape.console(file=screen, force_terminal=True, color_system=None, width=400)
    monkeypatch.setattr(escape, "console", lambda **_: console)
    print_it()
    monkeypatch.undo()
    return screen.getvalue()


def test_no_control_character_and_no_markup_reaches_a_terminal(monkeypatch):
    def show():
        table = Table(title=NAME)
        table.add_column(NAME)
        table.add_row(NAME, style="bold")
        escape.console().print(table)
        escape.console().print(NAME, soft_wrap=True)

    shown = printed(show, monkeypatch)
    assert "\x1b]" not in shown
    assert not set("\x07\u202e") & set(shown)
    for literal in ("[/]", ":smile:", r"\n# \x1b]0;owned\x07\x1b[31m\u202e"):
        assert shown.count(literal) == 4


def test_results_and_evaluations_with_any_names_are_printed(monkeypatch, capsys):
    result = {**RESULT, "net": NAME, "folder": f"runs/{NAME}", "product_bytes": 250_840}
    cfg = OmegaConf.create({"runs": NAME, "data_root": "data", "data": {"root": NAME}})
    counts = {"num_samples": 2, "recall": 0.5, "precision": 0.5}
    evaluation = {"accuracy": 0.5, "top5": 1.0, "loss": 1.0, "calibration_error": 0.1, "num_samples": 4, "num_nan": 0}
    evaluation |= {"classes": {NAME: counts, "[b]": counts}, "confusion_matrix": [[1, 1], [1, 1]]}
    for show in (
        lambda: final_tables.show_result(result, cfg),
        lambda: tables.show_evaluation(evaluation),
    ):
        shown = printed(show, monkeypatch)
        assert not set("\x07\u202e") & set(shown)
        assert "[/]:smile:" in shown
    tables.show_predictions([(NAME, [(NAME, 0.5)])])
    shown = capsys.readouterr().out
    assert not set("\x07\u202e\x1b") & set(shown)
    assert shown.count(r"\x1b]0;owned") == shown.count("[/]:smile:") == 2


@pytest.mark.parametrize("name", [NAME, "$", "$a$ $b$", r"\$\frac{", "a_b^c"])
def test_dollars_in_names_are_no_mathematics(name):
    figure = plots.draw_confusion([[3, 1], [1, 3]], [name, "b"])
    figure.savefig(io.BytesIO(), format="svg")
    shown = figure.axes[0].get_xticklabels()[0]
    assert shown.get_text().replace(r"\$", "$").startswith(name[:1])
    text = Figure().text(0, 0, escape.label(name))
    assert text._preprocess_math(text.get_text()) == (escape.shortened(escape.line(name), 80), False)


def test_mistakes_of_classes_with_several_lines_are_drawn_as_of_one():
    images, labels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0])
    sheets = [draw_mistakes([n, n], images, labels, labels + 1, torch.ones(1)) for n in ("a\nb", r"a\nb")]
    assert torch.equal(*sheets)


class Seen(html.parser.HTMLParser):
    """Collect tags and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_a_comparison_of_runs_with_any_names_is_clean(command, tmp_path):
    for i, name in enumerate((NAME, "plain")):
        folder = tmp_path / "runs" / str(i)
        folder.mkdir(parents=True)
        config = {**CONFIG, "name": name, "optim": {"lr": 0.1 * i, "note": NAME}}
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        result = {**RESULT, "name": name, "data": NAME.replace("\n", " ")}
        (folder / "result.json").write_text(json.dumps(result))
        save_file({"correct": np.ones(4, dtype=np.uint8)}, folder / "predictions.safetensors")
    outcome = command("scripts/compare", "runs", "out=page")
    assert outcome.code == 0, outcome.err
    assert not set("\x1b\x07\u202e") & set(outcome.out)
    text = (tmp_path / "page/comparison.md").read_text()
    assert not set("\x1b\x07\u202e<>") & set(text)
    assert "![x](" not in text.replace(r"\[", "")
    rows = [line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert rows == [13, 13, 13, 13, 8, 8, 8, 4, 4, 4]  # of the ranking, against the best, and settings
    page, seen = (tmp_path / "page/comparison.html").read_text(), Seen()
    seen.feed(page)
    assert page.count("<script>") == 1
    assert "alert(1)" not in page.rpartition("<script>")[2]
    assert "<script>alert(1)</script>" in seen.text
    assert not set("\x1b\x07\u202e") & set(page)


def test_an_error_is_one_line_without_control_characters(command):
    outcome = command("evaluate", f"checkpoint='{ESC}\u2028gone'")
    assert outcome.code == 2
    assert r"\x1b]0;owned" in outcome.sentence
    assert not set("\x1b\x07\u202e\u2028") & set(outcome.err)


def test_warnings_of_commands_without_a_log_have_no_control_characters(command):
    assert command("scripts/predict", "absent.safetensors", "a.png").code == 2
    record = logging.LogRecord("zoo", logging.WARNING, "", 1, "%s is skipped", (ESC,), None)
    assert logging.lastResort.format(record) == r"\x1b]0;owned\x07\x1b[31m\u202e is skipped"


def test_a_log_has_lines_and_tabs_and_no_other_control_characters():
    record = logging.LogRecord("zoo", logging.INFO, "", 1, "left out:\n\t%s", (ESC,), None)
    assert escape.Formatter("%(message)s").format(record) == "left out:\n\t" + r"\x1b]0;owned\x07\x1b[31m\u202e"


@pytest.mark.parametrize(
    ("name", "markdown"),
    [
        ("toy_run optim.lr=0.1", "toy_run optim.lr=0.1"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("a|b <i>", r"a\|b &lt;i&gt;"),
        ("a\\b\n", r"a\\b\\n"),
    ],
)
def test_markdown(name, markdown):
    assert escape.markdown(name) == markdown


def test_cells_tags_and_code():
    assert [escape.cell(name) for name in ("=1+1", "-", "a\tb\nc", "x")] == ["'=1+1", "-", r"a\tb\nc", "x"]
    assert escape.tag("a/b" + "x" * 200) == "a∕b" + "x" * 76 + "…"
    assert escape.code("`a`|b") == r"'a'\|b"
    assert escape.line("zoë 日本 \u200d\udc80") == "zoë 日本 \u200d" + r"\udc80"


@pytest.mark.parametrize("name", ["猫", "кошка", "قطة", "ねこ", "🐈", "chat é"])
def test_pictures_of_names_in_any_script_are_drawn_without_a_missing_glyph(name):
    """matplotlib warns of a glyph that its fonts lack, and warnings are errors here."""
    figure = plots.draw_confusion([[3, 1], [0, 4]], [name, "other"])
    figure.savefig(io.BytesIO(), format="png")
    shown = [one.get_text() for one in figure.axes[0].get_yticklabels()]
    assert shown[0] in (name, "".join(f"U+{ord(one):04X}" for one in name))
