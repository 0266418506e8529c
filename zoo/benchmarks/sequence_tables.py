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

ABLATION = "ablation_"  # begins the names of runs on sequences that are compared on validation data only


def sequence_table() -> str:
    """Return one row per run name of sequence nets: test error rates as mean, and spread over seeds."""
    from zoo.compare.main_metric import mean_and_spread

    lines = [
        "| experiment | params | epochs | minutes | test WER | test PER | seeds | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]

    def belongs(result: dict[str, Any]) -> bool:
        return result["data"] == SEQUENCES and not (result.get("compress") or result["name"].startswith(ABLATION))

    for name, results in kept_runs(belongs).items():
        first = results[0]
        rates = " | ".join(mean_and_spread(results, "test", metric) for metric in ("wer", "per"))
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        sizes = f"{first['params']:,} | {epochs_of(first)} | {minutes:.0f}"
        lines.append(f"| `{name}` | {sizes} | {rates} | {len(results)} | {made_by(results)} |")
    return "\n".join(lines)


def ablation_table() -> str:
    """Return one row per run name of the ablation of sequence nets, best first: validation error rates and time.

    Each run differs from ablation_base in the settings that its row names.
    """
    from zoo.compare.main_metric import mean_and_spread

    runs = kept_runs(lambda result: result["name"].startswith(ABLATION))
    base = runs.get(f"{ABLATION}base")
    if not base:
        return "Not measured yet."
    lines = [
        "| run | changed | params | validation WER | points | validation PER | minutes | seeds | device | commit |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    rows = []
    for results in runs.values():
        first, wer = results[0], statistics.mean(result["validation"]["wer"] for result in results)
        changed = _changed(base[0]["settings"], first["settings"])
        points = 100 * (wer - statistics.mean(result["validation"]["wer"] for result in base))
        rates = [mean_and_spread(results, "validation", metric) for metric in ("wer", "per")]
        settings_in_cell = f"`{' '.join(changed)}`" if changed else "–"
        what = f"{first['name'].removeprefix(ABLATION)} | {settings_in_cell}"
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        figures = f"{first['params']:,} | {rates[0]} | {points:+.2f} | {rates[1]} | {minutes:.0f} | {len(results)}"
        rows.append((wer, f"| {what} | {figures} | {made_by(results)} |"))
    return "\n".join([*lines, *(row for _, row in sorted(rows))])


def _changed(usual: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the settings in which a run differs from the base, as typed.

    Of those that the base lacks, these are the ones that are set, in groups of which another option was chosen.
    """
    from zoo.compare.run_names import as_typed

    def differs(key: str, value: Any) -> bool:
        if key in usual:
            return bool(value != usual[key])
        group = key.partition(".")[0]
        return settings.get(group) != usual.get(group) and value not in (None, False)

    keys = [key for key in settings if key not in ("seed", "trainer") and differs(key, settings[key])]
    return [f"{key}={as_typed(settings[key])}" for key in keys]


def compressed_sequence_table() -> str:
    """Return one row per run name of packed sequence nets: their error rates and bytes, and those of the dense nets."""
    from zoo.compare.main_metric import mean_and_spread

    lines = [
        "| run | dense WER (seeds) | WER of the file (seeds) | points | bytes in float32 | of the file | "
        "times smaller | minutes | device | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in compressed_runs(SEQUENCES).items():
        dense = dense_runs(results[0]["net"], SEQUENCES)
        rates = " | ".join(f"{mean_and_spread(of, 'test', 'wer')} ({len(of)})" for of in (dense, results))
        points = 100 * (mean_accuracy(dense) - mean_accuracy(results))
        whole, size = 4 * results[0]["params"], packed_bytes(results)
        minutes = statistics.mean(r["seconds"] for r in results) / 60
        sizes = f"{points:+.2f} | {whole:,.0f} | {size:,.0f} | {whole / size:.1f} | {minutes:.0f}"
        lines.append(f"| `{name}` | {rates} | {sizes} | {made_by(results)} |")
    return "\n".join(lines)
