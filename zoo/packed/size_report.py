"""The report of a packed file's bytes: as plain data, as a table, as curves and as a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from zoo import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 30  # layers; more do not fit a screen
PARTS = ("mask", "codebook", "values")


@dataclass(frozen=True)
class Row:
    """The size of a tensor: bytes as dense fp32, and coded as a mask, a codebook and values, whose sum is in the file.

    `floor` is the entropy of its weights if they were independent with known frequencies. It may take less, since
    neighbours are correlated, or more, as small tensors do: frequencies must be learned, and a codebook written.
    `huffman` is the size with Huffman coding, without its table.
    """

    name: str
    num_weights: int
    num_survivors: int
    num_values: int  # of the codebook; 0 if there is none
    dense: int
    mask: int
    codebook: int
    values: int
    floor: float
    huffman: float

    @property
    def coded(self) -> int:
        return self.mask + self.codebook + self.values


@dataclass(frozen=True)
class SizeReport:
    """All bytes of a packed file: one row per tensor, and the rest by name."""

    rows: list[Row]
    rest: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return sum(row.coded for row in self.rows) + sum(self.rest.values())

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the same weights in dense fp32."""
        return sum(row.dense for row in self.rows) / self.size_bytes

    def plain(self) -> dict[str, Any]:
        """Return the report as plain data for result.json."""
        return {
            "bytes": self.size_bytes,
            "ratio": self.ratio,
            "rows": [asdict(r) for r in self.rows],
            "rest": self.rest,
        }

    def by_layer(self) -> list[Row]:
        """Return one row per layer, summed over its tensors such as weight and bias."""
        layers: dict[str, list[Row]] = {}
        for row in self.rows:
            layers.setdefault(row.name.rpartition(".")[0] or row.name, []).append(row)
        return [_sum(name, rows) for name, rows in layers.items()]

    def scalars(self) -> dict[str, float]:
        """Return the scalars that TensorBoard shows as curves."""
        layers = {f"packed/{row.name}_bytes": float(row.coded) for row in self.by_layer()}
        return {"packed/bytes": float(self.size_bytes), "packed/ratio": self.ratio, **layers}


def _sum(name: str, rows: Iterable[Row]) -> Row:
    plain = [asdict(row) for row in rows]
    return Row(name, **{key: sum(row[key] for row in plain) for key in plain[0] if key != "name"})


def show_size_report(report: SizeReport, title: str) -> None:
    """Print one row per layer, in bytes, and the sums, with the entropy of independent weights and the Huffman size.

    `of it` is the size of a layer relative to that entropy: above 100 % for small ones.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("bytes", overflow="fold", min_width=11)
    for column in ("left", "fp32", *PARTS, "coded", "times", "i.i.d.", "of it", "Huffman"):
        table.add_column(column, justify="right", no_wrap=True)
    layers = report.by_layer()
    for row in layers:
        table.add_row(row.name, *_cells(row))
    table.add_section()
    table.add_row("all weights", *_cells(_sum("all", layers)))
    for name, size in report.rest.items():
        table.add_row(name, *[""] * 5, f"{size:,}")
    table.add_section()
    table.add_row("the file", *[""] * 5, f"{report.size_bytes:,}", f"{report.ratio:.1f}", style="bold")
    escape.console().print(table)


def _cells(row: Row) -> Sequence[str]:
    left = f"{row.num_survivors / row.num_weights:.1%}" if row.num_weights else "–"
    sizes = [_size(size) for size in (row.dense, row.mask, row.codebook, row.values, row.coded)]
    times = f"{row.dense / row.coded:.1f}" if row.coded else "–"
    of_it = f"{row.coded / row.floor:.0%}" if row.floor else "–"
    return (left, *sizes, times, _size(row.floor), of_it, _size(row.huffman))


def _size(num: float) -> str:
    return f"{num:,.0f}" if num < 1e5 else f"{num / 1e3:,.0f} k" if num < 1e7 else f"{num / 1e6:,.1f} M"


def draw_size_report(report: SizeReport, title: str) -> "Figure":
    """Draw one bar per layer, stacked from its coded parts, with marks for the i.i.d. entropy and the Huffman size.

    If there are more layers than a screen holds, the largest are drawn, and the others as one bar.
    """
    from matplotlib.figure import Figure

    layers = report.by_layer()
    if len(layers) > MOST_DRAWN:
        large = sorted(layers, key=lambda row: row.coded)[-MOST_DRAWN:]
        small = [row for row in layers if row not in large]
        layers = [*(row for row in layers if row in large), _sum(f"{len(small)} others", small)]
    names = [*(escape.label(row.name) for row in layers), "the rest"]
    figure = Figure(figsize=(9, 1.8 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(layers)))
    ends = [0.0] * len(layers)
    for part, colour in zip(PARTS, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        sizes = [getattr(row, part) / 1e3 for row in layers]
        axes.barh(places, sizes, left=ends, color=colour, label=part)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    rest = sum(report.rest.values()) / 1e3
    axes.barh([len(layers)], [rest], color="tab:gray", label=", ".join(report.rest))
    for mark, what, label in (("|", "floor", "i.i.d. entropy"), ("x", "huffman", "Huffman")):
        marked = [getattr(row, what) / 1e3 for row in layers]
        axes.scatter(marked, places, marker=mark, color="black", s=60, zorder=3, label=label)
    labels = [f"{r.coded / 1e3:.2f} kB" + (f", {r.dense / r.coded:.0f}×" if r.coded else "") for r in layers]
    farthest = [max(end, row.floor / 1e3, row.huffman / 1e3) for end, row in zip(ends, layers, strict=True)]
    most = max(*farthest, rest)
    for place, (end, label) in enumerate(zip([*farthest, rest], [*labels, f"{rest:.2f} kB"], strict=True)):
        axes.text(end + 0.015 * most, place, label, va="center", fontsize=8)
    axes.set(xlabel="kB in the file", xlim=(0, 1.2 * most))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    title = escape.label(title)
    axes.set_title(
        f"{title}: {report.size_bytes / 1e3:,.1f} kB, {report.ratio:.1f} times smaller than fp32", loc="left"
    )
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure
