"""The output of a comparison as Markdown, and as a self-contained HTML page."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo import escape
from zoo.compare.comparison_plots import MOST_DRAWN, as_svg, draw_costs, draw_exports
from zoo.compare.comparison_tables import EXPORTS, RANKING, Table, ranking, tables
from zoo.compare.curve_plots import draw_curves
from zoo.compare.page_style import CSS, SCRIPT
from zoo.compare.runs import Comparison
from zoo.compare.terminal import left_out
from zoo.files import read_file, replacing, write_text

PAGE, TEXT = "comparison.html", "comparison.md"
MOST_BYTES = 1 << 28  # of a JSON file next to a page
SVG_WIDTH = re.compile(rb'<svg[^>]* width="([0-9.]+)pt"')
MOST_ENLARGED = 1.4  # px per pt
SEARCH = '<input type="search" id="search" placeholder="search in all tables" aria-label="search in all tables">'


def write(out: Path, comparisons: Sequence[Comparison], unfinished: Sequence[Path]) -> str:
    """Write comparison.html with embedded plots, and comparison.md with plots next to it; return a line with names."""
    out.mkdir(parents=True, exist_ok=True)
    page, text = ["<h1>Comparison of runs</h1>", SEARCH], ["# Comparison of runs"]
    for i, comparison in enumerate(comparisons):
        page.append(f"<h2>{escape.html(comparison.title)}</h2>")
        text.append(f"## {escape.markdown(comparison.title)}")
        for table in tables(comparison):
            page.append(as_html(table))
            text.append(as_markdown(table))
            for under, name, title, about, draw in PICTURES:
                if under == table.title:
                    file = f"{name}_{i + 1}.svg"
                    svg = as_svg(draw(comparison))
                    with replacing(out / file) as picture:
                        picture.write(svg)
                    page.append(f"<h3>{title}</h3>\n<p>{about}</p>")
                    page.append(embedded(svg, title))
                    text.append(f"### {title}\n\n{about}\n\n![{title}]({file})")
    page.append(f"<p>{escape.html(left_out(unfinished))}</p>")
    text.append(escape.markdown(left_out(unfinished)))
    write_text(out / PAGE, document("Comparison of runs", "\n".join(page)))
    write_text(out / TEXT, "\n\n".join(text).strip() + "\n")
    return f"Written     {out / PAGE} and {TEXT}"


def document(title: str, body: str, css: str = "") -> str:
    """Return a page of HTML that needs nothing else, with sortable tables; `css` is added to the style of all pages."""
    size = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = f"<style>{CSS}{css}</style>"
    head = f'<meta charset="utf-8">\n{size}\n<title>{escape.html(title)}</title>\n{style}'
    body = f"{body}\n<script>{SCRIPT}</script>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def readme_tables(comparisons: Sequence[Comparison]) -> str:
    """Return the rankings in Markdown with few columns, as they fit a README."""
    parts = []
    for comparison in comparisons:
        table = ranking(comparison)
        cells = {column: [row[i] for row in table.rows] for i, column in enumerate(table.columns)}
        shown = ["run", table.columns[1], "params", "MMACs", *table.columns[2:4]]  # kB and latency
        rows = list(zip(*(cells[column] for column in shown), strict=True))
        lines = _lines(Table("", "", shown, rows, ("run",)))
        parts.append(f"{escape.markdown(comparison.title)}\n\n{lines}")
    return "\n\n".join(parts)


# Table above the plot, file name, title, explanation, function.
PICTURES: tuple[tuple[str, str, str, str, Callable[[Comparison], Any]], ...] = (
    (
        RANKING,
        "costs",
        "Accuracy against its cost",
        "The line is the Pareto front: a grey point is beaten in both by another run. Numbers are ranks. Latencies "
        "that were measured at different times have no front.",
        draw_costs,
    ),
    (
        RANKING,
        "curves",
        "Learning curves",
        f"Of the best {MOST_DRAWN} or fewer, by epoch; a dot is at the epoch whose weights were kept. Several seeds or "
        "folds are shown as mean and band of one standard deviation. Scales are logarithmic, of errors for accuracies.",
        draw_curves,
    ),
    (
        EXPORTS,
        "exports",
        "Accuracy of exported files against their cost",
        "One colour per run, one marker per format. The line is the Pareto front; other files are pale.",
        draw_exports,
    ),
)


def embedded(svg: bytes, title: str) -> str:
    """Return a plot as HTML, with its content in the page; on a narrow screen, it scrolls and keeps its size."""
    source, width = base64.b64encode(svg).decode(), SVG_WIDTH.search(svg)
    assert width is not None
    least = float(width.group(1))  # px, so that a letter of 8 pt has at least 8 px
    size = f"width: 100%; min-width: {least:.0f}px; max-width: {MOST_ENLARGED * least:.0f}px"
    return f'<div class="wide"><img alt="{title}" style="{size}" src="data:image/svg+xml;base64,{source}"></div>'


def is_of_kind(file: Path, kind: str) -> bool:
    """Return whether the JSON file next to a page is of a kind of page, which may replace it; True without a file."""
    if not file.exists():
        return True
    try:
        found = json.loads(read_file(file, MOST_BYTES))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("kind") == kind


def as_html(table: Table) -> str:
    """Return a table with its title and explanation in HTML."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if column in table.text else "" for column in table.columns]
        inner = "".join(f"<{tag}{k}>{escape.html(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{inner}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return (
        f"<h3>{table.title}</h3>\n<p>{escape.html(table.about)}</p>\n"
        f'<div class="wide"><table>\n<thead>{row(table.columns, "th")}</thead>\n<tbody>{rows}</tbody>\n</table></div>'
    )


def as_markdown(table: Table) -> str:
    """Return a table with its title and explanation in Markdown."""
    return f"### {table.title}\n\n{escape.markdown(table.about)}\n\n{_lines(table)}"


def _lines(table: Table) -> str:
    """Return the lines of a table in Markdown."""

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(escape.markdown, cells))} |"

    rule = "|".join("---" if column in table.text else "---:" for column in table.columns)
    return "\n".join([row(table.columns), f"|{rule}|", *(row(cells) for cells in table.rows)])
