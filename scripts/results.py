"""Write tables from result files: `python scripts/results.py add=runs/<name>/<stamp>` keeps one more.

Result files are kept in docs/results/<name>_seed<seed>.json; `python scripts/results.py` alone rewrites the tables of
README.md and of docs/, among them that of all recipes, which comes from configs/experiment, and docs/compression.svg.
"""

import functools
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from zoo.cli import command

BENCHMARKS = ("train", "train_resnet20", "step", "loader", "augment", "startup", "logging", "gpu", "packed")
MEASURED = (
    ("samples/s", "samples_per_second", "{:,.0f}"),
    ("TFLOPS", "tflops", "{:.2f}"),
    ("test accuracy", "test_accuracy", "{:.2%}"),
)
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("ten_minutes", "recipes", "speed", "compression", "packed_file", "quantization")),
)
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def keep(folder: Path) -> Path:
    """Copy a run's result.json into docs/results without paths of the machine it ran on."""
    from zoo.errors import BadInput
    from zoo.files import write_json

    file = folder / "result.json"
    if not file.is_file():
        raise BadInput(f"add={folder} has no result.json; only a finished run leaves one")
    result = json.loads(file.read_text())
    result.pop("folder")
    for key, value in result["settings"].items():
        if isinstance(value, str) and os.path.isabs(value):
            result["settings"][key] = os.path.basename(value)
    if result["settings"].get("task") == "rotation":
        raise BadInput(f"add={folder} guessed rotations; the tables are of nets that name classes")
    if result["settings"].get("data.folds"):
        raise BadInput(f"add={folder} is one fold of a cross-validation; the tables are of whole training sets")
    target = RESULTS / f"{result['name']}_seed{result['seed']}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(target, result)
    return target


