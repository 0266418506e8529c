"""The output of a comparison: in the terminal, as Markdown, and as a self-contained HTML page."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console

from zoo import escape
from zoo.compare.comparison_plots import MOST_DRAWN, as_svg, draw_costs, draw_curves, draw_exports
from zoo.compare.page_style import CSS
from zoo.compare.runs import REPEATS, Comparison, Finished, differing, grouped, mean_and_spread, part_tested, run_of
from zoo.compare.significance import Paired, against_best, best_of
from zoo.files import replacing, write_text

PAGE, TEXT = "comparison.html", "comparison.md"
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


def ranking(comparison: Comparison) -> Table:
    """Rank groups by their mean test accuracy."""
    more = comparison.more_metrics
    names = (f"test {comparison.metric_name}", *(f"test {name.replace('_', ' ')}" for name in more))
    columns = ("", "run", "runs", *names, "params", "MMACs", "kB", "latency ms", "seconds")
    rows = []
    for rank, group in enumerate(comparison.groups):
        size = sum(run.size_bytes for run in group.runs) / len(group.runs)
        macs, latency, seconds = (group.mean(key) for key in ("macs", "latency_ms", "seconds"))
        figures = (
            mean_and_spread([run.result for run in group.runs], "test", comparison.metric),
            *(number(group.mean_of_test(name)) for name in more),
            f"{group.runs[0].result['params']:,}",
            number(macs and macs / 1e6),
            number(size / 1e3),
            number(latency),
            number(seconds),
        )
        rows.append((str(rank + 1), group.label, str(len(group.runs)), *figures))
    about = (
        "Mean, with the standard deviation over several seeds or folds. kB is the size of the product file, seconds "
        "the training time."
    )
    return Table(RANKING, about, columns, rows, ("run",))


def number(value: float | None) -> str:
    """Format a number with at least three digits, or a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def paired(comparison: Comparison) -> Table | None:
    """Compare the best run with each other run; None if there is only one."""
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
            return ("–", "–", "–", "–", pair.reason)
        return (f"{pair.only_best:,}", f"{pair.only_this:,}", f"{pair.p:.2g}", f"{pair.p_holm:.2g}", "")

    columns = ("run", f"test {comparison.metric_name}", "right: best only", "right: this only", "p", "p, Holm", "note")
    rows = [(named[id(pair.run)], rate(pair.run), *figures(pair)) for pair in pairs]
    about = (
        f"The best single run is {named[id(best)]} with {rate(best)}. p is from McNemar's exact test: the probability "
        "of counts at least as unequal if both nets were equally good, over the draw of test samples. "
        "Holm's p is adjusted for the number of comparisons. Neither includes the variation between seeds, which the "
        "spread shows, nor the selection of the best run on these same samples."
    )
    return Table("Against the best run", about, columns, rows, ("run", "note"))


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
    rows = [[key, *(_value(one.get(key, "–")) for one in settings)] for key in shown]
    about = "A dash means that a run has no such setting."
    if len(shown) < len(keys):
        about += f" {len(keys) - len(shown):,} more settings differ and are not shown."
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
                right = cell["accuracy"] if comparison.metric == "accuracy" else 1 - cell["accuracy"]
                times = [f"{number(time['p50'])} / {number(time['p95'])}" for time in cell["latency_ms"].values()]
                size, off, peak = cell["size_bytes"] / 1e3, cell["largest_difference"], cell["peak_bytes"] / 1e6
                lost = 100 * (run.accuracy - cell["accuracy"])
                sizes = (number(size), f"{100 * right:.2f} %", f"{lost:.2f}", f"{off:.1g}")
                rows.append((*which, *sizes, *times, number(peak), ""))
    if not rows:
        return None
    words, figures = (
        ("run", "format", "in", "runtime"),
        ("kB", f"test {comparison.metric_name}", "points lost", "off by"),
    )
    columns = (*words, *figures, "ms of 1", "ms of 64", "peak MB", "refused")
    about = (
        "Each file was run on all test samples by its own runtime in a separate process. 'Off by' is the largest "
        "difference of a logit; ms are median / 95th percentile for a batch (for sequence nets, for one step)."
    )
    return Table(EXPORTS, about, columns, rows, (*words, "refused"))


