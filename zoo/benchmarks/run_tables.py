"""The tables of README.md and docs/ that are made from runs: by net, by data, by what was done to the net."""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

from zoo.benchmarks import result_tables
from zoo.paths import RESULTS

ABOUT_PIPELINE = """\
ResNet-20 on Fashion-MNIST, one run each (for the spread over seeds, see [Results](#results)). After half of the
multiply-accumulates were pruned, the net was trained for {pruned} more epochs, and in int8 for {int8}, both by
distillation. The packed file is from a separate run with its size in the loss; it decodes to a net as fast as the
first, and is included as `zoo:resnet20_fashion_mnist`. This file and the pruned net were tested in bfloat16, as in
training; [the card of the file](docs/cards/resnet20_fashion_mnist.md) has its accuracy in float32. With so small a
net, a single image gains little from pruning or int8. MMACs are millions of multiply-accumulates. int8 is fast when
compiled or in ONNX Runtime, on CPUs with VNNI or AMX. Times are medians with `torch.compile`"""
PACKED_RESNET = "rate_resnet20_52000"
IMAGES, SEQUENCES = "fashion_mnist", "cmudict"  # the data that the tables are of
DIGITS = "mnist_5k"  # the data of the table of nets with their default settings
ABLATION = "ablation_"  # begins the names of runs that are compared with each other, on validation data only
LONG_TAIL = "long_tailed_fashion_mnist"  # of that of losses and samplers for rare classes


def epochs_of(result: dict[str, Any]) -> str:
    """Return the number of epochs of a run, with limit_train_batches if it was set."""
    limit = result["settings"].get("trainer.limit_train_batches")
    return str(result["epochs"]) if limit is None else f"{result['epochs']} (limit_train_batches={limit})"


def in_cell(value: Any) -> Any:
    """Escape a setting for a table cell, unless it is a number or a word."""
    from zoo import escape

    if isinstance(value, list):
        return [in_cell(one) for one in value]
    if (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and re.fullmatch(r"[\w./+-]*", value))
    ):
        return value
    return escape.markdown(value if isinstance(value, str) else str(value))


