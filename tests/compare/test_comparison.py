"""scripts/compare.py on runs with known results, compared with SciPy, NumPy and published figures."""

import html.parser
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from stored import RESULT

from zoo.compare import comparison_plots, curve_plots, new_latencies, run_names, runs, significance, terminal
from zoo.compare import comparison_tables as tables
from zoo.compare.learning_curve import curve
from zoo.errors import BadInput
from zoo.measure import agreement

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


def mixed_runs(root):
    """Write 30 runs: nets of one name, compressed ones, sweeps, other names, some on a part of the data."""
    rng = np.random.default_rng(0)
    nets = ["lenet5", "resnet20", "vgg11_bn", "vit_tiny", "googlenet"]
    for i in range(30):
        net = nets[i % 5] if i < 20 else "resnet20"
        config = [f"choices.model={net}", f"model._target_=zoo.models.{net}.Net", f"optim.lr={(0.01, 0.003)[i % 2]}"]
        config += [
            f"model.depths=[{i % 5}]",
            "choices.experiment=null",
            f"choices.compress={('none', 'rate')[i // 20]}",
        ]
        config += ["trainer.limit_train_batches=2"] if i == 29 else []
        config += [f"compress.rate.max_drop={(i - 20) / 4}"] if i >= 20 else []
        sizes = {"product_bytes": int(rng.integers(10_000, 60_000_000)), "macs": int(rng.integers(4e5, 3e8))}
        result = {**sizes, "latency_ms": float(rng.uniform(0.1, 90)), "net": net, "params": sizes["product_bytes"] // 4}
        name = f"a_long_name_of_a_run_for_the_third_paper_{i}" if i in (7, 8) else "toy"
        stamp = f"2026-01-{i % 3 + 1:02}_10-{i:02}-00"
        write_run(root, name, i % 3, drawn(i, 0.8 + 0.006 * i), stamp=stamp, config=config, result=result)


@pytest.fixture
def six(tmp_path):
    """A good net and a poor one, with three seeds each, that differ only in learning rate."""
    for i in range(3):
        for name, share, lr in (("good", 0.95, 0.01), ("poor", 0.8, 0.1)):
            write_run(tmp_path / "runs", name, i, drawn(i, share), stamp=f"2026-01-0{i + 1}", config=[f"optim.lr={lr}"])
    return tmp_path / "runs"


def of(table, column):
    """Return a column of a table."""
    return [row[table.columns.index(column)] for row in table.rows]


def compared(root):
    finished, _ = runs.read([root])
    return runs.comparisons(finished)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 6), (5, 5), (3, 14), (25, 40), (700, 640), (9000, 1000)])
def test_mcnemars_p_is_that_of_scipys_binomial_test(counts):
    expected = scipy.stats.binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert agreement.mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


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
    table = tables.paired(comparison)
    assert of(table, "run") == ["b", "c"]


def test_a_run_without_the_same_test_images_gets_a_dash_and_the_reason(tmp_path):
    write_run(tmp_path, "best", 1, drawn(1, 0.99))
    write_run(tmp_path, "same", 1, drawn(2, 0.9))
    write_run(tmp_path, "split", 1, drawn(3, 0.8), split_hash="two")
    write_run(tmp_path, "short", 1, drawn(4, 0.7)[:500])
    (write_run(tmp_path, "old", 1, drawn(5, 0.6)) / "predictions.safetensors").unlink()
    (write_run(tmp_path, "torn", 1, drawn(6, 0.5)) / "predictions.safetensors").write_bytes(b"torn")
    (comparison,) = compared(tmp_path)
    table = tables.paired(comparison)
    notes = {row[2]: (row[1], *row[3:]) for row in table.rows}
    assert notes["same"][1] == "worse"
    reasons = {"split": "another test set", "short": "another test set", "old": "no predictions"}
    for name, reason in {**reasons, "torn": "damaged predictions"}.items():
        assert notes[name] == ("–", f"not compared: {reason}", "–", "–", "–")
    assert notes["same"][0] == notes["same"][4]  # one comparison needs no correction


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
    table = tables.ranking(comparison)
    assert of(table, "run") == ["b", "a"]
    wer = 100 * (1 - drawn(ord("b"), 0.8).mean())
    assert of(table, "test WER")[0] == f"{wer:.2f} %"
    assert of(tables.paired(comparison), "verdict") == ["worse"]