def kept_runs(belongs: Callable[[dict[str, Any]], bool]) -> dict[str, list[dict[str, Any]]]:
    """Give the kept results that belong together, by the name of their runs."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*_seed*.json")):
        result = json.loads(file.read_text())
        if belongs(result):
            runs[result["name"]].append(result)
    return runs


def mean_accuracy(results: list[dict[str, Any]]) -> float:
    return statistics.mean(result["test"]["accuracy"] for result in results)


def made_by(result: dict[str, Any]) -> str:
    """Give two cells of a table: on what, and by which commit, a run was made."""
    return f"{result['device']}, {result['precision']} | `{result['commit']}`"


def accuracy_table(of_families: bool = False) -> str:
    """Give one row a run name: test accuracy as mean, and spread over seeds where there are several.

    The runs of experiment=ten_minutes_* are a table of their own, best first.
    """
    from zoo.compare.runs import mean_and_spread

    def belongs(result: dict[str, Any]) -> bool:
        ordinary = "wer" not in result["test"] and not result.get("compress")
        return ordinary and result["name"].startswith("ten_minutes_") == of_families

    rows = []
    lines = [
        "| experiment | params | MMACs | epochs | test accuracy | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(belongs).items():
        first = results[0]
        what = f"`{name}` ({first['net']})" if of_families else f"`{name}`"
        sizes = f"{first['params']:,} | {first['macs'] / 1e6:.2f} | {first['epochs']}"
        row = f"| {what} | {sizes} | {mean_and_spread(results, 'test')} | {len(results)} | {made_by(first)} |"
        rows.append((-mean_accuracy(results) if of_families else 0, row))
    return "\n".join([*lines, *(row for _, row in sorted(rows, key=lambda pair: pair[0]))])


def sequence_table() -> str:
    """Give one row a run name of those that write sequences: test error rates as mean, and spread over seeds."""
    from zoo.compare.runs import mean_and_spread

    lines = [
        "| experiment | params | epochs | minutes | test WER | test PER | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(lambda result: "wer" in result["test"] and not result.get("compress")).items():
        first = results[0]
        rates = " | ".join(mean_and_spread(results, "test", metric) for metric in ("wer", "per"))
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        sizes = f"{first['params']:,} | {first['epochs']} | {minutes:.0f}"
        lines.append(f"| `{name}` | {sizes} | {rates} | {len(results)} | {made_by(first)} |")
    return "\n".join(lines)


def compressed_runs() -> dict[str, list[dict[str, Any]]]:
    """Give the kept results of packed files, by the name of their runs."""
    return kept_runs(lambda result: "pack" in result.get("compress", {}))


def dense_accuracy(net: str, data: str) -> tuple[float, str]:
    """Give the mean test accuracy of the net that compressed ones are held against, also as text with its spread."""
    from zoo.compare.runs import mean_and_spread

    name = f"{net}_{data}"
    results = kept_runs(lambda result: result["name"] == name)[name]
    return mean_accuracy(results), f"{mean_and_spread(results, 'test')} ({len(results)})"


def compression_table() -> str:
    """Give one row a run name of packed files: their bytes stage by stage, and the accuracy of what they decode to.

    Of several seeds, means.
    """
    from zoo.compare.runs import mean_and_spread

    stages = [f"{stage} by the paper's formula" for stage in ("P", "P+Q", "P+Q+Huffman")] + ["P+Q+coding"]
    lines = [
        "| experiment | dense (seeds) | the file (seeds) | points | P | P+Q | P+Q+Huffman | the file, bytes | "
        "times smaller | minutes | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    runs = compressed_runs()
    for name, results in runs.items():
        first, packs = results[0], [r["compress"]["pack"] for r in results]
        dense, dense_text = dense_accuracy(first["net"], first["data"])
        points = 100 * (mean_accuracy(results) - dense)
        sizes = [statistics.mean(pack["stages"][stage] for pack in packs) for stage in stages]
        whole = packs[0]["stages"]["dense"]
        bytes_of = " | ".join(f"{size:,.0f} ({whole / size:.0f}×)" for size in sizes[:-1])
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        accuracies = f"{dense_text} | {mean_and_spread(results, 'test')} ({len(results)}) | {points:+.2f}"
        made = f"{sizes[-1]:,.0f} | {whole / sizes[-1]:.1f} | {minutes:.0f} | {made_by(first)}"
        lines.append(f"| `{name}` | {accuracies} | {bytes_of} | {made} |")
    return "\n".join(lines)


def in_integers(result: dict[str, Any]) -> dict[str, Any] | None:
    """Give what a run told of the float net that it made one in integers of, or None for another run."""
    told = result.get("compress", {}).values()
    return next((of["float"] for of in told if isinstance(of, dict) and "float" in of), None)


def quantization_table() -> str:
    """Give one row a run name of nets in integers: their accuracy and bytes beside those of the float nets they were.

    Of several seeds, means.
    """
    from zoo.compare.runs import mean_and_spread

    lines = [
        "| run | net | `compress=` | in floats | in integers | points | bytes in floats | in integers | seeds | "
        "epochs | device | commit |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(lambda result: in_integers(result) is not None).items():
        first, floats = results[0], [of for of in map(in_integers, results) if of]
        before, after = (mean_accuracy(of) for of in (floats, results))
        accuracies = " | ".join(mean_and_spread(of, "test") for of in (floats, results))
        sizes = [statistics.mean(r["product_bytes"] for r in of) for of in (floats, results)]
        what = f"`{name}` | {first['net']}, {first['data']} | `{first['settings']['compress']}`"
        bytes_of = f"{sizes[0]:,.0f} | {sizes[1]:,.0f} ({sizes[1] / sizes[0]:.0%})"
        points, made = f"{100 * (after - before):+.2f}", f"{len(results)} | {first['epochs']} | {made_by(first)}"
        lines.append(f"| {what} | {accuracies} | {points} | {bytes_of} | {made} |")
    return "\n".join(lines)


def draw_compression(path: Path) -> None:
    """Draw test accuracy against bytes, a point a run name of packed files, and a line where the dense net is."""
    from matplotlib.figure import Figure

    from zoo.compare.pictures import as_svg
    from zoo.files import replacing

    nets: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for results in compressed_runs().values():
        accuracies = [100 * r["test"]["accuracy"] for r in results]
        size = statistics.mean(r["compress"]["pack"]["ledger"]["bytes"] for r in results) / 1000
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        nets[results[0]["net"], results[0]["data"]].append((size, statistics.mean(accuracies), spread))
    figure = Figure(figsize=(3.6 * len(nets), 3.4), layout="constrained")
    for axes, ((net, data), points) in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets.items(), strict=True):
        sizes, means, spreads = zip(*sorted(points), strict=True)
        axes.errorbar(sizes, means, spreads, marker="o", capsize=3, label="decoded file")
        axes.axhline(100 * dense_accuracy(net, data)[0], color="grey", linestyle="--", label="dense net")
        axes.set_title(f"{net}, {data}", loc="left", fontsize="medium")
        axes.set_xlabel("kB on the disk")
        axes.set_ylabel("test accuracy, %")
        axes.legend(fontsize="small")
    with replacing(path) as file:
        file.write(as_svg(figure))


def benchmark_table(name: str) -> str:
    """Give the figures that `scripts/benchmark.py ... out=docs/results/benchmark_<name>.json` wrote."""
    file = RESULTS / f"benchmark_{name}.json"
    if not file.exists():
        return "Not measured yet."
    report = json.loads(file.read_text())
    rows = report["figures"].values()
    more = [column for column in MEASURED if any(column[1] in row for row in rows)]
    lines = ["| | seconds | ratio |" + "".join(f" {heading} |" for heading, _, _ in more)]
    lines.append("|---|---:|---:|" + "---:|" * len(more))
    for contender, row in report["figures"].items():
        if "failed" in row:
            lines.append(f"| {contender}: {row['failed']} |" + " |" * (2 + len(more)))
            continue
        low, high = row.get("ratio_range", (1, 1))
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})" if high > low else ""
        cells = [form.format(row[key]) if key in row else "" for _, key, form in more]
        lines.append("| " + " | ".join([contender, f"{row['median_seconds']:.2f}", ratio, *cells]) + " |")
    where = f"on {report.get('device', 'cpu')} with {report['threads']} threads, torch {report['versions']['torch']}"
    counts = [len(row["seconds"]) for row in rows if "seconds" in row]
    rounds = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    lines += ["", f"Medians of {rounds} rounds {where}, commit `{report['commit']}`."]
    return "\n".join(lines)


def inference_table() -> str:
    """Give a row a net of benchmark_inference_<net>.json: how many times as fast as fp32 by Inductor the others are."""
    pruned = ("pruned: fp32 compiled", "pruned: int8 compiled")
    others = ("int8 compiled", "ONNX Runtime fp32", "ONNX Runtime int8", *pruned)
    lines = [
        "| net | fp32 by Inductor, ms | " + " | ".join(f"{name}, ×" for name in others) + " | commit |",
        "|---|---:|" + "---:|" * len(others) + "---|",
    ]
    for file in sorted(RESULTS.glob("benchmark_inference_*.json")):
        report = json.loads(file.read_text())
        rows = report["figures"]
        speeds = [f"{1 / rows[name]['ratio']:.2f}" if name in rows else "" for name in others]
        net = f"`{file.stem.removeprefix('benchmark_inference_')}`"
        base = f"{1000 * rows['fp32 compiled']['median_seconds']:.1f}"
        lines.append("| " + " | ".join([net, base, *speeds, f"`{report['commit']}`"]) + " |")
    return "\n".join(lines)


def aims_table() -> str:
    """Give what one H100 is to show, and what benchmark_gpu.json says that it did."""
    figures = json.loads((RESULTS / "benchmark_gpu.json").read_text())["figures"]
    epoch = "epoch of LeNet-5: "

    def against(name: str, other: str) -> float:
        return figures[other]["median_seconds"] / figures[name]["median_seconds"]

    race = figures["fast_fashion_mnist eager"]
    rows = (
        ("ResNet-50, compiled: images/s", "≥", 3500, figures["ResNet-50 at 224 px: compiled"]["samples_per_second"]),
        ("the same, as a stretch", "≥", 4500, figures["ResNet-50 at 224 px: compiled"]["samples_per_second"]),
        (
            "ResNet-18 at 32 px: % of the 989 TFLOPS of bf16 that NVIDIA names",
            "≥",
            30,
            100 * figures["ResNet-18 at 32 px: compiled with CUDA graphs"]["tflops"] / 989,
        ),
        (
            "LeNet-5: times as fast as PIL transforms, DataLoader, Lightning",
            "≥",
            30,
            against(f"{epoch}train.py with CUDA graphs", f"{epoch}PIL transforms, DataLoader, Lightning"),
        ),
        ("ResNet-18: times as long as a loop by hand", "≤", 1.03, figures["epoch of ResNet-18: train.py"]["ratio"]),
        ("fast_fashion_mnist, not compiled: seconds of training", "≤", 10, race["median_seconds"]),
        ("its test accuracy, %", "≥", 95, 100 * race["test_accuracy"]),
    )
    lines = ["| | aim | measured | met |", "|---|---:|---:|---|"]
    for what, bound, aim, found in rows:
        is_met = found >= aim if bound == "≥" else found <= aim
        shown = f"{found:,.0f}" if found > 1000 else f"{found:.2f}"
        lines.append(f"| {what} | {bound} {aim:,} | {shown} | {'yes' if is_met else 'no'} |")
    return "\n".join(lines)


def recipe_table() -> str:
    """Give one row a recipe of configs/experiment."""
    from zoo.catalogue import recipes

    lines = ["| recipe | net | data | epochs | published accuracy | source |", "|---|---|---|---:|---|---|"]
    for recipe in recipes():
        what = f"`{recipe.name}` | `{recipe.net}` | `{recipe.data}` | {recipe.epochs}"
        lines.append(f"| {what} | {recipe.published} | {recipe.source} |")
    return "\n".join(lines)


TABLES = {
    "accuracy": accuracy_table,
    "ten_minutes": lambda: accuracy_table(of_families=True),
    "sequences": sequence_table,
    "recipes": recipe_table,
    "gpu_aims": aims_table,
    "inference": inference_table,
    "compression": compression_table,
    "quantization": quantization_table,
    **{f"benchmark_{name}": functools.partial(benchmark_table, name) for name in BENCHMARKS},
}


def write_tables(file: Path) -> None:
    """Replace what stands between <!-- table:NAME --> and <!-- end --> by the table of that name."""
    import re

    from zoo.files import write_text

    def table(match: "re.Match[str]") -> str:
        return f"{match.group(1)}\n{TABLES[match.group(2)]()}\n<!-- end -->"

    text = file.read_text()
    write_text(file, re.sub(r"(<!-- table:(\w+) -->)\n.*?<!-- end -->", table, text, flags=re.DOTALL))


@command("results")
def main(cfg: DictConfig) -> None:
    if cfg.add:
        print(f"Kept {os.path.relpath(keep(Path(cfg.add)))}")
    for name in PAGES:
        write_tables(ROOT / name)
        print(f"Written {name}")
    if compressed_runs():
        draw_compression(ROOT / "docs" / "compression.svg")


if __name__ == "__main__":
    main()