def _value(value: Any) -> str:
    """Format a setting as on the command line, with floats rounded to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def tables(comparison: Comparison) -> list[Table]:
    found = (ranking(comparison), paired(comparison), exported(comparison), differences(comparison))
    return [table for table in found if table]


def show(comparisons: Sequence[Comparison], unfinished: Sequence[Path]) -> None:
    """Print the tables, except wide tables of exported files and settings, which are only on the page."""
    console = escape.console()
    for comparison in comparisons:
        console.print()
        console.print(comparison.title, style="bold")
        for table in tables(comparison):
            if table.title in (EXPORTS, DIFFERENCES) and len(table.columns) > MOST_COLUMNS:
                continue
            _print(console, table.title, table.columns, table.rows, table.text)
            console.print(table.about)
    console.print(_left_out(unfinished))


def _print(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str]
) -> None:
    printed = rich.table.Table(title=title, title_justify="left")
    for column in columns:
        printed.add_column(
            column, justify="left" if column in text else "right", overflow="fold", no_wrap=column == "run"
        )
    for row in rows:
        printed.add_row(*row)
    console.print(printed)


def _left_out(unfinished: Sequence[Path]) -> str:
    num = len(unfinished)
    return f"Left out: {num} run{'s' * (num > 1)} without a result, such as {unfinished[0]}." if unfinished else ""


def write(out: Path, comparisons: Sequence[Comparison], unfinished: Sequence[Path]) -> None:
    """Write comparison.html with embedded plots, and comparison.md with plots next to it."""
    out.mkdir(parents=True, exist_ok=True)
    page, text = ["<h1>Comparison of runs</h1>"], ["# Comparison of runs"]
    for i, comparison in enumerate(comparisons):
        page.append(f"<h2>{escape.html(comparison.title)}</h2>")
        text.append(f"## {escape.markdown(comparison.title)}")
        for table in tables(comparison):
            page.append(_as_html(table))
            text.append(_as_markdown(table))
            for under, name, title, about, draw in PICTURES:
                if under == table.title:
                    file = f"{name}_{i + 1}.svg"
                    svg = as_svg(draw(comparison))
                    with replacing(out / file) as picture:
                        picture.write(svg)
                    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
                    page.append(f'<h3>{title}</h3>\n<p>{about}</p>\n<img alt="{title}" src="{source}">')
                    text.append(f"### {title}\n\n{about}\n\n![{title}]({file})")
    page.append(f"<p>{escape.html(_left_out(unfinished))}</p>")
    text.append(escape.markdown(_left_out(unfinished)))
    head = f'<meta charset="utf-8">\n<title>Comparison of runs</title>\n<style>{CSS}</style>'
    body = "\n".join(page)
    write_text(
        out / PAGE, f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'
    )
    write_text(out / TEXT, "\n\n".join(text).strip() + "\n")
    escape.console().print(f"Written     {out / PAGE} and {TEXT}", soft_wrap=True)


# Table above the plot, file name, title, explanation, function.
PICTURES: tuple[tuple[str, str, str, str, Callable[[Comparison], Any]], ...] = (
    (
        RANKING,
        "costs",
        "Accuracy against its cost",
        "Numbers are ranks. The line is the Pareto front.",
        draw_costs,
    ),
    (
        RANKING,
        "curves",
        "Learning curves",
        f"At most the best {MOST_DRAWN}. Several seeds or folds are shown as mean and band of one standard deviation.",
        draw_curves,
    ),
    (
        EXPORTS,
        "exports",
        "Accuracy of exported files against their cost",
        "One colour per run, one marker per format. The line is the Pareto front.",
        draw_exports,
    ),
)


def _as_html(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if column in table.text else "" for column in table.columns]
        inner = "".join(f"<{tag}{k}>{escape.html(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{inner}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return (
        f"<h3>{table.title}</h3>\n<p>{escape.html(table.about)}</p>\n"
        f'<div class="wide"><table>\n{row(table.columns, "th")}\n{rows}\n</table></div>'
    )


def _as_markdown(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(escape.markdown, cells))} |"

    rule = "|".join("---" if column in table.text else "---:" for column in table.columns)
    lines = [row(table.columns), f"|{rule}|", *(row(cells) for cells in table.rows)]
    return f"### {table.title}\n\n{escape.markdown(table.about)}\n\n" + "\n".join(lines)


def show_sweep(results: Sequence[dict[str, Any]]) -> None:
    """Print the runs of a sweep, with mean and spread over runs that differ only in seed or fold.

    The spread is the sample standard deviation in percentage points.
    """

    def accuracies(runs: Sequence[dict[str, Any]]) -> list[str]:
        return [mean_and_spread(runs, split) for split in ("validation", "test")]

    rows = []
    for group in grouped([run_of(Path(result["folder"])) for result in results]):
        part = part_tested(group.runs[0].result, group.runs[0].settings)
        if len(group.runs) > 1:
            rows += [(f"  {group.name_of(run)}", "", *accuracies([run.result])) for run in group.runs]
        rows.append(
            (
                f"{group.label}{part and f', {part}'}",
                str(len(group.runs)),
                *accuracies([run.result for run in group.runs]),
            )
        )
    columns = ("", "runs", "validation accuracy", "test accuracy")
    _print(escape.console(), f"{len(results)} runs", columns, rows, ("",))