def kept_runs(belongs: Callable[[dict[str, Any]], bool], of_ablations: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return the results for which `belongs` is true, by the name of their runs: those of ablations, or all others."""
    from zoo import escape
    from zoo.records.json_files import read_result

    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*_seed*.json")):
        result = read_result(file)
        result |= {key: escape.code(result[key]) for key in ("name", "commit")}  # shown between backticks
        result |= {key: escape.markdown(result[key]) for key in ("net", "data", "device", "precision")}
        result["settings"] = {key: in_cell(value) for key, value in result.get("settings", {}).items()}
        if belongs(result) and result["name"].startswith(ABLATION) == of_ablations:
            runs[result["name"]].append(result)
    return runs


def mean_accuracy(results: list[dict[str, Any]]) -> float:
    return statistics.mean(result["test"]["accuracy"] for result in results)


def made_by(results: list[dict[str, Any]]) -> str:
    """Return two table cells: the devices and the commits of runs."""
    devices = dict.fromkeys(f"{result['device']}, {result['precision']}" for result in results)
    devices = dict.fromkeys(device.replace(" 1 threads,", " 1 thread,") for device in devices)  # of earlier versions
    commits = dict.fromkeys(f"`{result['commit']}`" for result in results)
    return f"{'; '.join(devices)} | {', '.join(commits)}"


def accuracy_table(of_families: bool = False) -> str:
    """Return one row per run name: test accuracy as mean, with the spread over seeds if there are several.

    The runs of experiment=ten_minutes_* have their own table, best first.
    """
    from zoo.compare.main_metric import mean_and_spread

    def belongs(result: dict[str, Any]) -> bool:
        ordinary = result["data"] == IMAGES and not result.get("compress")
        return ordinary and result["name"].startswith("ten_minutes_") == of_families

    rows = []
    lines = [
        "| run | params | MMACs | epochs | test accuracy | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(belongs).items():
        first = results[0]
        what = f"`{name}` ({first['net']})" if of_families else f"`{name}`"
        sizes = f"{first['params']:,} | {first['macs'] / 1e6:.2f} | {epochs_of(first)}"
        row = f"| {what} | {sizes} | {mean_and_spread(results, 'test')} | {len(results)} | {made_by(results)} |"
        rows.append((-mean_accuracy(results), row))
    return "\n".join([*lines, *(row for _, row in sorted(rows, key=lambda pair: pair[0]))])


def defaults_table() -> str:
    """Return one row per net that was trained on the digits with its default settings, best first."""
    lines = [
        "| net | params | MMACs | learning rate | epochs | test accuracy | minutes | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    kept = [results[0] for results in kept_runs(lambda result: result["data"] == DIGITS).values()]
    for result in sorted(kept, key=lambda result: -result["test"]["accuracy"]):
        sizes = f"{result['params']:,} | {result['macs'] / 1e6:.2f} | {result['settings']['optim.lr']:g}"
        figures = f"{epochs_of(result)} | {100 * result['test']['accuracy']:.1f} % | {result['seconds'] / 60:.1f}"
        lines.append(f"| `{result['net']}` | {sizes} | {figures} | {made_by([result])} |")
    return "\n".join(lines)


def rare_classes_table() -> str:
    """Return one row per way to train on a long tail, best first: test figures as mean, and spread over seeds."""
    from zoo.compare.main_metric import mean_and_spread

    lines = ["| training | balanced accuracy | macro F1 | seeds | device | commit |", "|---|---:|---:|---:|---|---|"]
    kept = kept_runs(lambda result: result["data"] == LONG_TAIL).items()
    for name, results in sorted(kept, key=lambda pair: -mean_accuracy(pair[1])):
        figures = " | ".join(mean_and_spread(results, "test", metric) for metric in ("balanced_accuracy", "macro_f1"))
        lines.append(f"| {name.removeprefix('rare_')} | {figures} | {len(results)} | {made_by(results)} |")
    return "\n".join(lines)


def compressed_runs(data: str) -> dict[str, list[dict[str, Any]]]:
    """Return the results with packed files for some data, by the name of their runs."""
    return kept_runs(lambda result: result["data"] == data and "pack" in result.get("compress", {}))


def dense_runs(net: str, data: str, experiment: str | None = None) -> list[dict[str, Any]]:
    """Return the results of the dense net that compressed ones are compared with: of their experiment if it has any."""
    usual = f"{net.removesuffix('_seq2seq')}_{data}"
    runs = kept_runs(lambda result: result["name"] in (experiment, usual) and not result.get("compress"))
    return runs[experiment if experiment in runs else usual]


def packed_bytes(results: list[dict[str, Any]]) -> float:
    """Return the mean size of the packed files of runs."""
    return statistics.mean(result["compress"]["pack"]["ledger"]["bytes"] for result in results)


def compression_table() -> str:
    """Return one row per run name of packed files: bytes after each stage, and accuracy of the decoded net.

    Values are means over seeds.
    """
    from zoo.compare.main_metric import mean_and_spread

    stages = [f"{stage} by the paper's formula" for stage in ("P", "P+Q", "P+Q+Huffman")] + ["P+Q+coding"]
    lines = [
        "| run | dense (seeds) | the file (seeds) | points | epochs of each | P | P+Q | P+Q+Huffman | "
        "the file, bytes | times smaller | minutes | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in compressed_runs(IMAGES).items():
        first, packs = results[0], [r["compress"]["pack"] for r in results]
        dense = dense_runs(first["net"], first["data"])
        points = 100 * (mean_accuracy(results) - mean_accuracy(dense))
        sizes = [statistics.mean(pack["stages"][stage] for pack in packs) for stage in stages]
        whole = max(packs[0]["stages"]["dense"], 4 * dense[0]["params"])  # with channels that the file leaves out
        bytes_of = " | ".join(f"{size:,.0f} ({whole / size:.0f}×)" for size in sizes[:-1])
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        texts = " | ".join(f"{mean_and_spread(of, 'test')} ({len(of)})" for of in (dense, results))
        accuracies = f"{texts} | {points:+.2f} | {dense[0]['epochs']}, {first['epochs']}"
        made = f"{sizes[-1]:,.0f} | {whole / sizes[-1]:.1f} | {minutes:.{int(minutes < 1)}f} | {made_by(results)}"
        lines.append(f"| `{name}` | {accuracies} | {bytes_of} | {made} |")
    return "\n".join(lines)


def in_integers(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the results of the float net that a run quantized, or None for other runs."""
    entries = result.get("compress", {}).values()
    return next((of["float"] for of in entries if isinstance(of, dict) and "float" in of), None)


def quantization_table(metric: Literal["accuracy", "wer"] = "accuracy") -> str:
    """Return one row per run name of quantized nets: `metric` and bytes, and those of the float nets.

    Values are means over seeds.
    """
    from zoo.compare.main_metric import mean_and_spread

    def is_shown(result: dict[str, Any]) -> bool:
        return in_integers(result) is not None and ("wer" in result["test"]) == (metric == "wer")

    label = {"wer": "WER"}.get(metric, metric)
    lines = [
        f"| run | net | `compress=` | {label}, float | {label}, quantized | points | bytes, float | "
        "bytes, quantized | seeds | epochs | device | commit |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(is_shown).items():
        first, floats = results[0], [of for of in map(in_integers, results) if of]
        before, after = (statistics.mean(result["test"][metric] for result in of) for of in (floats, results))
        figures = " | ".join(mean_and_spread(of, "test", metric) for of in (floats, results))
        sizes = [statistics.mean(r["product_bytes"] for r in of) for of in (floats, results)]
        what = f"`{name}` | {first['net']}, {first['data']} | `{first['settings']['compress']}`"
        bytes_of = f"{sizes[0]:,.0f} | {sizes[1]:,.0f} ({sizes[1] / sizes[0]:.0%})"
        points, made = f"{100 * (after - before):+.2f}", f"{len(results)} | {first['epochs']} | {made_by(results)}"
        lines.append(f"| {what} | {figures} | {points} | {bytes_of} | {made} |")
    return "\n".join(lines)


def pipeline_table() -> str:
    """Return ResNet-20 as trained, after channel pruning, and then in int8: accuracy, MACs, bytes and speed.

    Times are from benchmark_pipeline_<batch>.json, written by `suite=inference checkpoint=[...]` of the three.
    """
    from zoo.records.json_files import read_result

    names = ("ptq_int8_resnet20", "prune_channels_resnet20", "qat_int8_pruned_resnet20")
    files = [RESULTS / f"{name}_seed1.json" for name in names]
    files += [RESULTS / f"benchmark_pipeline_{batch}.json" for batch in (1, 64)]
    if not all(file.exists() for file in files):
        return "Not measured yet."
    dense, pruned, int8 = (read_result(file) for file in files[:3])
    reports = [json.loads(file.read_text()) for file in files[3:]]
    lines = [
        "| ResNet-20 | test accuracy | MMACs | bytes | ms, 1 image | ms, 64 images |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows = (
        ("as trained", dense, in_integers(dense) or {}, "resnet20_fashion_mnist", "fp32 compiled"),
        ("channels pruned", pruned, pruned, pruned["name"], "fp32 compiled"),
        ("channels pruned, int8", int8, int8, int8["name"], "int8 compiled"),
    )
    for what, counted, tested, run, contender in rows:
        times = []
        for report in reports:
            (name,) = (key for key in report["figures"] if key.startswith(f"{run}/") and key.endswith(f": {contender}"))
            row = report["figures"][name]
            times.append(f"{1000 * row['median_seconds']:.2f} ({1 / row['ratio']:.1f}×)")
        sizes = f"{counted['macs'] / 1e6:.1f} | {tested['product_bytes']:,}"
        lines.append(f"| {what} | {100 * tested['test']['accuracy']:.2f} % | {sizes} | {' | '.join(times)} |")
    if packed := kept_runs(lambda result: result["name"] == PACKED_RESNET)[PACKED_RESNET]:
        sizes = f"{packed[0]['macs'] / 1e6:.1f} | {packed_bytes(packed):,.0f}"
        lines.append(f"| small packed file | {100 * mean_accuracy(packed):.2f} % | {sizes} | – | – |")
    about = ABOUT_PIPELINE.format(pruned=pruned["epochs"], int8=int8["epochs"])
    return "\n".join([*lines, "", f"{about} {result_tables.made_on(reports[0])}."])


def recipe_table() -> str:
    """Return one row per recipe of configs/experiment."""
    from zoo.catalogue import recipes

    lines = ["| recipe | net | data | epochs | published accuracy | source |", "|---|---|---|---:|---|---|"]
    for recipe in recipes():
        what = f"`{recipe.name}` | `{recipe.net}` | `{recipe.data}` | {recipe.epochs}"
        lines.append(f"| {what} | {recipe.published} | {recipe.source} |")
    return "\n".join(lines)
