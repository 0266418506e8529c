"""The tables of ablations: runs that differ from a base in a few settings, compared on validation data."""

import statistics
from typing import Any

from zoo.benchmarks.run_tables import ABLATION, IMAGES, SEQUENCES, epochs_of, kept_runs, made_by, packed_bytes

BASE = "base"  # ends the names of runs that others are compared with
METRICS = {IMAGES: "accuracy", SEQUENCES: "wer"}
HEADINGS = {
    IMAGES: "validation accuracy | points | bytes of the file",
    SEQUENCES: "validation WER | points | validation PER | params",
}


def ablation_table(data: str) -> str:
    """Return one row per run name of the ablations on some data, best first for each base.

    A base is named `ablation_base`, or `ablation_NET_base` if there are several. Each run differs from its base in the
    settings that its row names.
    """
    runs = kept_runs(lambda result: result["data"] == data and result["name"].startswith(ABLATION))
    bases = [name for name in runs if name.endswith(BASE)]
    if not bases:
        return "Not measured yet."
    lines = [
        f"| run | changed | {HEADINGS[data]} | epochs | minutes | seeds | device | commit |",
        f"|---|---|{'---:|' * (HEADINGS[data].count('|') + 1)}---:|---:|---:|---|---|",
    ]
    for base in bases:
        lines += _rows({name: of for name, of in runs.items() if name.startswith(base.removesuffix(BASE))}, base, data)
    return "\n".join(lines)


def _rows(runs: dict[str, list[dict[str, Any]]], base: str, data: str) -> list[str]:
    from zoo.compare.main_metric import mean_and_spread

    def mean(results: list[dict[str, Any]]) -> float:
        return statistics.mean(result["validation"][METRICS[data]] for result in results)

    rows = []
    for name, results in runs.items():
        first, changed = results[0], _changed(runs[base][0]["settings"], results[0]["settings"])
        figures = [
            mean_and_spread(results, "validation", METRICS[data]),
            f"{100 * (mean(results) - mean(runs[base])):+.2f}",
        ]
        if data == IMAGES:
            figures += [f"{packed_bytes(results):,.0f}"]
        else:
            figures += [mean_and_spread(results, "validation", "per"), f"{first['params']:,}"]
        figures += [epochs_of(first), f"{statistics.mean(r['seconds'] for r in results) / 60:.0f}", str(len(results))]
        settings = f"`{' '.join(changed)}`" if changed else "–"
        row = f"| {name.removeprefix(ABLATION)} | {settings} | {' | '.join(figures)} | {made_by(results)} |"
        rows.append((mean(results), row))
    return [row for _, row in sorted(rows, reverse=data == IMAGES)]


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

    keys = [key for key in settings if key not in ("seed", "trainer", "experiment") and differs(key, settings[key])]
    return [f"{key}={as_typed(settings[key])}" for key in keys]
