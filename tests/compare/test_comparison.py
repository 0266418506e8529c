"""scripts/compare.py on runs with known results, compared with SciPy, NumPy and published figures."""

import html.parser
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from stored import RESULT

from zoo.compare import comparison_plots, page, runs, significance

NUM_TEST = 1000


def write_run(root, name, seed, right, *, stamp="2026-01-01", config=(), result=(), split_hash="one", curve=None):
    """Write the files of a run: config, result, curves by epoch, and which test images are classified correctly."""
    folder = root / name / stamp
    folder.mkdir(parents=True)
    settings = {
        "name": name,
        "seed": seed,
        "runs": "runs",
        "model": {"_target_": "zoo.models.lenet.LeNet5"},
        "data": {"seed": seed, "fold": 0, "batch_size": 32},
        "optim": {"lr": 0.01},
        "choices": {"model": "lenet5", "task": "classification", "data": "mnist_5k"},
    }
    settings = OmegaConf.merge(settings, OmegaConf.from_dotlist(list(config)))
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings))
    hits = np.asarray(right, dtype=bool)
    accuracy = {"accuracy": float(hits.mean())}
    facts = {
        **RESULT,
        "name": name,
        "seed": seed,
        "net": "lenet5",
        "data": "mnist_5k",
        "params": 61706,
        "macs": 416520,
        "seconds": 60.0,
    }
    facts |= {"bytes": {"model.safetensors": 250840}, "validation": accuracy, "test": accuracy, "folder": str(folder)}
    (folder / "result.json").write_text(json.dumps(facts | dict(result)))
    labels = np.arange(len(hits)) % 10
    tensors = {
        "labels": labels.astype(np.uint8),
        "predicted": np.where(hits, labels, (labels + 1) % 10).astype(np.uint8),
    }
    tensors["confidence"] = np.full(len(hits), 0.5, dtype=np.float16)
    save_file(tensors, folder / "predictions.safetensors", {"split_hash": split_hash})
    rows = ["step,epoch,train/loss,val/accuracy,val/loss"]
    for epoch, value in enumerate(curve or [accuracy["accuracy"]]):
        rows += [f"{20 * epoch + 9},,{3 - value},,", f"{20 * epoch + 19},{epoch}.0,{2 - value},{value},{1 - value}"]
    (folder / "metrics.csv").write_text("\n".join([*rows, f"{20 * epoch + 20},{epoch + 1}.0,,,"]) + "\n")
    return folder


def drawn(seed, share):
    return np.random.default_rng(seed).random(NUM_TEST) < share


@pytest.fixture
def six(tmp_path):
    """A good net and a poor one, with three seeds each, that differ only in learning rate."""
    for i in range(3):
        for name, share, lr in (("good", 0.95, 0.01), ("poor", 0.8, 0.1)):
            write_run(tmp_path / "runs", name, i, drawn(i, share), stamp=f"2026-01-0{i + 1}", config=[f"optim.lr={lr}"])
    return tmp_path / "runs"


def compared(root):
    finished, _ = runs.read([root])
    return runs.comparisons(finished)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 6), (5, 5), (3, 14), (25, 40), (700, 640), (9000, 1000)])
def test_mcnemars_p_is_that_of_scipys_binomial_test(counts):
    expected = scipy.stats.binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert significance.mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


def test_holms_p_values_are_those_of_r():
    """p.adjust(c(.01, .02, .03, .04, .05), "holm"), and for an unsorted vector."""
    assert significance.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert significance.holm([0.04, 0.001, 0.6, 0.02]) == pytest.approx([0.08, 0.004, 0.6, 0.06])
    assert significance.holm([]) == []


