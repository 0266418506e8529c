"""The tables of docs/trust.md and their sentences, from made-up results of scripts/trust.py."""

import importlib.util
import json
import re

import pytest
from conftest import ROOT

from zoo.benchmarks import trust_tables


def row(name, accuracy, p=None, interval=(0.01, 0.02), recall=0.8, corrupted=0.7):
    """The figures of a form: one class always right, and one of 1,000 images with a recall."""
    classes = {
        "one": {"num_samples": 1000, "recall": 1.0, "precision": 1.0},
        "T-shirt": {"num_samples": 1000, "recall": recall, "precision": 1.0},
    }
    calibration = {"error": sum(interval) / 2, "error_interval": list(interval), "nll": 0.2, "brier": 0.1}
    found = {"accuracy": accuracy, "classes": classes, "calibration": calibration}
    figures = {
        "name": name,
        "size_bytes": 1000,
        "evaluation": found,
        "corruptions": {"mean_accuracy": corrupted, "num_images": 2000},
    }
    figures["recall_intervals"] = [[0.99, 1.0], [recall - 0.02, recall + 0.02]]
    scores, at_random = {"x": {"deletion": 0.3, "insertion": 0.9}}, {"deletion": 0.6, "insertion": 0.5}
    figures["explanations"] = {"num_images": 9, "own": scores, "of_first": scores, "random": at_random}
    return figures | ({} if p is None else {"against_first": {"p_holm": p, "agreement": 0.95}})


def test_sentences_say_what_is_significant_and_no_more():
    forms = [
        row("dense", 0.9),
        row("pruned", 0.88, 0.001, (0.03, 0.04), 0.7, 0.6),
        row("int8", 0.9, 1.0, corrupted=0.71),
    ]
    text = " ".join(trust_tables.sentences({"files": forms}))
    assert "accuracy of pruned differs from the dense net's" in text
    assert "calibration error of pruned is above the dense net's" in text
    assert "5.0% to 5.0% of the answers" in text
    assert "On 2,000 corrupted images" in text
    assert "pruned's, -10.00 points, with -2.00 on clean ones" in text
    assert "'T-shirt' in pruned, by 10.0 points." in text
    alike = " ".join(trust_tables.sentences({"files": [row("dense", 0.9), row("int8", 0.9, 0.3, recall=0.79)]}))
    assert "accuracy of no form differs significantly" in alike
    assert "intervals of all calibration errors overlap" in alike
    assert "by 1.0 points; the intervals of both recalls overlap" in alike
    assert "By deletion" not in text
    forms[0]["explanations"]["random"]["deletion"] = 0.31
    assert "by insertion they have 0.900, and random orders 0.500" in trust_tables.sentences({"files": forms})[-1]


def test_the_table_has_a_row_for_each_form_and_says_what_is_missing(tmp_path):
    assert trust_tables.forms_table(tmp_path).startswith("Not measured yet")
    figures = {"kind": "forms", "made_by": {"int8": "compress=ptq_int8"}, "trained_by": "experiment=x, 5 epochs"}
    figures |= {"epochs": 3, "settings": ["optim.lr=1e-4"]}
    figures["files"] = [row("dense", 0.9), row("int8", 0.89, 0.3)]
    (tmp_path / "trust_net.json").write_text(json.dumps(figures))
    lines = trust_tables.forms_table(tmp_path).splitlines()
    assert lines[2].startswith("| `net` | dense | 90.00% | 1.50% | 70.00% | 80.00% | – |")
    assert lines[3].startswith("|  | int8 | 89.00% |")
    training = (
        "It was trained with experiment=x, 5 epochs. Its pruned and rate forms were trained for 3 epochs. "
        "All forms also had `optim.lr=1e-4`."
    )
    assert any(line.startswith(f"`net`: {training} The accuracy") for line in lines)
    assert trust_tables.alone_table(tmp_path, "net").startswith("Not measured yet")


@pytest.mark.parametrize("name", ["trust", "trust_alone", "trust_maps", "trust_temperature"])
def test_the_page_is_what_the_script_would_write_now(name):
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs/trust.md").read_text()
    (block,) = re.findall(rf"<!-- table:{name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert block == module.TABLES[name]()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a.zoo"], "name: a.zoo does not come with the zoo; measure it alone, with name=NAME"),
        (["a.zoo", "zoo:lenet5_mnist_5k", "name=x"], "name: a.zoo does not come with the zoo; measure it alone"),
        (["a.zoo", "name=a-b"], "name: expected letters, digits and _, got 'a-b'"),
        (["b.zoo", "name=x"], "names: there is no file b.zoo"),
    ],
)
def test_a_net_that_does_not_come_with_the_zoo_needs_a_name(command, tmp_path, words, sentence):
    (tmp_path / "a.zoo").write_bytes(b"")
    done = command("scripts/trust", *words)
    assert (done.code, sentence in done.sentence) == (2, True), done.err
    assert [file.name for file in tmp_path.iterdir()] == ["a.zoo"]
