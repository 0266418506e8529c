"""The matrix of exported files, format by precision by runtime: printed, and stored with their run."""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from zoo import escape
from zoo.callbacks.loggers import TensorBoard
from zoo.checkpoint.product_file import Product
from zoo.errors import BadInput
from zoo.export.verify import Verification
from zoo.files import check_no_links
from zoo.paths import BOARDS, EXPORTS, RESULT
from zoo.records.json_files import read_result, write_exports, write_result
from zoo.report import settings_row


@dataclass(frozen=True)
class Row:
    """A cell of the matrix: the result of a format in its runtime, or the reason it was refused."""

    format: str
    precision: str
    runtime: str
    files: list[str]
    proof: Verification | None = None
    reason: str | None = None

    def plain(self) -> dict[str, Any]:
        cell = {key: value for key, value in asdict(self).items() if key != "proof"}
        figures = asdict(self.proof) if self.proof else {}
        return cell | {key: value for key, value in figures.items() if value is not None}


@dataclass(frozen=True)
class Earlier:
    """What exports.json had: rows of the checkpoint as it is now, all formats, and files of the checkpoint before."""

    rows: list[dict[str, Any]]
    formats: set[str]
    outdated: set[str]


def check_boards(run: Path) -> None:
    """Raise BadInput if a run's exports/, which `write_rows` replaces, is or contains a link."""
    if (run / RESULT).exists() and (run / BOARDS).is_symlink():
        raise BadInput(f"{run / BOARDS} is a link, and its target would be changed; replace it by a folder")
    if (run / RESULT).exists():
        check_no_links(run / BOARDS)


def write_rows(about: dict[str, Any], rows: list[Row], earlier: Earlier, product: Product, folder: Path) -> list[str]:
    """Write exports.json, and to the result of the checkpoint's run if the folder is its own.

    The row of earlier files stays until one of them is replaced or gone. Returns the names of the files that were
    exported before the checkpoint changed.
    """
    written = {file for row in rows for file in row.files}
    kept = [
        row
        for row in earlier.rows
        if not written & {*row["files"]} and all(_is_in(folder, file) for file in row["files"])
    ]
    there = {row["format"] for row in kept if row["files"]}
    new = [row for row in rows if row.files or row.format not in there]
    by_format = {row["format"]: row for row in [*kept, *(row.plain() for row in new)]}
    described = {file for row in by_format.values() for file in row["files"]}
    left = {file for file in earlier.outdated - described if _is_in(folder, file)}
    outdated = sorted(file for file in left if not (folder / file).samefile(product.path))
    write_exports(folder / EXPORTS, {**about, "rows": [*by_format.values()], "outdated": outdated})
    if folder.resolve() == product.path.resolve().parent:
        _record(folder, new, earlier.formats - by_format.keys())
    return outdated


def _is_in(folder: Path, file: str) -> bool:
    """Return whether a name, which may come from a damaged file, is that of a file in a folder."""
    return file == Path(file).name and len(file.encode()) < 256 and (folder / file).is_file()


def _record(run: Path, rows: Sequence[Row], gone: Collection[str]) -> None:
    """Store rows in a run's result.json and next to its own row in TensorBoard's HParams, one per format.

    Rows of formats that are gone from exports.json are removed. Nothing is stored for a product whose folder has no
    result.json.
    """
    if not (run / RESULT).exists():
        return
    result = read_result(run / RESULT)
    kept = {name: row for name, row in result.get("exports", {}).items() if name not in gone}
    result["exports"] = {**kept, **{row.format: row.plain() for row in rows}}
    write_result(run / RESULT, result)
    for board in (run / BOARDS).glob("*"):
        if board.name in gone and board.is_dir():
            shutil.rmtree(board)
    for row in rows:
        board = run / BOARDS / row.format
        shutil.rmtree(board, ignore_errors=True)
        if row.proof:
            logger = TensorBoard(board)
            of_file, more = _figures(result, row.proof)
            logger.log_hyperparams(settings_row.row(of_file, row.format), settings_row.metrics(of_file) | more)
            logger.experiment.close()


def _figures(result: dict[str, Any], proof: Verification) -> tuple[dict[str, Any], dict[str, float]]:
    """Return a run's result with the figures of a file, and more of them; for sequence nets without a latency."""
    once = None if "wer" in result["test"] else proof.latency_ms["1"]["p50"]
    test = {"r2" if "mae" in result["test"] else "accuracy": proof.accuracy}
    of_file = {"product_bytes": proof.size_bytes, "latency_ms": once, "test": test, "validation": {}}
    more = {"largest difference": proof.largest_difference, "peak MB": proof.peak_bytes / 1e6}
    for batch, times in proof.latency_ms.items():
        more |= {f"ms of {batch}, {which}": time for which, time in times.items()}
    return {**result, **of_file, "compress": {}}, more


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the matrix of formats, precisions and runtimes."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0, show_edge=False)
    for column in ("format", "in", "runtime"):
        table.add_column(column)
    for column in ("kB", "right", "off by", "ms of 1", "ms of 64", "MB"):
        table.add_column(column, justify="right")
    has_arena = any(row.proof and row.proof.arena_bytes is not None for row in rows)
    for column in ("arena", "constants") if has_arena else ():
        table.add_column(column, justify="right")
    for row in rows:
        figures = ["refused", *"–––––"]
        if row.proof:
            times = [f"{number(time['p50'])}/{number(time['p95'])}" for time in row.proof.latency_ms.values()]
            size, off = number(row.proof.size_bytes / 1e3), f"{row.proof.largest_difference:.1g}"
            figures = [size, f"{row.proof.accuracy:.2%}", off, *times, number(row.proof.peak_bytes / 1e6)]
            if row.proof.arena_bytes is not None:
                figures += [f"{row.proof.arena_bytes:,}", f"{row.proof.constant_bytes:,}"]
        table.add_row(row.format, row.precision, row.runtime, *figures)
    console = escape.console()
    console.print(table)
    console.print(
        "off by: the largest difference of a logit; ms: median/95th percentile of a batch; MB: peak memory",
        soft_wrap=True,
    )
    if has_arena:
        console.print("arena, constants: bytes of activations (RAM), and of weights and tables (flash)", soft_wrap=True)


def number(value: float) -> str:
    """Format a number with at least two significant digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