def test_mean_and_spread_over_seeds_are_numpys(six):
    (comparison,) = compared(six)
    for group, share in zip(comparison.groups, (0.95, 0.8), strict=True):
        accuracies = [100 * drawn(i, share).mean() for i in range(3)]
        expected = f"{np.mean(accuracies):.2f} % ± {np.std(accuracies, ddof=1):.2f}"
        table = tables.ranking(comparison)
        i = of(table, "run").index(group.label)
        assert (of(table, "runs")[i], of(table, "test accuracy")[i]) == ("3", expected)


def test_runs_are_grouped_by_all_their_settings_but_seed_fold_and_name(tmp_path):
    write_run(tmp_path, "one", 1, drawn(1, 0.9))
    write_run(tmp_path, "two", 2, drawn(2, 0.9))
    write_run(tmp_path, "three", 1, drawn(3, 0.9), config=["data.fold=1"])
    write_run(tmp_path, "flipped", 1, drawn(4, 0.9), config=["data.augment.flip=true"])
    (comparison,) = compared(tmp_path)
    assert sorted(len(group.runs) for group in comparison.groups) == [1, 3]
    (group,) = (group for group in comparison.groups if len(group.runs) > 1)
    assert group.label == "one, three, two"
    names = [group.name_of(run) for run in group.runs]
    assert names == ["one seed=1 data.fold=0", "three seed=1 data.fold=1", "two seed=2 data.fold=0"]


def test_a_run_of_an_earlier_version_that_lacks_a_setting_is_grouped_with_those_that_have_its_default(tmp_path):
    options = ["choices.task=transduction", "choices.optim=muon"]
    later = [*options, "task.r_drop=0.0", "optim.bf16=false"]
    write_run(tmp_path, "earlier", 1, drawn(1, 0.9), config=options)
    write_run(tmp_path, "later", 2, drawn(2, 0.9), config=later)
    write_run(tmp_path, "dropped", 3, drawn(3, 0.9), config=[*later, "task.r_drop=1.0"])
    write_run(tmp_path, "unflipped", 4, drawn(4, 0.9), config=[*later, "data.augment.flip=null"])
    (comparison,) = compared(tmp_path)
    assert sorted(group.label for group in comparison.groups) == ["dropped", "earlier, later", "unflipped"]


def test_of_equally_accurate_runs_the_smaller_file_is_first_and_none_is_called_worse(tmp_path):
    for name, size in (("large", 3000), ("small", 1000)):
        write_run(tmp_path, name, 1, drawn(1, 0.9), result={"product_bytes": size}, config=[f"model.size={size}"])
    (comparison,) = compared(tmp_path)
    assert of(tables.ranking(comparison), "run") == ["small", "large"]
    assert of(tables.paired(comparison), "verdict") == ["no difference shown"]


def test_files_of_runs_are_named_by_the_run_if_that_tells_them_apart():
    files = [f"runs/{name}/2026-11-30_00-00-0{i}/model.safetensors" for i, name in enumerate("aab")]
    assert run_names.short_paths([*files[1:], None]) == ["a", "b", "null"]
    assert run_names.short_paths(files) == files


def test_a_run_repeated_with_its_seed_does_not_count_as_another_seed(tmp_path):
    for day in (1, 2):
        write_run(tmp_path, "same", 1, drawn(1, 0.9), stamp=f"2026-01-0{day}")
    (comparison,) = compared(tmp_path)
    assert [group.label for group in comparison.groups] == ["same 2026-01-01", "same 2026-01-02"]


def test_groups_of_one_name_are_told_apart_by_what_differs(tmp_path):
    for i, lr in enumerate((0.1, 0.2)):
        write_run(tmp_path, "lenet", 1, drawn(i, 0.9), stamp=f"2026-01-0{i + 1}", config=[f"optim.lr={lr}"])
    (comparison,) = compared(tmp_path)
    assert {group.label for group in comparison.groups} == {"lr=0.1", "lr=0.2"}


def test_settings_that_differ_are_set_side_by_side(six):
    (comparison,) = compared(six)
    table = tables.differences(comparison)
    assert (table.columns, table.rows) == (["setting", "good", "poor"], [["optim.lr", "0.01", "0.1"]])


