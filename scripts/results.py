"""Write tables from result files: `python scripts/results.py add=runs/<name>/<stamp>` keeps one more.

Result files are kept in docs/results/<name>_seed<seed>.json; `python scripts/results.py` alone rewrites the tables of
README.md and docs/ten_minutes.md, and that of all recipes in docs/recipes.md, which comes from configs/experiment.
"""

import json
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from zoo.cli import command

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


def accuracy_table(of_families: bool = False) -> str:
    """Give one row a run name: test accuracy as mean, and spread over seeds where there are several.

    The runs of experiment=ten_minutes_* are a table of their own, best first.
    """
    from zoo.compare.runs import mean_and_spread

    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*_seed*.json")):
        result = json.loads(file.read_text())
        if result["name"].startswith("ten_minutes_") == of_families:
            runs[result["name"]].append(result)
    rows = []
    lines = [
        "| experiment | params | MMACs | epochs | test accuracy | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in runs.items():
        first = results[0]
        mean = statistics.mean(r["test"]["accuracy"] for r in results)
        what = f"`{name}` ({first['net']})" if of_families else f"`{name}`"
        sizes = f"{first['params']:,} | {first['macs'] / 1e6:.2f} | {first['epochs']}"
        made = f"{first['device']}, {first['precision']} | `{first['commit']}`"
        row = f"| {what} | {sizes} | {mean_and_spread(results, 'test')} | {len(results)} | {made} |"
        rows.append((-mean if of_families else 0, row))
    return "\n".join([*lines, *(row for _, row in sorted(rows, key=lambda pair: pair[0]))])


def overhead_table() -> str:
    """Give the figures that `scripts/benchmark.py suite=train out=docs/results/benchmark_train.json` wrote."""
    file = RESULTS / "benchmark_train.json"
    if not file.exists():
        return "Not measured yet."
    report = json.loads(file.read_text())
    lines = ["| one epoch of LeNet-5, batch 128 | seconds | times the hand-written loop |", "|---|---:|---:|"]
    for name, row in report["figures"].items():
        low, high = row["ratio_range"]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})" if high > low else "1"
        lines.append(f"| {name} | {row['median_seconds']:.2f} | {ratio} |")
    what = f"Medians of {report['rounds']} rounds on a CPU with {report['threads']} threads"
    lines += ["", f"{what}, torch {report['versions']['torch']}, commit `{report['commit']}`."]
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
    "overhead": overhead_table,
    "recipes": recipe_table,
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
    for name in ("README.md", "docs/ten_minutes.md", "docs/recipes.md"):
        write_tables(ROOT / name)
        print(f"Written {name}")


if __name__ == "__main__":
    main()
