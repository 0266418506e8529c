"""The output of an inspection: tables in the terminal, one HTML page with pictures, and all figures as JSON."""

from collections.abc import Sequence
from pathlib import Path

import torch

from zoo import escape
from zoo.compare.comparison_plots import as_svg
from zoo.compare.comparison_tables import Table
from zoo.compare.file_pictures import as_figure
from zoo.compare.file_style import FILE_CSS
from zoo.compare.page import as_html, document, embedded, is_of_kind
from zoo.compare.terminal import print_table
from zoo.data.file_checks import names_of
from zoo.data.fingerprints import Groups
from zoo.errors import BadInput, counted
from zoo.files import write_json, write_text
from zoo.inspection.inspection import KIND, Inspection, class_table, figures, frequent_sizes, size_table
from zoo.inspection.inspection_plots import draw_sides
from zoo.inspection.thumbnails import CSS, of_pixels, thumbnail
from zoo.report.verdicts import print_verdicts
from zoo.run.picture_checks import copies, label_names

PAGE, FIGURES = "inspection.html", "inspection.json"
MOST_ROWS = 20  # of classes in the terminal
MOST_CLASSES = 100  # with pictures on the page
MOST_GROUPS, MOST_IN_GROUP = 40, 6  # of copies on the page
MOST_UNREADABLE = 200
LEAST_NAME = 20  # letters of a class in the terminal


def check_free(folder: Path) -> None:
    """Raise BadInput if a folder has a file of the name of the JSON file that is not of an inspection."""
    file = folder / FIGURES
    if not is_of_kind(file, KIND):
        raise BadInput(f"out={folder}: {file} exists and is not of an inspection; use out=ANOTHER_FOLDER")


