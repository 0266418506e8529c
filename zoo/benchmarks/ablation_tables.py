"""The tables of ablations: runs that differ from a base in a few settings, compared on validation data."""

import statistics
from typing import Any

from zoo.benchmarks.run_tables import ABLATION, IMAGES, SEQUENCES, epochs_of, kept_runs, made_by, packed_bytes

BASE = "_base"  # ends the names of runs that others are compared with
NOT_CHANGES = ("seed", "trainer", "trainer.precision", "experiment")  # settings that no row names
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
    runs = kept_runs(lambda result: result["data"] == data, of_ablations=True)
    groups: dict[str, list[str]] = {name: [] for name in runs if name.endswith(BASE)}
    for name in runs:
        known = [base for base in groups if f"{name}_".startswith(base.removesuffix(BASE) + "_")]
        if known:
            groups[max(known, key=len)].append(name)
    if not groups:
        return "Not measured yet."
    lines = [
        f"| run | changed | {HEADINGS[data]} | epochs | minutes | seeds | device | commit |",
        f"|---|---|{'---:|' * (HEADINGS[data].count('|') + 1)}---:|---:|---:|---|---|",
    ]
    for base, names in groups.items():
        lines += _rows({name: runs[name] for name in names}, base, data)
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
            is_packed = all("pack" in result.get("compress", {}) for result in results)
            figures += [f"{packed_bytes(results):,.0f}" if is_packed else "–"]
        else:
            figures += [mean_and_spread(results, "validation", "per"), f"{first['params']:,}"]
        figures += [epochs_of(first), f"{statistics.mean(r['seconds'] for r in results) / 60:.0f}", str(len(results))]
        settings = f"`{' '.join(changed)}`" if changed else "–"
        row = f"| {name.removeprefix(ABLATION)} | {settings} | {' | '.join(figures)} | {made_by(results)} |"
        rows.append((mean(results), row))
    return [row for _, row in sorted(rows, reverse=data == IMAGES)]


def _changed(usual: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the settings in which a run differs from the base, as typed.

    A result lacks settings that its version did not record, those that are recorded only if they are set, and those of
    options that were not chosen. What one of the two lacks is a difference unless it has a default.
    """
    from zoo.compare.run_names import as_typed, is_default

    def differs(key: str) -> bool:
        if key in usual and key in settings:
            return bool(usual[key] != settings[key])
        group = key.partition(".")[0]
        if usual.get(group) != settings.get(group):  # then those of the base mean nothing for the run
            return settings.get(key) is not None and settings[key] is not False
        return not is_default(key, settings.get(key, usual.get(key)))

    keys = [key for key in {**settings, **usual} if key not in NOT_CHANGES and differs(key)]
    return [f"{key}={as_typed(settings.get(key))}" for key in keys]
