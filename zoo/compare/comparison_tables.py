"""The tables of a comparison: ranking, tests against the best run, exported files, settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.compare.main_metric import mean_and_spread
from zoo.compare.run_names import REPEATS, differing, short_paths
from zoo.compare.runs import Comparison, Finished
from zoo.compare.significance import Paired, against_best, best_of
from zoo.errors import counted
from zoo.measure.agreement import SIGNIFICANT

RANKING, EXPORTS, DIFFERENCES = "Ranking", "Exported files", "Differences in settings"
MOST_COLUMNS = 7  # of settings that fit into a terminal
MOST_CELLS = 20_000  # of the table of settings


@dataclass(frozen=True)
class Table:
    """A title, an explanation, and cells; columns in `text` are left-aligned."""

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[str]


def ranking(comparison: Comparison, by_time: bool = False) -> Table:
    """Rank groups by their mean test accuracy; with `by_time`, list the newest first, with their ranks."""
    more, metric = comparison.more_metrics, comparison.metric_name
    names = [f"test {name.replace('_', ' ')}" for name in more]
    latency_name = "latency ms" if timed_together(comparison) else "latency ms*"
    columns = ("", f"test {metric}", "kB", latency_name, "run", "runs", *names, f"val {metric}", "epochs", "params")
    rows = []
    for rank, group in enumerate(comparison.groups):
        results = [run.result for run in group.runs]
        macs, latency, seconds, epochs = (group.mean(key) for key in ("macs", "latency_ms", "seconds", "epochs"))
        figures = (
            *(number(group.mean_of_test(name)) for name in more),
            mean_and_spread(results, "validation", comparison.metric),
            number(epochs),
            f"{results[0]['params']:,}",
            number(macs and macs / 1e6),
            number(seconds or None),
            max(run.time for run in group.runs),
        )
        reached = mean_and_spread(results, "test", comparison.metric)
        first = (str(rank + 1), reached, number(group.size_bytes / 1e3), number(latency))
        rows.append((*first, group.label, str(len(group.runs)), *figures))
    spread = "Mean, with the standard deviation over several seeds or folds. "
    several = any(len(group.runs) > 1 for group in comparison.groups)
    about = f"{spread if several else ''}kB is the size of the file of the net. {_about_latency(comparison)}"
    if by_time:
        rows.sort(key=lambda row: row[-1], reverse=True)
    return Table(RANKING, about, (*columns, "MMACs", "train s", "started"), rows, ("run", "started"))


def timed_together(comparison: Comparison) -> bool:
    """Return whether the latencies of all runs can be compared: they were measured in turn, or there is only one."""
    groups = [group for group in comparison.groups if group.mean("latency_ms") is not None]
    timed = [run for group in groups for run in group.runs]
    return len(timed) < 2 or all(run.timed_on for run in timed)


def _about_latency(comparison: Comparison) -> str:
    """Say how latencies were measured, and whether they can be compared."""
    places = [run.timed_on for group in comparison.groups for run in group.runs if run.timed_on]
    how = f"measured for this comparison, of all runs in turn, on {places[0]}" if places else "at the end of the run"
    about = (
        f"Latency is that of one sample in torch, {how}; int8 nets have none, since torch only simulates them: "
        "exported files have one."
    )
    if timed_together(comparison):
        return about
    return (
        f"{about} * Not comparable: measured at different times, whatever else the machine did then. latency=true "
        "measures all runs again, in turn."
    )


def number(value: float | None) -> str:
    """Format a number with at least three digits, or a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def paired(comparison: Comparison) -> Table | None:
    """Compare the best run with each other run; None if there is only one, and for numbers, which are never right."""
    if comparison.metric == "mae":
        return None
    named = {id(run): group.name_of(run) for group in comparison.groups for run in group.runs}
    runs = [run for group in comparison.groups for run in group.runs]
    pairs = against_best(runs)
    if not pairs:
        return None
    best = best_of(runs)

    def rate(run: Finished) -> str:
        return mean_and_spread([run.result], "test", comparison.metric)

    def figures(pair: Paired) -> tuple[str, ...]:
        if pair.reason:
            return ("–", "–", "–", "–", f"not compared: {pair.reason}")
        verdict = "worse" if pair.p_holm < SIGNIFICANT else "no difference shown"
        return (f"{pair.only_best:,}", f"{pair.only_this:,}", f"{pair.p:.2g}", f"{pair.p_holm:.2g}", verdict)

    columns = (
        *(f"test {comparison.metric_name}", "p, Holm", "run", "verdict"),
        *("right: best only", "right: this only", "p"),
    )
    rows = []
    for pair in pairs:
        best_only, this_only, p, adjusted, verdict = figures(pair)
        rows.append((rate(pair.run), adjusted, named[id(pair.run)], verdict, best_only, this_only, p))
    about = (
        f"The best single run is {named[id(best)]} with {rate(best)}. p is from McNemar's exact test: the probability "
        "of counts at least as unequal if both nets were equally good, over the draw of "
        f"{best.result['num_samples']['test']:,} test samples. Holm's p is adjusted for the "
        f"{counted(len(pairs), 'comparison')} of this table; worse: it is below {SIGNIFICANT:g}. Neither includes the "
        "variation between seeds, which the spread shows, nor the selection of the best run on these same samples."
    )
    return Table("Against the best run", about, columns, rows, ("run", "verdict"))


