"""The table of docs/channel_pruning.md: what each step of the repair after channel pruning brings."""

import statistics

from zoo.benchmarks.run_tables import IMAGES, kept_runs, made_by, mean_accuracy


def repair_table() -> str:
    """Return one row per run name of nets whose channels were cut: accuracy after each step of the repair, and at last.

    Values are means over seeds.
    """
    runs = kept_runs(lambda result: "refit" in result.get("before", {}).get("repair", {}) and result["data"] == IMAGES)
    if not runs:
        return "Not measured yet."
    steps = ("before", "cut", "norms", "refit")
    lines = [
        "| run | time kept | MACs kept | validation: dense | before repair | norms measured again | layers refitted | "
        "test: dense | after training | points | epochs | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in runs.items():
        first = results[0]
        repaired = [statistics.mean(r["before"]["repair"][step] for r in results) for step in steps]
        dense = statistics.mean(r["before"]["test"]["accuracy"] for r in results)
        kept = statistics.mean(r["macs"] / r["before"]["macs"] for r in results)
        tested = mean_accuracy(results)
        times = [r["before"]["time_kept"] for r in results if "time_kept" in r["before"]]
        time = f"{statistics.mean(times):.2f}" if times else "–"
        cells = [f"`{name}`", time, f"{kept:.0%}", *(f"{share:.2%}" for share in [*repaired, dense, tested])]
        made = [f"{100 * (tested - dense):+.2f}", str(first["epochs"]), str(len(results)), made_by(results)]
        lines.append(f"| {' | '.join([*cells, *made])} |")
    return "\n".join(lines)