def show(inspection: Inspection) -> None:
    """Print the verdicts and the tables, at any width."""
    console = escape.console()
    print_verdicts(inspection.title, inspection.verdicts)
    console.print()
    classes = class_table(inspection)
    *rows, total = classes.rows
    if len(rows) > MOST_ROWS:
        left_out = (f"... {len(rows) - MOST_ROWS:,} more, on the page", *("" for _ in classes.columns[1:]))
        rows = [*rows[: MOST_ROWS // 2], left_out, *rows[-MOST_ROWS // 2 :]]
    shown = Table(classes.title, classes.about, classes.columns, [*rows, total], classes.text)
    for table in (shown, size_table(inspection)):
        print_table(console, table, LEAST_NAME)
        console.print()


def write(folder: Path, inspection: Inspection, num_each: int) -> None:
    """Write the page, with `num_each` training pictures of each class, and the figures as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FIGURES, figures(inspection))
    title = escape.html(inspection.title)
    parts = [f"<h1>{title}</h1>", _verdicts(inspection)]
    parts.append(
        f'<div class="side"><div>{as_html(class_table(inspection))}</div><div>{_sides(inspection)}</div></div>'
    )
    parts += _plots(inspection)
    parts += _unreadable(inspection)
    parts += _copies(inspection)
    parts += _grids(inspection, num_each)
    write_text(folder / PAGE, document(inspection.title, "\n".join(parts), FILE_CSS + CSS))
    escape.console().print(f"Written     {folder / PAGE} and {FIGURES}", soft_wrap=True)


def _verdicts(inspection: Inspection) -> str:
    rows = "".join(
        f'<tr><th class="text">{escape.html(one.name)}</th><td class="text {one.state}">{one.state}</td>'
        f'<td class="text sentence">{escape.html(one.sentence)}</td></tr>'
        for one in inspection.verdicts
    )
    return f'<div class="wide"><table class="verdicts"><tbody>{rows}</tbody></table></div>'


def _sides(inspection: Inspection) -> str:
    """Return the mean picture and the tables of sizes."""
    found, parts = inspection.survey, []
    if found.mean is not None:
        mean = of_pixels(found.mean.round().clamp(0, 255).to(torch.uint8))
        parts.append("<h3>Mean picture</h3>\n<p>Of all pictures, as the net sees them.</p>")
        parts.append(f'<div class="pictures mean">{as_figure(mean, "mean picture", hover="mean picture")}</div>')
    parts += [as_html(size_table(inspection)), as_html(frequent_sizes(inspection))]
    return "\n".join(parts)


def _plots(inspection: Inspection) -> list[str]:
    sides = inspection.survey.sides
    sides = sides[sides.amin(1) > 0]
    if len(sides.unique(dim=0)) < 2:
        return []
    return [embedded(as_svg(draw_sides(sides)), "sizes")]


def _unreadable(inspection: Inspection) -> list[str]:
    found = inspection.survey
    if not found.unreadable:
        return []
    rows = [(found.splits[row], found.place(row), why) for row, why in found.unreadable.items()]
    columns = ("split", "file", "why")
    about = f"{counted(len(rows), 'picture')}, which training leaves out."
    return [as_html(Table("Unreadable", about, columns, rows[:MOST_UNREADABLE], columns))]


def _copies(inspection: Inspection) -> list[str]:
    """Return the groups of copies with their pictures: those between splits, then those with different labels."""
    found = inspection.survey
    groups = copies(found)
    if not groups:
        return []
    exact = {tuple(group) for group in found.exact}

    def weight(group: Sequence[int]) -> tuple[bool, bool]:
        is_apart = len({found.splits[row] for row in group}) == 1
        return is_apart, len(label_names(inspection.labels, inspection.classes, group)) == 1

    shown: Groups = sorted(groups, key=weight)[:MOST_GROUPS]
    about = f"{counted(len(groups), 'group')} of pictures that are copies of each other, exactly or nearly"
    about += ", first those in several splits, then those with different labels, which have a red edge."
    if len(groups) > len(shown):
        about += f" All are in {FIGURES}; here are {len(shown)}."
    parts = ["<h2>Copies</h2>", f"<p>{about}</p>", '<div class="rows">']
    for group in shown:
        is_odd = len({found.splits[row] for row in group}) > 1 or not weight(group)[1]
        kind = "exact" if tuple(group) in exact else "near"
        tiles = [_tile(inspection, row, "lost" if is_odd else "") for row in group[:MOST_IN_GROUP]]
        more = f"<p>and {len(group) - MOST_IN_GROUP} more</p>" if len(group) > MOST_IN_GROUP else ""
        parts.append(f'<div class="maps"><small>{kind}</small><div class="pictures">{"".join(tiles)}</div>{more}</div>')
    return [*parts, "</div>"]


def _tile(inspection: Inspection, row: int, kind: str = "") -> str:
    """Return a picture with its split, label and name."""
    found = inspection.survey
    label, name = names_of(inspection.labels[[row]], inspection.classes)[0], found.place(row)
    where = f"{found.splits[row]}: {Path(name).name}" if found.names[row] else name
    lines = [f"<b>{escape.html(label)}</b>", escape.html(where)]
    return as_figure(thumbnail(inspection.splits, row), name, lines, kind, hover=name)


def _grids(inspection: Inspection, num_each: int) -> list[str]:
    """Return a grid of training pictures of each class, evenly spaced in the order of files."""
    labels = inspection.splits["train"].labels
    parts = ["<h2>Pictures of each class</h2>"]
    if len(inspection.classes) > MOST_CLASSES:
        parts.append(f"<p>Of the first {MOST_CLASSES} of {len(inspection.classes):,} classes.</p>")
    for i, name in enumerate(inspection.classes[:MOST_CLASSES]):
        members = (labels[:, i] if labels.ndim == 2 else labels == i).nonzero().flatten()
        members = members[[row not in inspection.survey.unreadable for row in members.tolist()]]
        places = torch.linspace(0, len(members) - 1, min(num_each, len(members))).round().long()
        tiles = [
            as_figure(thumbnail(inspection.splits, row), name := inspection.survey.place(row), hover=name)
            for row in members[places].tolist()
        ]
        num = counted(len(members), "training picture")
        parts.append(f'<h3>{escape.html(name)} ({num})</h3>\n<div class="pictures grid">{"".join(tiles)}</div>')
    return parts