def test_of_many_runs_that_differ_in_little_each_is_a_row(tmp_path):
    for i in range(9):
        config = [f"optim.lr={i}", "data.mix=cut"][: 1 + i % 2]
        write_run(tmp_path, f"trial_{i}", 1, drawn(1, 0.9 - 0.01 * i), config=config)
    (comparison,) = compared(tmp_path)
    table = tables.differences(comparison)
    assert table.columns == ["run", "optim.lr", "data.mix"]
    assert table.rows == [[f"trial_{i}", str(i), "cut" if i % 2 else "–"] for i in range(9)]


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


def test_runs_that_made_do_with_less_data_are_ranked_apart(tmp_path):
    write_run(tmp_path, "a", 1, drawn(1, 0.9), config=["trainer.limit_train_batches=100"])
    write_run(tmp_path, "b", 1, drawn(2, 0.8), config=["trainer.limit_train_batches=null"])
    found = [(one.title, [group.label for group in one.groups]) for one in compared(tmp_path)]
    assert found == [("mnist_5k", ["b"]), ("mnist_5k, limit_train_batches=100", ["a"])]


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
    curves = [curve(folder, "val/accuracy") for folder in folders]
    assert curves == [[(i + 1, value) for i, value in enumerate(several)] for several in values]
    found = curve_plots.band(curves)
    assert [epoch for epoch, _, _ in found] == [1, 2, 3]
    assert [mean for _, mean, _ in found] == pytest.approx(np.mean(values, axis=0))
    assert [spread for _, _, spread in found] == pytest.approx(np.std(values, axis=0, ddof=1))
    assert curve(folders[0], "train/loss") == [(i + 1, pytest.approx(2.5 - v)) for i, v in enumerate(values[0])]