def differences(comparison: Comparison) -> Table | None:
    """List the settings in which groups differ, side by side; None if there are none.

    Groups are columns, unless there are many groups and fewer settings, as after a search.
    """
    groups = comparison.groups
    settings = [group.runs[0].settings for group in groups]
    keys = [key for key in differing(settings) if key not in REPEATS]
    if not keys:
        return None
    columns = ["setting", *(group.label for group in groups)]
    shown = keys[: max(1, MOST_CELLS // len(groups))]
    rows = [[key, *short_paths([one.get(key, "–") for one in settings])] for key in shown]
    about = "A dash means that a run has no such setting." if any("–" in row for row in rows) else ""
    if len(shown) < len(keys):
        about = f"{about} {len(keys) - len(shown):,} more settings differ and are not shown.".strip()
    if len(groups) > max(len(shown), MOST_COLUMNS - 1):
        columns, *rows = (list(cells) for cells in zip(*[["run", *columns[1:]], *rows], strict=True))
    return Table(DIFFERENCES, about, columns, rows, columns)


def exported(comparison: Comparison) -> Table | None:
    """List the exported files of all runs, and rejected ones with the reason; None if there are none."""
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            for cell in run.exports:
                which = (group.name_of(run), cell["format"], cell["precision"], cell["runtime"])
                if cell["reason"]:
                    rows.append((*which, *"–––––––", cell["reason"]))
                    continue
                right = 1 - cell["accuracy"] if comparison.metric == "wer" else cell["accuracy"]
                times = [f"{number(time['p50'])} / {number(time['p95'])}" for time in cell["latency_ms"].values()]
                size, off, peak = cell["size_bytes"] / 1e3, cell["largest_difference"], cell["peak_bytes"] / 1e6
                lost = 100 * (run.accuracy - cell["accuracy"])
                sizes = (number(size), f"{100 * right:.2f} %", f"{lost:.2f}", f"{off:.1g}")
                rows.append((*which, *sizes, *times, number(peak), ""))
    if not rows:
        return None
    words, figures = (
        ("run", "format", "in", "runtime"),
        ("kB", {"wer": "test WER", "mae": "test R2"}.get(comparison.metric, "test accuracy"), "points lost", "off by"),
    )
    columns = (*words, *figures, "ms of 1", "ms of 64", "peak MB", "refused")
    about = (
        "Each file was run on all test samples by its own runtime in a separate process. 'Off by' is the largest "
        "difference of a logit; ms are median / 95th percentile for a batch (for sequence nets, for one step)."
    )
    return Table(EXPORTS, about, columns, rows, (*words, "refused"))


def tables(comparison: Comparison, by_time: bool = False) -> list[Table]:
    """Return all tables of a comparison that have rows."""
    found = (ranking(comparison, by_time), paired(comparison), exported(comparison), differences(comparison))
    return [table for table in found if table]
