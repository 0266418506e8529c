"""The output of scripts/results.py, and that docs/recipes.md is up to date."""

import importlib.util
import json
import math
import re

import hydra
import pytest
from conftest import CONFIGS, ROOT
from omegaconf import OmegaConf
from stored import CONFIG, RESULT

from zoo.benchmarks import curve_plot, result_tables, run_tables
from zoo.errors import BadInput
from zoo.records.json_files import read_result
from zoo.records.metrics_file import metrics_text

PAGE = (ROOT / "docs/recipes.md").read_text()


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_recipes_is_what_the_script_would_write_now(script):
    """`python scripts/results.py` writes it, from configs/experiment."""
    assert f"<!-- table:recipes -->\n{script.recipe_table()}\n<!-- end -->" in PAGE


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        ("resnet20_cifar10_paper", ["`resnet20`", "`cifar10`", "182", "91.25 % (the paper, table 6)"]),
        ("resnet50_imagenet", ["`resnet50`", "`imagenet`", "600", "80.858 % (torchvision, IMAGENET1K_V2)"]),
    ],
)
def test_it_has_published_numbers(recipe, facts):
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{recipe}` |"))
    assert [cell.strip() for cell in row.split("|")][2:6] == facts


@pytest.fixture
def finished(script, tmp_path, monkeypatch):
    """Return a function that writes a run folder with given differences from an acceptable run."""
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path / "results")

    def write(config=None, **changes):
        settings = {"task": "distill", "task.teacher": ["/home/me/one.safetensors", "/home/me/other.safetensors"]}
        result = {**RESULT, "name": "small", "seed": 3, "folder": "/home/me/runs", "data": "fashion_mnist"}
        result |= {"settings": settings} | changes
        (tmp_path / "result.json").write_text(json.dumps(result))
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({**CONFIG, **(config or {})}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": "cifar10"}, "trained on cifar10"),
        ({"commit": "0123456789ab-dirty"}, "commit 0123456789ab-dirty"),
        ({"commit": None}, "commit None"),
        ({"num_samples": {"test": 1000}, "split_sizes": {"test": 10000}}, "tested on 1,000 of 10,000"),
        ({"config": {"trainer": {"limit_test_batches": 2}}}, "limit_test_batches=2"),
        ({"config": {"trainer": {"limit_val_batches": 2}}}, "limit_val_batches=2"),
    ],
)
def test_what_no_table_is_of_is_not_kept(script, finished, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        script.keep(finished(**changes))
    assert not list(script.RESULTS.glob("*"))


def test_a_run_on_the_digits_with_other_settings_than_the_default_ones_is_not_kept(script, finished):
    run = finished(data="mnist_5k", net="lenet5", config={"optim": {"lr": 0.5}})
    refused = pytest.raises(BadInput, match="the table of mnist_5k is for defaults")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"), refused:
        script.keep(run)
    assert not list(script.RESULTS.glob("*"))


@pytest.mark.parametrize("name", ["/tmp/elsewhere", "../elsewhere", "a/b", "a\n", ".a"])
def test_a_name_that_is_no_plain_name_is_no_path_either(script, finished, name):
    with pytest.raises(BadInput, match="name: expected the name of a folder"):
        script.keep(finished(name=name))
    assert not list(script.RESULTS.glob("*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"compress": {"pack": {"ledger": {"bytes": 1, "ratio": 1}, "stages": {}}}},
        {"compress": {"int8": {"float": {"product_bytes": 0, "test": {"accuracy": 0.5}}}}, "product_bytes": 0},
        {"compress": {"int8": {"float": {"product_bytes": 9, "test": {"accuracy": 0.5}}}}, "settings": {}},
    ],
)
def test_a_result_that_no_table_can_be_made_of_is_not_kept(script, finished, changes):
    with pytest.raises(BadInput, match="does not fit the tables"):
        script.keep(finished(**changes))
    assert not list(script.RESULTS.glob("*"))


def test_names_in_a_result_are_no_markup(script, finished):
    script.keep(finished(device="<img src=x> [a](http://evil) <!-- end -->", net="a|b", precision="<b>"))
    table = script.accuracy_table()
    assert not any(mark in table for mark in ("<img", "[a](", "<!--", "<b>"))


def test_seeds_may_have_settings_that_a_table_escapes_and_run_on_other_devices(script, finished):
    settings = {"task.metrics": {}, "task.teacher": ["a*b.safetensors"], "trainer": "gpu"}
    script.keep(finished(settings=settings))
    script.keep(finished(settings={**settings, "trainer": "cpu"}, seed=4))
    with pytest.raises(BadInput, match=r"small exists already with another task\.teacher"):
        script.keep(finished(settings={**settings, "task.teacher": ["b.safetensors"]}, seed=5))


def test_seeds_of_one_name_have_the_same_settings(script, finished):
    script.keep(finished())
    script.keep(finished(seed=4))
    for change, key in (({"net": "vgg11"}, "net"), ({"settings": {"task": "classification"}}, "task")):
        with pytest.raises(BadInput, match=f"small exists already with another {key}"):
            script.keep(finished(seed=5, **change))
    assert len(list(script.RESULTS.glob("*"))) == 2


def test_what_is_kept_of_a_run_has_no_paths_of_its_machine(script, finished):
    kept = json.loads(script.keep(finished()).read_text())
    assert kept["settings"]["task.teacher"] == ["one.safetensors", "other.safetensors"]
    assert "/home/me" not in json.dumps(kept)


def write_metrics(run, values):
    """Write a metrics.csv with a training loss and then a validation accuracy in each epoch."""
    rows = [{"step": 2 * i, "train/loss": 1.0} for i in range(len(values))]
    rows += [{"step": 2 * i + 1, "epoch": float(i), "val/accuracy": value} for i, value in enumerate(values)]
    (run / "metrics.csv").write_text(metrics_text(sorted(rows, key=lambda row: row["step"])), newline="")


def test_the_validation_curve_is_kept_by_minutes_of_training_and_a_run_without_one_has_none(script, finished):
    run = finished(epoch_seconds=[30.0, 60.0, 45.0])
    assert "curve" not in read_result(script.keep(run))
    write_metrics(run, [0.5, math.nan, 0.81234567])
    assert read_result(script.keep(run))["curve"] == [(0.5, 0.5), (2.25, 0.81235)]


def test_of_a_long_curve_every_so_many_points_and_the_last_are_kept(script, finished):
    run = finished(epoch_seconds=[6.0] * 1001)
    write_metrics(run, [i / 2000 for i in range(1001)])
    kept = read_result(script.keep(run))["curve"]
    assert len(kept) == 167
    assert kept[-1] == (100.1, 0.5)
    assert kept[-2] == (99.5, 0.497)


def test_a_page_has_a_picture_of_curves_only_if_one_was_kept(script, finished, tmp_path):
    run, picture = finished(name="ten_minutes_one", net="vgg11", epoch_seconds=[60.0] * 3), tmp_path / "curves.svg"
    script.keep(run)
    assert script.picture_of_curves("ten_minutes") == ""
    assert not script.draw_page("ten_minutes", picture)
    assert not picture.exists()
    write_metrics(run, [0.9, 0.8, 1.0])  # without an error in the end
    script.keep(run)
    script.keep(finished(name="ten_minutes_other", net="lenet5"))
    assert "](ten_minutes.svg)" in script.picture_of_curves("ten_minutes")
    assert script.draw_page("ten_minutes", picture)
    assert curve_plot.family_of("vgg11")[1] in picture.read_text()
    assert script.picture_of_curves("defaults") == ""


def test_many_curves_have_a_panel_for_each_family(tmp_path):
    nets = ("lenet5", "lenet300", "alexnet", "vgg11", "vgg19_bn", "resnet20", "resnet152", "vit_tiny", "googlenet")
    results = [{"net": net, "curve": [(1.0, 0.5), (2.0 + i, 0.9)], "num_samples": {}} for i, net in enumerate(nets)]
    curve_plot.draw_curves(results, tmp_path / "curves.svg")
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "curves.svg").read_text())
    families = dict.fromkeys(curve_plot.family_of(net)[0] for net in nets)
    assert [text for text in texts if text in families] == list(families)


def test_nets_in_integers_have_a_table_of_their_own_with_means_of_their_seeds(script, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path)
    for seed, before, after in ((1, 0.95, 0.949), (2, 0.952, 0.952)):
        result = {
            **RESULT,
            "name": "ptq",
            "net": "resnet20",
            "data": "mnist",
            "settings": {"compress": "ptq_int8"},
            "compress": {"int8": {"float": {"product_bytes": 1000, "test": {"accuracy": before}}}},
            "test": {"accuracy": after},
            "product_bytes": 281,
            "epochs": 0,
            "device": "cpu",
            "precision": "32-true",
            "commit": "abc",
            "params": 1,
            "macs": 1,
        }
        (tmp_path / f"ptq_seed{seed}.json").write_text(json.dumps(result))
    (row,) = script.quantization_table().splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["`ptq`", "resnet20, mnist", "`ptq_int8`", "95.10 % ± 0.14", "95.05 % ± 0.21"]
    assert cells[5:] == ["-0.05", "1,000", "281 (28%)", "2", "0", "cpu, 32-true", "`abc`"]
    assert len(script.accuracy_table().splitlines()) == len(script.sequence_table().splitlines()) == 2


def test_a_small_file_is_compared_with_the_dense_nets_of_its_experiment(script, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path)
    made = {"device": "cpu", "precision": "32-true", "commit": "abc", "seconds": 60.0, "params": 1000, "epochs": 1}
    packed = {"pack": {"ledger": {"bytes": 250, "ratio": 16.0}, "stages": {}}}
    for name, experiment, wer, compress in (
        ("transformer_cmudict", "transformer_cmudict", 0.25, {}),
        ("transformer_cmudict_long", "transformer_cmudict_long", 0.23, {}),
        ("rate_transformer", "transformer_cmudict", 0.26, packed),
        ("rate_long", "transformer_cmudict_long", 0.235, packed),
        ("rate_other", "rate_other", 0.27, packed),
    ):
        result = {**RESULT, **made, "name": name, "net": "transformer", "data": "cmudict", "compress": compress}
        result |= {"settings": {"experiment": experiment}, "test": {"wer": wer, "per": 0.1, "accuracy": 1 - wer}}
        (tmp_path / f"{name}_seed1.json").write_text(json.dumps(result))
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in script.compressed_sequence_table().splitlines()[2:]
    ]
    assert [row[:4] for row in rows] == [
        ["`rate_long`", "23.00 % (1)", "23.50 % (1)", "+0.50"],
        ["`rate_other`", "25.00 % (1)", "27.00 % (1)", "+2.00"],
        ["`rate_transformer`", "25.00 % (1)", "26.00 % (1)", "+1.00"],
    ]


def test_an_ablation_names_what_each_run_changed_and_what_it_gained_in_validation(script, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path)
    assert script.ablation_table("cmudict") == "Not measured yet."
    usual = {"model.positions": "sinusoidal", "model.encoder_depth": 3, "task": "transduction", "seed": 1}
    taught = {"task": "distill_sequences", "task.alpha": 0.9, "task.words": None}
    for name, settings, seed, wer in (
        ("base", {}, 1, 0.30),
        ("deep", {"model.encoder_depth": 5, "model.positions": "rotary"}, 1, 0.29),
        ("deep", {"model.encoder_depth": 5, "model.positions": "rotary"}, 2, 0.27),
        ("taught", {**taught, "model.dropout": 0.1}, 1, 0.31),  # its version records another setting, at its default
        ("tokens", {"data.batch_tokens": 4096, "trainer.precision": "bf16-mixed"}, 1, 0.32),  # recorded only if set
    ):
        rates = {"accuracy": 1 - wer, "wer": wer, "per": wer / 4}
        made = {"device": "cpu", "precision": "bf16-mixed", "commit": "abc", "params": 1_765_600, "seconds": 600.0}
        what = {"name": f"ablation_{name}", "net": "transformer", "data": "cmudict", "settings": usual | settings}
        what["settings"]["seed"] = seed
        result = {**RESULT, **made, **what, "validation": rates, "test": {"accuracy": 0.1, "wer": 0.9, "per": 0.9}}
        (tmp_path / f"ablation_{name}_seed{seed}.json").write_text(json.dumps(result))
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in script.ablation_table("cmudict").splitlines()[2:]
    ]
    changed = "`model.positions=rotary model.encoder_depth=5`"
    assert rows[0][:9] == ["deep", changed, "28.00 % ± 1.41", "-2.00", "7.00 % ± 0.35", "1,765,600", "2", "10", "2"]
    assert rows[1][:9] == ["base", "–", "30.00 %", "+0.00", "7.50 %", "1,765,600", "2", "10", "1"]
    assert rows[2][:4] == ["taught", "`task=distill_sequences task.alpha=0.9`", "31.00 %", "+1.00"]
    assert rows[3][:4] == ["tokens", "`data.batch_tokens=4096`", "32.00 %", "+2.00"]
    assert len(script.sequence_table().splitlines()) == 2  # test figures are not of interest


def test_packed_files_of_an_ablation_are_compared_with_the_base_of_their_net_only(script, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path)
    for name, end, accuracy, size in (
        ("a_base", 0.6, 0.92, 20_000),
        ("a_early", 0.3, 0.91, 19_000),
        ("a_b_base", 0.6, 0.95, 50_000),
        ("a_b_dense", 0.0, 0.96, None),
    ):
        ledger = {"compress": {"pack": {"ledger": {"bytes": size, "ratio": 9.0}, "stages": {}}}} if size else {}
        packed = {**ledger, "data": "fashion_mnist"}
        settings = {"settings": {**RESULT["settings"], "compress": "rate", "compress.rate.end": end}}
        result = {**RESULT, **packed, **settings, "name": f"ablation_{name}", "validation": {"accuracy": accuracy}}
        (tmp_path / f"ablation_{name}_seed1.json").write_text(json.dumps(result))
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in script.ablation_table("fashion_mnist").splitlines()[2:]
    ]
    assert [row[:5] for row in rows] == [
        ["a_b_dense", "`compress.rate.end=0`", "96.00 %", "+1.00", "–"],
        ["a_b_base", "–", "95.00 %", "+0.00", "50,000"],
        ["a_base", "–", "92.00 %", "+0.00", "20,000"],
        ["a_early", "`compress.rate.end=0.3`", "91.00 %", "-1.00", "19,000"],
    ]
    for table in (script.compression_table, script.accuracy_table):
        assert len(table().splitlines()) == 2  # other runs


def test_the_pipeline_is_told_with_speed_against_the_net_that_it_began_with(script, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tables, "RESULTS", tmp_path)
    runs = {"ptq_int8_resnet20": 0.95, "prune_channels_resnet20": 0.948, "qat_int8_pruned_resnet20": 0.947}
    for name, accuracy in runs.items():
        told = {"int8": {"float": {"product_bytes": 1000, "test": {"accuracy": 0.951}}}}
        result = {
            **RESULT,
            "name": name,
            "macs": 2_000_000,
            "product_bytes": 500,
            "test": {"accuracy": accuracy},
            "compress": told,
        }
        (tmp_path / f"{name}_seed1.json").write_text(json.dumps(result))
    times = {"resnet20_fashion_mnist": 0.004, "prune_channels_resnet20": 0.002, "qat_int8_pruned_resnet20": 0.001}
    report = {
        "figures": {
            f"{run}/2026: {kind} compiled": {"median_seconds": seconds, "ratio": seconds / 0.004}
            for run, seconds in times.items()
            for kind in ("fp32", "int8")
        },
        "threads": 2,
        "versions": {"torch": "2.14"},
        "commit": "abc",
    }
    for batch in (1, 64):
        (tmp_path / f"benchmark_pipeline_{batch}.json").write_text(json.dumps(report))
    rows = script.pipeline_table().splitlines()[2:5]
    dense, pruned, int8 = ([cell.strip() for cell in row.split("|")[2:]] for row in rows)
    assert dense[:4] == ["95.10 %", "2.0", "1,000", "4.00 (1.0×)"]
    assert pruned[:4] == ["94.80 %", "2.0", "500", "2.00 (2.0×)"]
    assert int8[:5] == ["94.70 %", "2.0", "500", "1.00 (4.0×)", "1.00 (4.0×)"]


def test_a_rival_is_named_by_a_whole_word():
    report = {
        "threads": 1,
        "versions": {"torch": "2.14.1"},
        "commit": "abc",
        "rivals": {"pillow": "13.0", "nncodec": "1"},
    }
    figures = {"greedy, compiled": {}, "lenet5, NNC": {}}
    expected = "on cpu with 1 thread, torch 2.14.1, nncodec 1, commit `abc`"
    assert result_tables.made_on({**report, "figures": figures}) == expected
