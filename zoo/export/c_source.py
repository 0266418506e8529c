"""The text of the C file: kernels from zoo/export/c, constants as arrays, and one call per step.

Only numbers and escaped strings are written into it; names are our own, with a number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from zoo import escape
from zoo.export.c_arena import planned
from zoo.export.c_numbers import FixedPoint, fixed_point
from zoo.export.c_terms import Bytes, Fill, Layer, LookUp, Pool, Product, Shape, Step, Value, unsupported

KERNELS = Path(__file__).parent / "c"
FRACTION = 4096  # scores are logits in units of 1 / FRACTION
INT32 = 2**31


@dataclass(frozen=True)
class Source:
    text: str
    arena_bytes: int
    constant_bytes: int


class Writer:
    """The parts of a C file, filled by writing one step after the other."""

    def __init__(self, places: dict[Bytes, int]) -> None:
        self.places = places
        self.arrays: dict[tuple[str, tuple[int, ...]], str] = {}  # names by type and content, so that none comes twice
        self.tables: list[str] = []  # of settings
        self.calls: list[str] = []
        self.kernels = ["head"]
        self.constant_bytes = 0

    def write(self, step: Step) -> None:
        match step:
            case Fill():
                assert step.out
                self.calls.append(f"memset({self.place(step.out)}, {step.out.zero_point}, {step.out.size});")
            case LookUp():
                self.look_up(step)
            case Pool():
                self.pool(step)
            case Layer():
                self.layer(step)

    def place(self, tensor: Bytes | None) -> str:
        return f"arena + {self.places[tensor]}" if tensor else "image"

    def needs(self, *kernels: str) -> None:
        self.kernels += [kernel for kernel in kernels if kernel not in self.kernels]

    def array(self, kind: str, numbers: Iterable[int]) -> str:
        """Return the name of a constant array, which is written once for all steps that read it."""
        content = tuple(numbers)
        if (kind, content) not in self.arrays:
            self.arrays[kind, content] = f"numbers_{len(self.arrays)}"
            self.constant_bytes += len(content) * int(kind.strip("uint_")) // 8
        return self.arrays[kind, content]

    def settings(self, kind: str, **fields: int | str | Sequence[int]) -> str:
        """Return the name of a constant struct."""
        name = f"{kind}_{len(self.tables)}"
        words = (f".{key} = {_word(value)}" for key, value in fields.items())
        self.tables.append(_block(f"static const struct {kind} {name}", words))
        return name

    def look_up(self, step: LookUp) -> None:
        self.needs("look_up")
        assert step.out
        channels, height, width = (step.sources[0] or step.out).shape
        table = self.array("uint8_t", [entry for table in step.tables for entry in table])
        stride = 256 if len(step.tables) > 1 else 0
        places = f"{self.place(step.sources[0])}, {height * width}, {channels}, {self.place(step.out)}"
        self.calls.append(f"look_up({table}, {stride}, {places}, {step.out.shape[0]}, {step.before});")

    def pool(self, step: Pool) -> None:
        kernel = "max_pool" if step.divisor is None else "mean_pool"
        self.needs("pool", kernel)
        (source,), out, window = step.sources, step.out, step.window
        assert source
        assert out
        channels, height, width = source.shape
        settings = self.settings(
            "pool",
            height=height,
            width=width,
            channels=channels,
            zero_point=source.zero_point,
            kernel=window.kernel,
            stride=window.stride,
            padding=window.padding,
            dilation=window.dilation,
            out_height=out.shape[1],
            out_width=out.shape[2],
            divisor=step.divisor or 0,
        )
        self.calls.append(f"{kernel}(&{settings}, {self.place(source)}, {self.place(out)});")

    def layer(self, step: Layer) -> None:
        self.needs("layer")
        value, out, product = step.value, step.out, step.value.product
        scale = Fraction(out.scale) if out else Fraction(1, FRACTION)
        numbers = _numbers(value, scale)
        parts = zip(value.parts, numbers.others, strict=True)
        words = [
            f"{{{self.place(part.source)}, INT64_C({factor}), {part.source.shape[2]}, {part.source.shape[0]}, "
            f"{_word(part.step)}}}"
            for part, factor in parts
        ]
        listed = f"(const struct part[]){{{', '.join(words)}}}" if words else "NULL"
        settings = self.settings(
            "layer",
            **self.product(product, numbers),
            shift=numbers.shift,
            out_height=value.shape[1],
            out_width=value.shape[2],
            out_channels=value.shape[0],
            all_channels=out.shape[0] if out else value.shape[0],
            before=step.before,
            out_zero_point=out.zero_point if out else 0,
            low=_limit(value.low, out, scale),
            high=_limit(value.high, out, scale),
        )
        read = self.place(product.source) if product else "NULL"
        written = f"{self.place(out)}, NULL" if out else "NULL, scores"
        self.calls.append(f"layer(&{settings}, {read}, {listed}, {len(words)}, {written});")

    def product(self, product: Product | None, numbers: FixedPoint) -> dict[str, int | str | Sequence[int]]:
        offsets = self.array("int64_t", numbers.constants)
        if not product:
            return {"weights": "NULL", "scales": "NULL", "offsets": offsets}
        source, window = product.source, product.window
        return {
            "weights": self.array("int8_t", product.weights.permute(0, 2, 3, 1).flatten().tolist()),
            "scales": self.array("int64_t", numbers.factors),
            "offsets": offsets,
            "height": source.shape[1],
            "width": source.shape[2],
            "channels": source.shape[0],
            "zero_point": source.zero_point,
            "kernel": window.kernel,
            "stride": window.stride,
            "padding": window.padding,
            "dilation": window.dilation,
            "groups": product.groups,
        }


def _word(value: int | str | Sequence[int]) -> str:
    return str(value) if isinstance(value, int | str) else f"{{{', '.join(map(str, value))}}}"


def _limit(number: float, out: Bytes | None, scale: Fraction) -> int:
    """Return the integer that an output is limited to by its type and by a ReLU."""
    low, high, zero_point = (0, 255, out.zero_point) if out else (-INT32, INT32 - 1, 0)
    if abs(number) == float("inf"):
        return low if number < 0 else high
    return min(high, max(low, round(Fraction(number) / scale) + zero_point))


def _numbers(value: Value, scale: Fraction) -> FixedPoint:
    """Return the integers of a layer; raise BadInput if a sum of products could leave 32 bits."""
    others = [Fraction(part.source.scale) / scale for part in value.parts]
    zeros = sum(part.source.zero_point * factor for part, factor in zip(value.parts, others, strict=True))
    product = value.product
    if not product:
        return fixed_point([], [], [Fraction(-zeros)], others)
    factors = [Fraction(product.source.scale) * Fraction(one) / scale for one in product.scales.tolist()]
    biases: list[float] = [0.0] * len(factors) if product.bias is None else product.bias.tolist()
    farthest = max(product.source.zero_point, 255 - product.source.zero_point)
    largest = [farthest * int(one) for one in _absolute(product.weights)]
    if max(largest) >= INT32:
        raise unsupported("a layer with so many inputs that their sum may leave 32 bits")
    return fixed_point(factors, largest, [Fraction(bias) / scale - zeros for bias in biases], others)


def _absolute(weights: Tensor) -> list[int]:
    sums: list[int] = weights.long().abs().flatten(1).sum(1).tolist()
    return sums


def source_of(steps: Sequence[Step], shape: Shape, classes: Sequence[str]) -> Source:
    """Return the C file of these steps, for images of `shape` (channels, height, width)."""
    places, arena_bytes = planned(steps)
    writer = Writer(places)
    for step in steps:
        writer.write(step)
    channels, height, width = shape
    first = steps[0].out
    assert first
    sizes = {
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "IMAGE_BYTES": channels * height * width,
        "NUM_CLASSES": len(classes),
        "SCORES_PER_LOGIT": FRACTION,
        "INPUT_SCALE": f"{first.scale!r}",
        "INPUT_ZERO_POINT": first.zero_point,
        "ARENA_BYTES": arena_bytes,
        "CONSTANT_BYTES": writer.constant_bytes,
    }
    names = ",\n".join(f'    "{escape.c_string(name)}"' for name in classes)
    kernels = "".join((KERNELS / f"{name}.c").read_text() for name in writer.kernels)
    arrays = (_array(kind, name, content) for (kind, content), name in writer.arrays.items())
    calls = "\n".join(f"    {call}" for call in writer.calls)
    text = "\n".join(
        [
            (KERNELS / "about.c").read_text(),
            *(f"#define ZOO_{key} {value}" for key, value in sizes.items()),
            f"\nconst char *const zoo_classes[ZOO_NUM_CLASSES] = {{\n{names}}};\n",
            kernels,
            *arrays,
            *writer.tables,
            f"\nstatic uint8_t arena[ZOO_ARENA_BYTES];\n\n{SIGNATURE}\n{{\n{calls}\n}}",
            (KERNELS / "main.c").read_text(),
        ]
    )
    return Source(text, arena_bytes, writer.constant_bytes)


SIGNATURE = """/* Compute the scores of an image: row by row, the channels of a pixel together, 0 to 255. */
void zoo_scores(const uint8_t image[ZOO_IMAGE_BYTES], int32_t scores[ZOO_NUM_CLASSES])"""


def _array(kind: str, name: str, numbers: Sequence[int]) -> str:
    word = "INT64_C({})".format if kind == "int64_t" else str
    per_line = 4 if kind == "int64_t" else 24
    lines = (", ".join(map(word, numbers[at : at + per_line])) for at in range(0, len(numbers), per_line))
    return _block(f"static const {kind} {name}[]", lines)


def _block(name: str, lines: Iterable[str]) -> str:
    content = ",\n    ".join(lines)
    return f"{name} = {{\n    {content}}};"