def test_the_mean_training_loss_of_an_epoch_weights_rows_by_their_steps(tmp_path):
    """Three steps in a first row and one in a second; then four in one row."""
    rows = [(2, 2.0, ""), (3, 4.0, 0), (7, 1.0, 1)]
    lines = ["step,train/loss,epoch", *(f"{step},{loss},{epoch}" for step, loss, epoch in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert curve(tmp_path, "train/loss") == [(1, (3 * 2.0 + 4.0) / 4), (2, 1.0)]


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
    assert found.tags.count("script") == 1  # ours, which sorts and searches
    assert "link" not in found.tags
    assert "url(" not in text
    best = f"{100 * np.mean([drawn(i, 0.95).mean() for i in range(3)]):.2f} %"
    assert any(cell.startswith(best) for cell in found.cells)
    markdown = (tmp_path / "page" / "comparison.md").read_text()
    for picture in re.findall(r"\]\((.*?\.svg)\)", markdown):
        svg = (tmp_path / "page" / picture).read_text()
        assert svg.startswith("<?xml")
        points = re.search(r'viewBox="0 0 ([\d.]+) ', svg).group(1)
        assert f"min-width: {round(float(points))}px" in text  # on a phone, its letters have as many px as pt
    assert re.search(rf"\| 1 \| {best} ± [\d.]+ \| 251 \| – \| good \| 3 \|", markdown)


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
    rows = {row[1]: row for row in tables.exported(comparison).rows}
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
    assert tables.exported(compared(tmp_path / "without")[0]) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere has no run in or below it"),
        (["runs/good", "outt=x"], "there is no setting 'outt' of this command or of these runs; did you mean out?"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_sentence(command, six, arguments, sentence):
    outcome = command("scripts/compare", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.sentence


def test_the_page_is_written_even_if_the_tables_cannot_be_printed(command, six, monkeypatch):
    """As in `python scripts/compare.py | head -1`, which closes the pipe."""

    def closed(*_, **__):
        raise BadInput("nobody reads")

    monkeypatch.setattr(terminal, "show", closed)
    assert command("scripts/compare", "runs", "out=found").sentence.endswith("nobody reads")
    assert {file.suffix for file in six.parent.joinpath("found").iterdir()} == {".html", ".md", ".svg"}


def test_a_damaged_result_is_named(command, six):
    (six / "good/2026-01-01/result.json").write_text("{}")
    outcome = command("scripts/compare", "runs")
    assert outcome.code == 2
    assert "runs/good/2026-01-01/result.json is damaged, or was not written by the zoo" in outcome.sentence


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    mixed_runs(root)
    return root


@pytest.mark.parametrize("width", [80, 100, 200])
def test_at_any_width_each_of_thirty_runs_has_rank_accuracy_bytes_latency_and_a_name_of_its_own(
    mixed, width, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    found = compared(mixed)
    terminal.show(found, [])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    ranked = [row for one in found for row in tables.ranking(one).rows]
    assert sum(int(row[5]) for row in ranked) == 30
    for row in ranked:
        (line,) = (line for line in lines if line.split()[:1] == [row[0]] and row[1] in line and row[2] in line)
        assert row[3] in line
        name = re.search(rf"  {row[3]}  (\S.*?)(?:  |$)", line)[1]
        assert re.fullmatch(re.escape(name).replace("…", ".*"), row[4])
        assert width < 200 or name == row[4]
    names = [re.split(r"  +", line.strip())[4] for line in lines if re.match(r" *\d+  +[\d.]+ % ", line)]
    assert len(set(names)) == len(names) == len(ranked)


def test_runs_are_named_by_model_and_compression_and_the_fewest_settings_more():
    def named(*several):
        return run_names.names_of(
            [{"name": "a", "model": "x", **one} for one in several], list("123456")[: len(several)]
        )

    assert named({"optim.lr": 0.1, "optim.momentum": 0}, {"optim.lr": 0.2, "optim.momentum": 1}) == ["lr=0.1", "lr=0.2"]
    assert named({"model": "y", "optim.lr": 1}, {"optim.lr": 2}, {"optim.lr": 3}) == ["y", "x lr=2", "x lr=3"]
    assert named({"name": "b"}, {"optim.lr": 1}, {"optim.lr": 2}) == ["b", "a lr=1", "a lr=2"]
    assert named({"compress": "none"}, {"compress": "rate"}) == ["none", "rate"]
    assert named({}, {}) == ["a 1", "a 2"]
    assert named({"name": "x_d", "data": "d"}, {"name": "b", "data": "d"}) == ["x", "b"]


def test_differences_leave_out_what_nobody_set_what_follows_and_what_was_said():
    def found(*several):
        return run_names.differing(several)

    assert found({"tf32": True}, {}) == ["tf32"]  # no default of a group
    assert found({"model.freeze": None}, {}) == []
    assert found({"optim": "sgd", "optim.momentum": 0.9}, {"optim": "sgd"}) == []  # the default of configs/optim
    assert found({"optim": "sgd", "optim.momentum": 0.8}, {"optim": "sgd"}) == ["optim.momentum"]
    assert found({"optim": "sgd", "optim.momentum": 0.9}, {"optim": "adamw"}) == ["optim"]
    assert found({"compress": "rate", "callbacks.rate.weight": 0.3}, {"compress": "none"}) == ["compress"]
    assert found({"init_from": "a", "data.mean": [1.0]}, {"init_from": None}) == ["init_from"]
    assert found({"../../etc.x": 1}, {}) == ["../../etc.x"]
    assert found({"data.image_size": 64, "model.image_size": 64}, {"data.image_size": 32, "model.image_size": 32}) == [
        "data.image_size"
    ]


def test_settings_select_runs_and_the_last_are_listed_from_the_newest_on(mixed, command):
    finished, _ = runs.read([mixed])
    chosen = runs.selected(finished, {"model": "vgg*", "optim.lr": "0.01"})
    assert {run.settings["model"] for run in chosen} == {"vgg11_bn"}
    assert {run.settings["optim.lr"] for run in chosen} == {0.01}
    done = command("scripts/compare", str(mixed), "last=5", "model=resnet20", "compress=none", "out=page")
    assert done.code == 0, done.err
    rows = [re.split(r"  +", line.strip()) for line in done.out.splitlines() if re.match(r" *\d+  +[\d.]+ % ", line)]
    assert sum(int(row[5]) for row in rows) == 4
    assert "rate" not in done.out.partition("Against")[0]
    newest = runs.selected(finished, {}, 5)
    assert sorted(run.time for run in newest) == sorted(run.time for run in finished)[-5:]
    listed = of(tables.ranking(runs.comparisons(newest)[0], by_time=True), "started")
    assert listed == sorted(listed, reverse=True)
    assert "none of 30 runs has data=cifar10" in command("scripts/compare", str(mixed), "data=cifar10").sentence


def test_the_markdown_for_a_readme_is_one_short_table(six, command):
    done = command("scripts/compare", "markdown=true")
    assert done.code == 0, done.err
    title, _, head, rule, *rows = done.out.strip().splitlines()
    assert (title, head) == ("mnist_5k", "| run | test accuracy | params | MMACs | kB | latency ms |")
    assert rule == "|---|---:|---:|---:|---:|---:|"
    assert [row.split(" | ")[0] for row in rows] == ["| good", "| poor"]
    assert not list(six.glob("comparison"))


def test_points_that_another_beats_are_grey_and_the_front_is_not(mixed):
    (comparison, *_) = compared(mixed)
    panel = comparison_plots.draw_costs(comparison).axes[0]
    points = [(group.mean("product_bytes"), 100 * group.score) for group in comparison.groups]
    on_front = comparison_plots.front(points)
    grey = {}
    for dot in panel.collections:
        colour, places = dot.get_facecolor()[0], dot.get_offsets().tolist()
        grey |= {tuple(place): bool(np.ptp(colour[:3]) == 0) for place in places}
    assert {i for i, point in enumerate(points) if not grey[point]} == set(on_front)
    assert 0 < len(on_front) < len(points)


def test_few_runs_are_named_at_their_points_and_many_have_a_legend(six, mixed):
    named, numbered = (comparison_plots.draw_costs(compared(root)[0]) for root in (six, mixed))
    assert {text.get_text() for text in named.axes[0].texts} == {"good", "poor"}
    assert not named.legends
    assert all(text.get_text().isdigit() for text in numbered.axes[0].texts)
    assert len(numbered.legends) == 1


def test_the_latency_of_int8_which_torch_simulates_is_not_shown_and_not_drawn(tmp_path):
    for i, compress in enumerate(("none", "ptq_int8")):
        result = {"latency_ms": 1.0 + i, "product_bytes": 1000, "settings": {"compress": compress}}
        write_run(tmp_path, f"run{i}", 1, drawn(i, 0.9), result=result)
    (comparison,) = compared(tmp_path)
    assert sorted(of(tables.ranking(comparison), "latency ms")) == ["1", "–"]
    panels = comparison_plots.draw_costs(comparison).axes
    assert [sum(len(dots.get_offsets()) for dots in panel.collections) for panel in panels[1:]] == [2, 1]


def test_latencies_of_runs_are_measured_again_in_turn_with_one_sample_each(tmp_path, monkeypatch):
    write_run(tmp_path, "int8", 1, drawn(1, 0.9), result={"latency_ms": 7.0, "settings": {"compress": "ptq_int8"}})
    write_run(tmp_path, "lost", 1, drawn(1, 0.9), result={"latency_ms": 7.0})
    names = ("lenet300_mnist_5k", "lenet5_mnist_5k")
    found, _ = runs.read([tmp_path, *(Path(f"zoo:{name}") for name in names)])
    shapes = []
    monkeypatch.setattr(
        new_latencies, "in_turn_ms", lambda calls, *_: shapes.extend(call().shape for call in calls) or [1.5, 2.5]
    )
    again = new_latencies.with_new_latencies(found, "cpu")
    timed = {run.folder.name: run for run in again}
    assert shapes == [(1, 10), (1, 10)]
    assert sorted(timed[name].result["latency_ms"] for name in names) == [1.5, 2.5]
    assert [run.result["latency_ms"] for run in again if not run.timed_on] == [7.0]
    assert sum(run.result["latency_ms"] is None for run in again) == 1
    with pytest.raises(BadInput, match="latency=true measures up to 30 runs, got 31"):
        new_latencies.with_new_latencies([timed[names[0]]] * 31, "cpu")


def test_latencies_of_different_times_have_a_star_and_no_front(tmp_path):
    for i in range(2):
        result = {"latency_ms": 1.0 + i, "product_bytes": 10 + i}
        write_run(tmp_path, f"run{i}", 1, drawn(i, 0.9), result=result, config=[f"model.size={i}"])
    (comparison,) = compared(tmp_path)
    assert sorted(of(tables.ranking(comparison), "latency ms*")) == ["1", "2"]
    assert "* Not comparable: measured at different times" in tables.ranking(comparison).about
    panels = {panel.get_xlabel(): panel for panel in comparison_plots.draw_costs(comparison).axes}
    has_front = {what: len(panel.lines[0].get_xdata()) > 0 for what, panel in panels.items()}
    assert not has_front.pop("latency, ms, measured at different times")
    assert all(has_front.values())
    again = [replace(run, timed_on="one CPU") for group in comparison.groups for run in group.runs]
    (comparison,) = runs.comparisons(again)
    assert "in turn, on one CPU" in tables.ranking(comparison).about
    assert sorted(of(tables.ranking(comparison), "latency ms")) == ["1", "2"]
    assert comparison_plots.draw_costs(comparison).axes[-1].get_xlabel() == "latency, ms"
    assert "latency=true" not in tables.ranking(comparison).about


def test_a_run_that_failed_does_not_squeeze_the_others_in_a_plot(tmp_path):
    for i, share in enumerate((0.95, 0.94, 0.93, 0.92, 0.1)):
        name, result = f"run{i}", {"product_bytes": 1000 * (i + 1), "latency_ms": 1.0}
        write_run(tmp_path, name, 1, drawn(i, share), result=result, config=[f"model.size={i}"])
    (comparison,) = compared(tmp_path)
    panel = comparison_plots.draw_costs(comparison).axes[0]
    assert panel.get_ylim()[0] > 50
    failed = 100 * drawn(4, 0.1).mean()
    assert f"run4 ↓ {failed:.3g}" in [text.get_text() for text in panel.texts]
    assert comparison_plots.near([1.0] * 5 + [0.0]) == (-math.inf, math.inf)
    assert comparison_plots.near([90.0, 10.0, 50.0]) == (-math.inf, math.inf)


def test_curves_show_accuracies_on_a_scale_of_errors_the_epoch_that_was_kept_and_what_diverged(tmp_path):
    for i, values in enumerate(([0.5, 0.99, 0.9], [0.1, 0.1, 0.1], [0.6, 1.0, 0.98], [0.7, 0.8, 0.9], [0.5, 0.8, 0.9])):
        config = [f"model.size={i}"]
        folder = write_run(tmp_path, f"run{i}", 1, drawn(i, 0.9), result={"best_epoch": 2}, config=config, curve=values)
        if i == 3:
            rows = [f"{9 + epoch},{epoch}.0,{10.0**epoch},{value}" for epoch, value in enumerate((1, 5, 9))]
            (folder / "metrics.csv").write_text("\n".join(["step,epoch,val/loss,val/accuracy", *rows, ""]))
    (comparison,) = compared(tmp_path)
    ranks = {group.label: rank for rank, group in enumerate(comparison.groups)}
    _, loss, accuracy = curve_plots.draw_curves(comparison).axes
    assert (accuracy.get_yscale(), accuracy.yaxis_inverted()) == ("log", True)
    assert accuracy.yaxis.get_major_formatter()(5.0, None) == "95"
    lines = [list(line.get_ydata()) for line in accuracy.lines]
    assert lines[ranks["run0"]] == pytest.approx([50, 1, 10])
    assert lines[ranks["run1"]] == pytest.approx([90, 90, 90])
    assert accuracy.get_ylim()[0] > 90
    dots = [list(point) for dots in accuracy.collections for point in dots.get_offsets()]
    assert pytest.approx([2.0, 1.0]) in dots
    assert f"{ranks['run3'] + 1} ↑ 100" in [text.get_text() for text in loss.texts]


def test_nothing_is_compared_with_itself(tmp_path):
    write_run(tmp_path, "alone", 1, drawn(1, 0.9))
    (comparison,) = compared(tmp_path)
    assert tables.paired(comparison) is None
    assert tables.differences(comparison) is None
    assert math.isclose(comparison.groups[0].score, drawn(1, 0.9).mean())


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
    assert agreement.mcnemar(500_000, 500_000) == 1
    assert agreement.mcnemar(501_500, 498_500) == pytest.approx(0.0027, abs=3e-4)  # three standard deviations