def test_every_run_is_held_against_the_best_on_the_same_images(tmp_path):
    right = {"a": drawn(1, 0.95), "b": drawn(2, 0.9), "c": drawn(3, 0.6)}
    for name, hits in right.items():
        write_run(tmp_path, name, 1, hits)
    (comparison,) = compared(tmp_path)
    pairs = {pair.run.result["folder"]: pair for pair in significance.against_best(runs.read([tmp_path])[0])}
    assert len(pairs) == 2
    for name in "bc":
        pair = next(pair for folder, pair in pairs.items() if f"/{name}/" in folder)
        only_a, only_it = int((right["a"] & ~right[name]).sum()), int((right[name] & ~right["a"]).sum())
        assert (pair.only_best, pair.only_this) == (only_a, only_it)
        assert pair.p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_it).pvalue)
    table = page.paired(comparison)
    assert [row[0] for row in table.rows] == ["b", "c"]


def test_a_run_without_the_same_test_images_gets_a_dash_and_the_reason(tmp_path):
    write_run(tmp_path, "best", 1, drawn(1, 0.99))
    write_run(tmp_path, "same", 1, drawn(2, 0.9))
    write_run(tmp_path, "split", 1, drawn(3, 0.8), split_hash="two")
    write_run(tmp_path, "short", 1, drawn(4, 0.7)[:500])
    (write_run(tmp_path, "old", 1, drawn(5, 0.6)) / "predictions.safetensors").unlink()
    (write_run(tmp_path, "torn", 1, drawn(6, 0.5)) / "predictions.safetensors").write_bytes(b"torn")
    (comparison,) = compared(tmp_path)
    notes = {row[0]: row[2:] for row in page.paired(comparison).rows}
    assert notes["same"][-1] == ""
    reasons = {"split": "another test set", "short": "another test set", "old": "no predictions"}
    for name, reason in {**reasons, "torn": "damaged predictions"}.items():
        assert notes[name] == ("–", "–", "–", "–", reason)
    assert notes["same"][2] == notes["same"][3]  # one comparison needs no correction


def test_runs_of_other_test_samples_are_ranked_apart(tmp_path):
    """Results of earlier versions have only the hash of the whole split, which a later run may share."""
    of_folds = [(f"fold{i}", None) for i in range(2)]
    hashes = (("all", "one"), ("less", "one"), ("other", "two"), ("all", None), ("unseen", None), *of_folds)
    for seed, (split_hash, test_hash) in enumerate(hashes):
        result = {"split_hash": split_hash} | ({"test_hash": test_hash} if test_hash else {})
        config = ["data.folds=2", f"data.fold={seed - 5}"] if "fold" in split_hash else []
        write_run(tmp_path, f"run{seed}", seed, drawn(seed, 0.8), result=result, config=config)
    found = {
        one.title: {run.result["seed"] for group in one.groups for run in group.runs} for one in compared(tmp_path)
    }
    assert found == {
        "mnist_5k, test set one": {0, 1, 3},
        "mnist_5k, test set two": {2},
        "mnist_5k, unknown test set of split unseen": {4},
        "mnist_5k, unknown test set of split fold0": {5, 6},
    }
    assert [one.title for one in runs.comparisons([runs.run_of(tmp_path / "run2" / "2026-01-01")])] == ["mnist_5k"]


def test_runs_whose_test_files_have_the_same_names_and_other_contents_are_ranked_apart(tmp_path):
    for seed, content in enumerate(["black", "white", "black", None]):
        result = {"split_hash": "all", "test_hash": "one"} | ({"test_content_hash": content} if content else {})
        write_run(tmp_path, f"run{seed}", seed, drawn(seed, 0.8), result=result)
    found = {one.title: {r.result["seed"] for group in one.groups for r in group.runs} for one in compared(tmp_path)}
    assert found == {
        "mnist_5k, test set one, files black": {0, 2},
        "mnist_5k, test set one, files white": {1},
        "mnist_5k, test set one, files not compared": {3},
    }
    for seed, content in ((0, "this"), (2, "that")):
        result = {"split_hash": "all", "test_hash": "one", "test_sample_hash": content}
        write_run(tmp_path / "sampled", f"run{seed}", seed, drawn(seed, 0.8), result=result)
    assert len(compared(tmp_path / "sampled")) == 2
    same = [runs.run_of(tmp_path / f"run{seed}" / "2026-01-01") for seed in (0, 2, 3)]
    assert [one.title for one in runs.comparisons(same)] == ["mnist_5k"]


