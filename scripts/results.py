"""Write tables from result files: `python scripts/results.py add=runs/<name>/<stamp>` keeps one more.

Result files are kept in docs/results/<name>_seed<seed>.json; `python scripts/results.py` alone rewrites the tables of
README.md, docs/ten_minutes.md and docs/speed.md, and that of all recipes in docs/recipes.md, which comes from
configs/experiment.
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

BENCHMARKS = ("train", "train_resnet20", "step", "loader", "augment", "startup", "logging", "gpu")
MEASURED = (
    ("samples/s", "samples_per_second", "{:,.0f}"),
    ("TFLOPS", "tflops", "{:.2f}"),
    ("test accuracy", "test_accuracy", "{:.2%}"),
)
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def keep(folder: Path) -> Path:
    """Copy a run's result.json into docs/results without the path of the machine it ran on."""
    from zoo.errors import BadInput
    from zoo.files import write_json

    file = folder / "result.json"
    if not file.is_file():
        raise BadInput(f"add={folder} has no result.json; only a finished run leaves one")
    result = json.loads(file.read_text())
    result.pop("folder")
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


def accuracy_table(of_families: bool = False) -> str:
    """Give one row a run name: test accuracy as mean, and spread over seeds where there are several.

    The runs of experiment=ten_minutes_* are a table of their own, best first.
    """
    from zoo.compare.runs import mean_and_spread

    def belongs(result: dict[str, Any]) -> bool:
        return "wer" not in result["test"] and result["name"].startswith("ten_minutes_") == of_families

    rows = []
    lines = [
        "| experiment | params | MMACs | epochs | test accuracy | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(belongs).items():
        first = results[0]
        mean = statistics.mean(r["test"]["accuracy"] for r in results)
        what = f"`{name}` ({first['net']})" if of_families else f"`{name}`"
        sizes = f"{first['params']:,} | {first['macs'] / 1e6:.2f} | {first['epochs']}"
        made = f"{first['device']}, {first['precision']} | `{first['commit']}`"
        row = f"| {what} | {sizes} | {mean_and_spread(results, 'test')} | {len(results)} | {made} |"
        rows.append((-mean if of_families else 0, row))
    return "\n".join([*lines, *(row for _, row in sorted(rows, key=lambda pair: pair[0]))])


def sequence_table() -> str:
    """Give one row a run name of those that write sequences: test error rates as mean, and spread over seeds."""
    from zoo.compare.runs import mean_and_spread

    lines = [
        "| experiment | params | epochs | minutes | test WER | test PER | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in kept_runs(lambda result: "wer" in result["test"]).items():
        first = results[0]
        rates = " | ".join(mean_and_spread(results, "test", metric) for metric in ("wer", "per"))
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        made = f"{first['device']}, {first['precision']} | `{first['commit']}`"
        sizes = f"{first['params']:,} | {first['epochs']} | {minutes:.0f}"
        lines.append(f"| `{name}` | {sizes} | {rates} | {len(results)} | {made} |")
    return "\n".join(lines)


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
    for name in ("README.md", "docs/ten_minutes.md", "docs/recipes.md", "docs/speed.md"):
        write_tables(ROOT / name)
        print(f"Written {name}")


if __name__ == "__main__":
    main()
