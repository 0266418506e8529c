"""The output of a comparison of files: tables in the terminal, Markdown, one HTML page, and all figures as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import escape
from zoo.compare.comparison_plots import as_svg
from zoo.compare.file_pictures import Flip, MapRow, breakable, flips_as_html, maps_as_html
from zoo.compare.file_plots import draw_corruptions, draw_reliability
from zoo.compare.file_style import FILE_CSS
from zoo.compare.file_tables import ABOUT, HEADLINES, MISSING, changes_of, file_tables
from zoo.compare.page import as_html, as_markdown, document, embedded, is_of_kind
from zoo.compare.terminal import print_table
from zoo.errors import BadInput, counted
from zoo.files import write_json, write_text

PAGE = "files.html"
KIND = "comparison of files"  # in the JSON file
LEAST_NAME = 15  # letters of a file's name in the terminal
MOST_CLASSES = 200  # on the page


def title_of(figures: Mapping[str, Any]) -> str:
    num = counted(figures["num_samples"], "test image")
    return f"{counted(len(figures['files']), 'file')} on the same {num} of {figures['data']}"


def show(figures: Mapping[str, Any]) -> None:
    """Print the tables, at any width."""
    console = escape.console()
    console.print(title_of(figures), style="bold")
    for table in file_tables(figures):
        console.print()
        print_table(console, table, LEAST_NAME)
        console.print(table.about)


def markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables in Markdown."""
    parts = [f"## {escape.markdown(title_of(figures))}", *map(as_markdown, file_tables(figures))]
    return "\n\n".join(parts)


def page_for(out: str) -> Path:
    """Return the path of the page: `out` if it is a file .html, or files.html in the folder `out`.

    Raises BadInput if the JSON file next to it would replace one that is not a comparison.
    """
    page = Path(out) if out.endswith(".html") else Path(out) / PAGE
    figures = page.with_suffix(".json")
    if not is_of_kind(figures, KIND):
        raise BadInput(f"out={out}: {figures} exists and is not a comparison of files; use out=ANOTHER.html")
    return page


def write(page: Path, figures: Mapping[str, Any], flips: Sequence[Sequence[Flip]], maps: Sequence[MapRow]) -> str:
    """Write the page with all pictures in it, and the figures as JSON next to it; return a line with both names."""
    page.parent.mkdir(parents=True, exist_ok=True)
    write_json(page.with_suffix(".json"), {"kind": KIND, **figures})
    title = title_of(figures)
    parts = [f"<h1>{escape.html(title)}</h1>", f"<p>The first is <b>{breakable(figures['files'][0]['name'])}</b>.</p>"]
    parts.append(f'<div class="side"><div>{_headlines(figures)}</div><div>{_recalls(figures)}</div></div>')
    parts += _plots(figures)
    for row, of_row in zip(figures["files"][1:], flips, strict=True):
        parts += _flips(row, of_row)
    if maps:
        parts.append("<h2>What the answers depend on</h2>")
        about = "red: for the file's own answer, blue: against it. First images that most files answer differently."
        parts.append(f"<p>{escape.html(maps[0].method)}, {about}</p>")
        parts.append(maps_as_html(maps, [row["name"] for row in figures["files"]]))
    parts.append("<h2>All figures</h2>")
    parts += [as_html(table) for table in file_tables(figures)]
    write_text(page, document(title, "\n".join(parts), FILE_CSS))
    return f"Written     {page} and {page.with_suffix('.json').name}"


def _headlines(figures: Mapping[str, Any]) -> str:
    """Return one row per figure and one column per file, with the change from the first below each value."""
    first, *_ = rows = figures["files"]
    heads = "".join(f"<th>{breakable(row['name'])}</th>" for row in rows)
    lines = []
    for metric in HEADLINES:
        if metric.of(first) is None and all(metric.of(row) is None for row in rows):
            continue
        cells = [f'<th class="text">{escape.html(NAMES[metric.label])}</th>', f"<td>{metric.written(first)}</td>"]
        for row in rows[1:]:
            change, verdict = metric.changed(row, first)
            kind = {1: "better", -1: "worse", 0: "same"}[verdict]
            cells.append(f'<td>{metric.written(row)}<small class="{kind}">{change}</small></td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append(_verdict(rows))
    table = f"<table class='first'><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    note = "Small figures are changes from the first file, in points or as a factor. p is McNemar's exact test with "
    note += "Holm's correction; if it is grey, the difference in accuracy may be due to chance."
    return f'<h2>What changed</h2>\n<p>{escape.html(note)}</p>\n<div class="wide">{table}</div>'


NAMES = {
    "accuracy": "accuracy",
    "corrupted": "accuracy, corrupted images",
    "worst recall": "recall of the worst class",
    "ECE": "calibration error",
    "NLL": "negative log-likelihood",
    "Brier": "Brier score",
    "at 1 % error": "answered at 1 % error",
    "bytes": "bytes",
    "ms": "ms for one image",
}


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = ['<th class="text">agrees with the first</th>', f"<td>{MISSING}</td>"]
    for row in rows[1:]:
        found = row["against_first"]
        kind = "same" if found["p_holm"] >= 0.05 else "worse" if found["only_first"] > found["only_other"] else "better"
        small = f'<small class="{kind}">p = {found["p_holm"]:.2g}</small>'
        cells.append(f"<td>{found['agreement']:.2%}{small}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _plots(figures: Mapping[str, Any]) -> list[str]:
    found = []
    for title, about, figure in (
        ("Probabilities", ABOUT["Probabilities"], draw_reliability(figures)),
        ("Corrupted images", "Mean over 15 corruptions by severity, and over 5 severities.", draw_corruptions(figures)),
    ):
        if figure is not None:
            found.append(f"<h2>{title}</h2>\n<p>{about}</p>\n{embedded(as_svg(figure), title)}")
    return found


def _recalls(figures: Mapping[str, Any]) -> str:
    """Return the recall of each class for all files, with a bar of its interval; the most changed classes first."""
    first, *others = figures["files"]
    changes: dict[str, float] = {}
    for row in others:
        for name, _, _, change in changes_of(row, first):
            changes[name] = max(changes.get(name, 0.0), abs(change))
    names = list(first["evaluation"]["classes"])
    heads = "".join(f"<th>{breakable(row['name'])}</th>" for row in figures["files"])
    least = 10 * int(10 * min(ends[0] for row in figures["files"] for ends in row["recall_intervals"]))
    lines = []
    for name in sorted(changes, key=lambda one: -changes[one])[:MOST_CLASSES]:
        cells = [f'<th class="text">{escape.html(name)}</th>']
        before = first["evaluation"]["classes"][name]["recall"]
        for row in figures["files"]:
            recall = row["evaluation"]["classes"][name]["recall"]
            since = None if row is first else recall - before
            cells.append(_cell(recall, row["recall_intervals"][names.index(name)], since, least))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<table class='first'><thead><tr><th>class</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    about = f"Bars are 95 % intervals (Wilson), from {least} to 100 %. The most changed classes come first."
    return f'<h2>Recall of each class</h2>\n<p>{about}</p>\n<div class="wide">{table}</div>'


def _cell(recall: float, interval: Sequence[float], change: float | None, least: int) -> str:
    """Return a cell with a recall, its change from the first file, and a bar of its interval from `least` % on."""
    low, high = (100 * end for end in interval)
    small = ""
    if change is not None:
        points = round(100 * change, 1)
        kind = "same" if not points else "better" if points > 0 else "worse"
        small = f'<small class="{kind}">{points:+.1f}</small>'
    place, width = (f"{100 * one / (100 - least):.1f}%" for one in (low - least, high - low))
    bar = f'<span class="track"><i class="bar" style="left:{place};width:{width}"></i></span>'
    return f'<td title="{low:.1f}–{high:.1f} %">{100 * recall:.1f} %{small}{bar}</td>'


def _flips(row: Mapping[str, Any], flips: Sequence[Flip]) -> list[str]:
    found = row["against_first"]
    name, lost, won = breakable(row["name"]), found["only_first"], found["only_other"]
    about = f"{counted(lost, 'image')} lost and {won:,} won; {found['both_wrong']:,} more are wrong in another way."
    shown = " Shown are the most confident: lost with a red edge, won with a green one." if flips else ""
    return [f"<h2>Flipped by {name}</h2>", f"<p>{about}{shown}</p>", flips_as_html(flips) if flips else ""]