def test_what_is_right_of_sequences_is_read_and_ranked_by_wer(tmp_path):
    for name, share in (("a", 0.5), ("b", 0.8)):
        hits = drawn(ord(name), share)
        rates = {"accuracy": float(hits.mean()), "wer": 1 - float(hits.mean())}
        folder = write_run(tmp_path, name, 1, hits, result={"test": rates, "validation": rates})
        save_file({"correct": hits.astype(np.uint8)}, folder / "predictions.safetensors", {"split_hash": "one"})
    (comparison,) = compared(tmp_path)
    table = page.ranking(comparison)
    assert [row[1] for row in table.rows] == ["b", "a"]
    assert table.columns[3] == "test WER"
    wer = 100 * (1 - drawn(ord("b"), 0.8).mean())
    assert table.rows[0][3] == f"{wer:.2f} %"
    assert page.paired(comparison).rows[0][-1] == ""


def test_mean_and_spread_over_seeds_are_numpys(six):
    (comparison,) = compared(six)
    for group, share in zip(comparison.groups, (0.95, 0.8), strict=True):
        accuracies = [100 * drawn(i, share).mean() for i in range(3)]
        expected = f"{np.mean(accuracies):.2f} % ± {np.std(accuracies, ddof=1):.2f}"
        row = next(row for row in page.ranking(comparison).rows if row[1] == group.label)
        assert row[2:4] == ("3", expected)


def test_runs_are_grouped_by_all_their_settings_but_seed_fold_and_name(tmp_path):
    write_run(tmp_path, "one", 1, drawn(1, 0.9))
    write_run(tmp_path, "two", 2, drawn(2, 0.9))
    write_run(tmp_path, "three", 1, drawn(3, 0.9), config=["data.fold=1"])
    write_run(tmp_path, "flipped", 1, drawn(4, 0.9), config=["data.augment.flip=true"])
    (comparison,) = compared(tmp_path)
    assert sorted(len(group.runs) for group in comparison.groups) == [1, 3]


def test_a_run_repeated_with_its_seed_does_not_count_as_another_seed(tmp_path):
    for day in (1, 2):
        write_run(tmp_path, "same", 1, drawn(1, 0.9), stamp=f"2026-01-0{day}")
    (comparison,) = compared(tmp_path)
    assert [group.label for group in comparison.groups] == ["same 2026-01-01", "same 2026-01-02"]


def test_groups_of_one_name_are_told_apart_by_what_differs(tmp_path):
    for i, lr in enumerate((0.1, 0.2)):
        write_run(tmp_path, "lenet", 1, drawn(i, 0.9), stamp=f"2026-01-0{i + 1}", config=[f"optim.lr={lr}"])
    (comparison,) = compared(tmp_path)
    assert {group.label for group in comparison.groups} == {"lenet optim.lr=0.1", "lenet optim.lr=0.2"}


def test_settings_that_differ_are_set_side_by_side(six):
    (comparison,) = compared(six)
    table = page.differences(comparison)
    assert (table.columns, table.rows) == (["setting", "good", "poor"], [["optim.lr", "0.01", "0.1"]])


def test_of_many_runs_that_differ_in_little_each_is_a_row(tmp_path):
    for i in range(9):
        config = [f"optim.lr={i}", "data.mix=null"][: 1 + i % 2]
        write_run(tmp_path, f"trial_{i}", 1, drawn(1, 0.9 - 0.01 * i), config=config)
    (comparison,) = compared(tmp_path)
    table = page.differences(comparison)
    assert table.columns == ["run", "optim.lr", "data.mix"]
    assert table.rows == [[f"trial_{i}", str(i), "null" if i % 2 else "–"] for i in range(9)]


