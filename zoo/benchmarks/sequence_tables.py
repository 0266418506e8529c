"""The tables of docs/sequences.md that are made from runs."""

import statistics
from typing import Any

from zoo.benchmarks.run_tables import (
    SEQUENCES,
    compressed_runs,
    dense_runs,
    epochs_of,
    kept_runs,
    made_by,
    mean_accuracy,
    packed_bytes,
)


def sequence_table() -> str:
    """Return one row per run name of sequence nets: test error rates as mean, and spread over seeds."""
    from zoo.compare.main_metric import mean_and_spread

    lines = [
        "| experiment | params | epochs | minutes | test WER | test PER | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]

    def belongs(result: dict[str, Any]) -> bool:
        return result["data"] == SEQUENCES and not result.get("compress")

    for name, results in kept_runs(belongs).items():
        first = results[0]
        rates = " | ".join(mean_and_spread(results, "test", metric) for metric in ("wer", "per"))
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        sizes = f"{first['params']:,} | {epochs_of(first)} | {minutes:.0f}"
        lines.append(f"| `{name}` | {sizes} | {rates} | {len(results)} | {made_by(results)} |")
    return "\n".join(lines)


def compressed_sequence_table() -> str:
    """Return one row per run name of packed sequence nets: their error rates and bytes, and those of the dense nets."""
    from zoo.compare.main_metric import mean_and_spread

    lines = [
        "| run | dense WER (seeds) | WER of the file (seeds) | points | bytes in float32 | of the file | "
        "times smaller | minutes | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in compressed_runs(SEQUENCES).items():
        dense = dense_runs(results[0]["net"], SEQUENCES, results[0]["settings"].get("experiment"))
        rates = " | ".join(f"{mean_and_spread(of, 'test', 'wer')} ({len(of)})" for of in (dense, results))
        points = 100 * (mean_accuracy(dense) - mean_accuracy(results))
        whole, size = 4 * results[0]["params"], packed_bytes(results)
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        sizes = f"{points:+.2f} | {whole:,.0f} | {size:,.0f} | {whole / size:.1f} | {minutes:.0f}"
        lines.append(f"| `{name}` | {rates} | {sizes} | {made_by(results)} |")
    return "\n".join(lines)
