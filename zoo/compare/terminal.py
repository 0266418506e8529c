"""The output of a comparison in the terminal, at any width."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.table
from rich import box
from rich.console import Console

from zoo import escape
from zoo.compare.comparison_tables import DIFFERENCES, EXPORTS, MOST_COLUMNS, Table, tables
from zoo.compare.main_metric import NAMES, main_metric, mean_and_spread
from zoo.compare.runs import Comparison, grouped, part_tested, run_of
from zoo.errors import counted

LEAST_NAME = 34  # letters of a name that are shown before another column is
GAP = 2  # letters between columns


def fitted(table: Table, width: int, least_name: int = LEAST_NAME) -> Table:
    """Return the table with as many of its first columns as fit into `width`; text is shortened in the middle."""
    sizes = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    least = [min(s, least_name) if c in table.text else s for c, s in zip(table.columns, sizes, strict=True)]
    num = len(sizes)
    while num > 1 and sum(least[:num]) + GAP * (num - 1) > width:
        num -= 1
    spare = width - sum(least[:num]) - GAP * (num - 1)
    for i in range(num):
        more = min(spare, sizes[i] - least[i])
        least[i], spare = least[i] + more, spare - more

    def cut(cells: Sequence[str]) -> list[str]:
        return [escape.shortened_in_middle(cell, size) for cell, size in zip(cells[:num], least, strict=False)]

    return Table(table.title, table.about, table.columns[:num], [cut(cells) for cells in table.rows], table.text)


def show(comparisons: Sequence[Comparison], unfinished: Sequence[Path], by_time: bool = False) -> None:
    """Print the tables, except those of exported files and settings that do not fit, which are on the page."""
    console = escape.console()
    for comparison in comparisons:
        console.print()
        console.print(comparison.title, style="bold")
        for table in tables(comparison, by_time):
            is_whole = len(fitted(table, console.width).columns) == len(table.columns) <= MOST_COLUMNS
            if table.title in (EXPORTS, DIFFERENCES) and not is_whole:
                console.print(f"{table.title}: {counted(len(table.rows), 'row')}, on the page")
                continue
            print_table(console, table)
            if table.about:
                console.print(table.about)
    console.print(left_out(unfinished))


def print_table(console: Console, table: Table, least_name: int = LEAST_NAME) -> None:
    """Print the columns of a table that fit."""
    fit = fitted(table, console.width, least_name)
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}
    printed = rich.table.Table(title=table.title, title_justify="left", **look)
    for column in fit.columns:
        printed.add_column(column, justify="left" if column in table.text else "right", no_wrap=True)
    for row in fit.rows:
        printed.add_row(*row)
    console.print(printed)


def left_out(unfinished: Sequence[Path]) -> str:
    """Say which runs have no result; empty if all have one."""
    num = len(unfinished)
    return f"Left out: {num} run{'s' * (num > 1)} without a result, such as {unfinished[0]}." if unfinished else ""


def show_sweep(results: Sequence[dict[str, Any]]) -> None:
    """Print the runs of a sweep, with mean and spread over runs that differ only in seed or fold.

    The spread is the sample standard deviation, of accuracy in percentage points.
    """
    metric = "mae" if main_metric([result["test"] for result in results]) == "mae" else "accuracy"

    def accuracies(runs: Sequence[dict[str, Any]]) -> list[str]:
        return [mean_and_spread(runs, split, metric) for split in ("test", "validation")]

    rows = []
    for group in grouped([run_of(Path(result["folder"])) for result in results]):
        part = part_tested(group.runs[0].result, group.runs[0].settings)
        if len(group.runs) > 1:
            rows += [(*accuracies([run.result]), f"  {group.name_of(run)}", "") for run in group.runs]
        whole = accuracies([run.result for run in group.runs])
        rows.append((*whole, f"{group.label}{part and f', {part}'}", str(len(group.runs))))
    name = NAMES.get(metric, metric)
    columns = (f"test {name}", f"validation {name}", "run", "runs")
    print_table(escape.console(), Table(f"{len(results)} runs", "", columns, rows, ("run",)))
