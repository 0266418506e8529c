"""Read and write metrics.csv, with one row per step and one column per metric."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.files import read_file
from zoo.records.schema import DAMAGED_SEAL, damaged

METRICS_BYTES = 1 << 25  # at most; a run of 100,000 logged steps and 30 metrics has less
MOST_COLUMNS = 4096
COLUMN = re.compile(r"sha256:([0-9a-f]{64})")
Row = dict[str, float]


def metrics_text(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the text of a metrics.csv: one column per metric, with empty cells for missing values, and a checksum."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = ["step", *sorted(names.keys() - {"step"})]
    lines: list[list[Any]] = [[row.get(name, "") for name in columns] for row in rows]
    writer.writerows([[*line, ""] for line in [list[Any](columns), *lines]])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    head, end, rest = text.getvalue().partition("\r\n")
    return f"{head}sha256:{digest}{end}{rest}"


def read_metrics(path: Path) -> list[Row]:
    """Read a metrics.csv as one row per step, without empty cells.

    A number may be inf or nan, as the gradient norm in fp16 sometimes is.
    """
    try:
        text = read_file(path, METRICS_BYTES).decode()
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = next(lines, [""])
        if column := COLUMN.fullmatch(columns[-1]):
            if hashlib.sha256(text.replace(column.group(), "", 1).encode()).hexdigest() != column.group(1):
                raise ValueError("its checksum does not match")
        elif any(DAMAGED_SEAL.search(name) for name in columns):
            raise ValueError("its checksum is damaged")
        rows = _rows(columns, lines, sealed=column is not None)
        if column is None and not (rows and text.endswith("\n")):
            raise ValueError("it is truncated")
        return rows
    except (ValueError, csv.Error) as error:
        raise damaged(path, error) from error


def _rows(columns: list[str], lines: Iterable[list[str]], sealed: bool) -> list[Row]:
    if columns[0] != "step" or len(set(columns)) < len(columns) or len(columns) > MOST_COLUMNS:
        raise ValueError("its first line does not have valid column names")
    rows: list[Row] = []
    for line in lines:
        if len(line) != len(columns) or (sealed and line[-1]):
            raise ValueError(f"row {len(rows) + 2} does not have one cell per column")
        cells = dict(zip(columns, line, strict=True))
        row: Row = {name: _number(cell) for name, cell in cells.items() if cell}
        if not re.fullmatch(r"[0-9]{1,18}", line[0]) or (rows and int(line[0]) <= rows[-1]["step"]):
            raise ValueError(f"row {len(rows) + 2} does not have a later step")
        row["step"] = int(line[0])
        if "epoch" in row and not (row["epoch"].is_integer() and 0 <= row["epoch"] < 2**31):
            raise ValueError(f"row {len(rows) + 2} does not have a valid epoch")
        rows.append(row)
    return rows


def _number(text: str) -> float:
    if not re.fullmatch(r"-?([0-9]{1,400}(\.[0-9]{1,40})?(e[-+]?[0-9]{1,3})?|inf)|nan", text):
        raise ValueError(f"{text[:20]!r} is not a number")
    return float(text)
