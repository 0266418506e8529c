"""Rows of a table of labels, CSV or Parquet, as text: every value is data, and nothing in the file is looked up."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import BadInput, choices, reason, shown
from zoo.files import read_file

MOST_BYTES = 1 << 30  # of a file, and of the columns of a Parquet file in memory
MOST_ROWS = 20_000_000
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Rows:
    """The values of some columns, and for each row how to name it, such as `line 5 of labels.csv`."""

    path: Path
    unit: str  # line, of a text, or row
    numbers: Sequence[int]
    columns: dict[str, list[str]]
    others: list[str]  # names of the columns that were not read

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, row: int) -> str:
        return f"{self.unit} {self.numbers[row]:,} of {self.path.name}"


def read_rows(path: str, columns: dict[str, str]) -> Rows:
    """Read columns of a table as text without surrounding spaces; `columns` maps their names to the settings.

    A file that ends in .parquet is Parquet; any other is text in UTF-8 with a header, separated by commas, semicolons
    or tabs. Raises BadInput for a file that cannot be read or is too large, and for a missing or repeated column.
    """
    file = Path(path)
    rows = _parquet_rows(file, columns) if file.suffix.lower() == ".parquet" else _text_rows(file, columns)
    if not len(rows):
        raise BadInput(f"data.table: {file} has no rows below its header")
    return rows


def _check_columns(file: Path, found: Sequence[str], columns: dict[str, str]) -> None:
    for name, setting in columns.items():
        if name in found:
            if found.count(name) > 1:
                raise BadInput(f"data.table: {file} has two columns '{name}'; rename one")
            continue
        has = f"has no column {shown(name)}; {choices(name[:80], [one[:80] for one in found])}"
        if len(found) == 1:
            has = f"has one column, {shown(found[0])}; expected columns separated by commas, semicolons or tabs"
        raise BadInput(f"{setting}: {file} {has}")


def _text_rows(file: Path, columns: dict[str, str]) -> Rows:
    try:
        text = read_file(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"data.table: {file} cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"data.table: {file} is not text in UTF-8 ({reason(error)}); save it as CSV in UTF-8") from error
    headers = {one: _header(file, text, one) for one in DELIMITERS}
    fitting = [one for one, header in headers.items() if columns.keys() <= set(header)]
    delimiter = fitting[0] if fitting else max(DELIMITERS, key=lambda one: len(headers[one]))
    header = headers[delimiter]
    _check_columns(file, header, columns)
    places = {name: header.index(name) for name in columns}
    values: dict[str, list[str]] = {name: [] for name in columns}
    numbers: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        next(reader)
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(header):
                what = f"expected {len(header)} values in line {reader.line_num:,}, as in the header, got {len(row)}"
                raise BadInput(f"data.table: {file}: {what}")
            for name, place in places.items():
                values[name].append(row[place].strip())
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise BadInput(f"data.table: {file} cannot be read in line {reader.line_num:,} ({reason(error)})") from error
    return Rows(file, "line", numbers, values, [name for name in header if name not in columns])


def _header(file: Path, text: str, delimiter: str) -> list[str]:
    try:
        found = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise BadInput(f"data.table: {file} cannot be read in line 1 ({reason(error)})") from error
    return [name.strip() for name in found]


def _parquet_rows(file: Path, columns: dict[str, str]) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise BadInput(
            f"data.table: {file} is Parquet, which needs pyarrow; run pip install pyarrow, or save the table as CSV"
        ) from error
    try:
        with parquet.ParquetFile(file) as opened:
            _check_columns(file, opened.schema_arrow.names, columns)
            _check_size(file, opened.metadata, columns)
            table = opened.read(list(columns))
        values = {name: [_text(one) for one in table[name].to_pylist()] for name in columns}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"data.table: {file} cannot be read as Parquet ({reason(error)})") from error
    others = [name for name in opened.schema_arrow.names if name not in columns]
    return Rows(file, "row", range(1, len(table) + 1), values, others)


def _check_size(file: Path, metadata: Any, columns: dict[str, str]) -> None:
    """Raise BadInput if a Parquet file declares more rows or bytes, once decompressed, than a table may have."""
    size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        parts = (group.column(k) for k in range(group.num_columns))
        size += sum(part.total_uncompressed_size for part in parts if part.path_in_schema in columns)
    if metadata.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise BadInput(
            f"data.table: {file} has {metadata.num_rows:,} rows and {size:,} bytes in these columns; at most "
            f"{MOST_ROWS:,} rows and {MOST_BYTES:,} bytes are read"
        )


def _text(value: Any) -> str:
    """Return a value as a table in text has it: nothing for null, and 1 for true and for 1.0."""
    if value is None:
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value).strip()