def test_other_data_and_other_tasks_are_compared_apart(tmp_path):
    write_run(tmp_path, "a", 1, drawn(1, 0.9))
    write_run(tmp_path, "b", 1, drawn(1, 0.9), config=["choices.task=distill"])
    write_run(tmp_path, "c", 1, drawn(1, 0.9), config=["choices.task=rotation"])
    write_run(tmp_path, "d", 1, drawn(1, 0.9), result={"data": "cifar10"})
    assert {c.title: len(c.groups) for c in compared(tmp_path)} == {
        "mnist_5k": 2,
        "mnist_5k, task=rotation": 1,
        "cifar10": 1,
    }


def test_runs_that_were_tested_in_part_are_ranked_apart_and_last(tmp_path):
    """Some were tested on only 100 of 1,000 images, where perfect accuracy is easy."""
    sizes = {"split_sizes": {"test": NUM_TEST}}
    write_run(tmp_path, "easy", 1, drawn(1, 2.0)[:100], result={**sizes, "num_samples": {"test": 100}})
    write_run(tmp_path, "some", 1, drawn(2, 2.0)[:90], result={**sizes, "num_samples": {"test": 90}})
    write_run(tmp_path, "old", 1, drawn(3, 2.0)[:80], config=["trainer.limit_test_batches=4"])
    write_run(tmp_path, "whole", 1, drawn(4, 0.9), result={**sizes, "num_samples": {"test": NUM_TEST}})
    write_run(tmp_path, "same", 1, drawn(5, 0.8))
    found = [(one.title, [group.label for group in one.groups]) for one in compared(tmp_path)]
    assert found[0] == ("mnist_5k", ["whole", "same"])
    assert dict(found[1:]) == {
        "mnist_5k, tested on 100 of 1,000": ["easy"],
        "mnist_5k, tested on 90 of 1,000": ["some"],
        "mnist_5k, tested with limit_test_batches=4": ["old"],
    }


def test_a_run_that_made_do_with_less_data_says_so_by_its_name(tmp_path):
    write_run(tmp_path, "a", 1, drawn(1, 0.9), config=["trainer.limit_train_batches=100"])
    write_run(tmp_path, "b", 1, drawn(2, 0.8), config=["trainer.limit_train_batches=null"])
    (comparison,) = compared(tmp_path)
    assert [group.label for group in comparison.groups] == ["a limit_train_batches=100", "b"]


def test_an_image_whose_logits_were_nan_is_not_right_by_its_label(tmp_path):
    folder = write_run(tmp_path, "a", 1, np.ones(4, dtype=bool))
    labels = np.zeros(4, dtype=np.uint8)
    confidence = np.array([0.5, np.nan, 0.9, np.nan], dtype=np.float16)
    tensors = {"labels": labels, "predicted": labels, "confidence": confidence}
    save_file(tensors, folder / "predictions.safetensors", {"split_hash": "one"})
    hits, _ = significance._hits(runs.run_of(folder))
    assert hits.tolist() == [True, False, True, False]


def test_the_front_is_what_nothing_beats():
    points = [(1, 5), (2, 4), (2, 7), (3, 7), (4, 9), (1, 3)]
    beaten = {i for i, (x, y) in enumerate(points) if any(u <= x and v >= y and (u, v) != (x, y) for u, v in points)}
    assert set(comparison_plots.front(points)) == set(range(len(points))) - beaten


def test_a_curve_has_a_point_an_epoch_and_its_band_is_numpys(tmp_path):
    values = [[0.5, 0.7, 0.8], [0.6, 0.65, 0.9]]
    folders = [write_run(tmp_path, f"r{i}", i, drawn(1, 0.9), curve=v) for i, v in enumerate(values)]
    curves = [runs.curve(folder, "val/accuracy") for folder in folders]
    assert curves == [[(i + 1, value) for i, value in enumerate(several)] for several in values]
    found = comparison_plots.band(curves)
    assert [epoch for epoch, _, _ in found] == [1, 2, 3]
    assert [mean for _, mean, _ in found] == pytest.approx(np.mean(values, axis=0))
    assert [spread for _, _, spread in found] == pytest.approx(np.std(values, axis=0, ddof=1))
    assert runs.curve(folders[0], "train/loss") == [(i + 1, pytest.approx(2.5 - v)) for i, v in enumerate(values[0])]


def test_the_mean_training_loss_of_an_epoch_weights_rows_by_their_steps(tmp_path):
    """Three steps in a first row and one in a second; then four in one row."""
    rows = [(2, 2.0, ""), (3, 4.0, 0), (7, 1.0, 1)]
    lines = ["step,train/loss,epoch", *(f"{step},{loss},{epoch}" for step, loss, epoch in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert runs.curve(tmp_path, "train/loss") == [(1, (3 * 2.0 + 4.0) / 4), (2, 1.0)]


class Sources(html.parser.HTMLParser):
    """Collect the resources that a page would load, and the cells of its tables."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags, self.cells = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for key, value in attrs if key in ("src", "href")]
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "td":
            self.cells[-1] += data


def test_the_command_writes_a_page_that_needs_no_other_file(command, six, tmp_path):
    (six / "good" / "unfinished").mkdir()
    (six / "good" / "unfinished" / "config.yaml").write_text("name: good")
    (six / "poor").rename(six / "poor, too=1")
    outcome = command("scripts/compare", "runs/good", "runs/poor, too=1/2026-01-02", f"out={tmp_path}/page")
    assert outcome.code == 0, outcome.err
    assert "Left out: 1 run without a result, such as runs/good/unfinished." in outcome.out
    text = (tmp_path / "page" / "comparison.html").read_text()
    found = Sources()
    found.feed(text)
    assert len(found.loaded) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in found.loaded)
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert "url(" not in text
    best = f"{100 * np.mean([drawn(i, 0.95).mean() for i in range(3)]):.2f} %"
    assert any(cell.startswith(best) for cell in found.cells)
    markdown = (tmp_path / "page" / "comparison.md").read_text()
    for picture in re.findall(r"\]\((.*?\.svg)\)", markdown):
        assert (tmp_path / "page" / picture).read_bytes().startswith(b"<?xml")
    assert f"| 1 | good | 3 | {best}" in markdown


def cell(name, size_bytes, accuracy, ms, why=None):
    """Return the entry of a format that exporting adds to a result."""
    figures = {
        "size_bytes": size_bytes,
        "accuracy": accuracy,
        "largest_difference": 2e-5,
        "peak_bytes": 50_000_000,
        "modules": [],
    }
    figures["latency_ms"] = {batch: {"p50": int(batch) * ms, "p95": int(batch) * 2 * ms} for batch in ("1", "64")}
    told = {"format": name, "precision": "fp32", "runtime": "torch", "files": [], "reason": why}
    return told if why else told | figures


def test_exported_files_are_listed_and_drawn_and_what_was_refused_says_why(command, tmp_path):
    hits = drawn(1, 0.9)
    cells = [cell("pt2", 250_000, 0.91, 0.4), cell("onnx", 240_000, 0.9, 0.1), cell("zoo", 0, 0, 0, "no operator")]
    write_run(tmp_path / "runs", "a", 1, hits, result={"exports": {one["format"]: one for one in cells}})
    write_run(tmp_path / "runs", "b", 1, drawn(2, 0.8))
    outcome = command("scripts/compare", "runs", f"out={tmp_path}/page")
    assert outcome.code == 0, outcome.err
    (comparison,) = compared(tmp_path / "runs")
    rows = {row[1]: row for row in page.exported(comparison).rows}
    lost = f"{100 * (hits.mean() - 0.91):.2f}"
    times = ("0.4 / 0.8", "25.6 / 51.2")
    assert rows["pt2"] == ("a", "pt2", "fp32", "torch", "250", "91.00 %", lost, "2e-05", *times, "50", "")
    assert rows["zoo"][-2:] == ("–", "no operator")
    markdown = (tmp_path / "page" / "comparison.md").read_text()
    assert "| a | zoo | fp32 | torch | – | – | – | – | – | – | – | no operator |" in markdown
    assert "![Accuracy of exported files against their cost](exports_1.svg)" in markdown
    panels = comparison_plots.draw_exports(comparison).axes
    assert len(panels) == 3
    for panel, xs in zip(panels, ([240_000, 250_000], [0.1, 0.4], [6.4, 25.6]), strict=True):
        assert list(panel.lines[0].get_xdata()) == pytest.approx(xs)
        assert list(panel.lines[0].get_ydata()) == pytest.approx([90, 91])
    write_run(tmp_path / "without", "c", 1, drawn(1, 0.9))
    assert page.exported(compared(tmp_path / "without")[0]) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere has no run in or below it"),
        (["runs/good", "outt=x"], "there is no setting 'outt'"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_sentence(command, six, arguments, sentence):
    outcome = command("scripts/compare", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.sentence


def test_a_damaged_result_is_named(command, six):
    (six / "good/2026-01-01/result.json").write_text("{}")
    outcome = command("scripts/compare", "runs")
    assert outcome.code == 2
    assert "runs/good/2026-01-01/result.json is damaged, or was not written by the zoo" in outcome.sentence


def test_nothing_is_compared_with_itself(tmp_path):
    write_run(tmp_path, "alone", 1, drawn(1, 0.9))
    (comparison,) = compared(tmp_path)
    assert page.paired(comparison) is None
    assert page.differences(comparison) is None
    assert math.isclose(comparison.groups[0].accuracy, drawn(1, 0.9).mean())


def test_numbers_that_no_net_gives_are_left_out_of_pictures_and_end_nothing(tmp_path, command):
    """A metric may be NaN for one of several seeds, if it diverged, and there may be many formats and settings."""
    cell = {"format": "a", "precision": "fp32", "runtime": "zoo", "files": [], "reason": None, "size_bytes": 1}
    cell |= {"accuracy": 0.5, "largest_difference": 0.0, "peak_bytes": 1, "modules": []}
    cell |= {"latency_ms": {"1": {"p50": 1.0, "p95": 1.0}, "64": {"p50": 1.0, "p95": 1.0}}}
    exports = {f"format{i}": {**cell, "format": f"format{i}"} for i in range(20)}
    for seed, value in enumerate(["nan", "inf", "1e308", "-1e308"]):
        config = [f"+data.made_up_{i}={seed}" for i in range(50)] if seed > 1 else []
        result = {"exports": exports, "product_bytes": 0, "macs": 0, "latency_ms": 0.0}
        folder = write_run(
            tmp_path, f"run{seed // 2}", seed, drawn(seed, 0.8), result=result, config=config, stamp=str(seed)
        )
        lines = [f"{step},{epoch},{value if epoch else 0.5}" for step, epoch in ((1, 0), (2, 1), (3, 1))]
        (folder / "metrics.csv").write_text("\n".join(["step,epoch,val/accuracy", *lines, ""]))
    assert command("scripts/compare", str(tmp_path), f"out={tmp_path}/out").code == 0
    text = (tmp_path / "out/comparison.html").read_text()
    assert "nan" not in text.partition("Differences")[0]


def test_a_sign_test_of_a_million_disagreements_takes_no_time_and_is_scipys(tmp_path):
    assert significance.mcnemar(500_000, 500_000) == 1
    assert significance.mcnemar(501_500, 498_500) == pytest.approx(0.0027, abs=3e-4)  # three standard deviations
