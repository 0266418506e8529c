"""The packed file, .zoo: a self-contained net in few bytes; docs/packed_file.md specifies it byte by byte.

A magic number, a version and a checksum of all else; the facts and the tensors' shapes as deflated text; the weights
as coded by zoo.packed.codec. Pruning and sharing are detected from the weights.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor

from zoo import memory
from zoo.errors import BadInput, reason
from zoo.files import replacing
from zoo.measure.layer_kinds import sides
from zoo.packed.codec import MOST_BY_CODE, Bits, decode, encode
from zoo.packed.header import deflated, facts_text, inflated, without_usual
from zoo.packed.size_report import Row, SizeReport

MAGIC = b"\x89ZOO"  # no text file starts with this
VERSION = 1
DIGEST_BYTES = 16  # of SHA-256
HEADER_BYTES = len(MAGIC) + 1
# Weights that any file may hold, and how many more per byte. If one weight in 10,000 is left, with eight values, a byte
# holds some 4,000.
MOST_SPARE, MOST_PER_BYTE = 1 << 24, 1 << 12
MOST_ROWS = 1 << 20  # inputs of all layers, each of which is decoded separately; VGG-19 has 63,000
MOST_TENSORS = 20_000  # ResNet-152 has 932
Half = bool | Literal["bfloat16"]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text at the start of a packed file: the shapes of its tensors by name, and its metadata."""

    shapes: Annotated[
        dict[
            Annotated[str, msgspec.Meta(max_length=512)],
            Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=2**40)]], msgspec.Meta(max_length=8)],
        ],
        msgspec.Meta(max_length=MOST_TENSORS),
    ]
    facts: msgspec.Raw


def save_packed(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any], half: Half = False) -> SizeReport:
    """Write a packed file atomically and return the report of its bytes.

    Weights are restored exactly, in float32; with `half` they are first rounded to float16 or, if it says so, to
    bfloat16. Raises BadInput for another `half`, and for a type of tensor that cannot be coded.
    """
    content, report = pack(rounded(weights, half), facts)
    with replacing(path) as file:
        file.write(content)
    return report


def rounded(weights: Mapping[str, Tensor], half: Half) -> dict[str, Tensor]:
    """Round weights as `half` says; see `save_packed`."""
    dtype = dtype_of(half)
    return {name: _rounded(weight, dtype) if half else weight for name, weight in weights.items()}


def dtype_of(half: Half) -> torch.dtype:
    """Return the dtype that floats are rounded to; raise BadInput if `half` is not one of its choices."""
    dtypes = {False: torch.float32, True: torch.float16, "bfloat16": torch.bfloat16}
    if not isinstance(half, bool | str) or half not in dtypes:
        raise BadInput(f"half={half} must be true, for float16, or false, or bfloat16")
    return dtypes[half]


def pack(weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[bytes, SizeReport]:
    """Return the content of a packed file and the report of its bytes."""
    try:
        code, bits = encode(weights.values())
        _check_sizes([tuple(weight.shape) for weight in weights.values()], len(code))
    except ValueError as error:
        raise BadInput(f"these weights cannot be packed: {error}") from error
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    brief = facts_text(without_usual(facts))
    text = deflated(f'{{"shapes":{json.dumps(shapes, separators=(",", ":"))},"facts":{brief}}}')
    head = MAGIC + bytes([VERSION])
    content = head + _digest(head, text + code) + text + code
    rest = {"header": len(head), "checksum": DIGEST_BYTES, "facts": len(text)}
    report = _size_report(weights, bits, len(code), rest)
    assert report.size_bytes == len(content)
    return content, report


def is_packed(path: Path) -> bool:
    """Return whether a file is packed, or the start of a packed one, judged by its first bytes."""
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
    return MAGIC.startswith(start)


@dataclass(frozen=True)
class PackedFile:
    """A packed file with a valid checksum: the shapes of its tensors, the JSON of its metadata, and coded weights."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    facts: bytes
    code: bytes

    def weights(self) -> dict[str, Tensor]:
        """Decode the weights; raise BadInput for a code that the zoo did not write."""
        try:
            return dict(zip(self.shapes, decode(self.code, self.shapes.values()), strict=True))
        except Exception as error:  # only a forged file, since the checksum is valid
            raise _foreign(self.path, error) from error


def read_packed(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """Read a packed file's weights and the JSON of its metadata; raise BadInput as `open_packed` does."""
    opened = open_packed(path)
    return opened.weights(), opened.facts


def open_packed(path: Path) -> PackedFile:
    """Read a packed file except its weights, which may take far more memory; raise BadInput for a damaged file.

    Nothing in it is parsed before its checksum was verified.
    """
    content = path.read_bytes()
    head, digest, body = (
        content[:HEADER_BYTES],
        content[HEADER_BYTES:][:DIGEST_BYTES],
        content[HEADER_BYTES:][DIGEST_BYTES:],
    )
    if _digest(head, body) != digest:
        raise BadInput(
            f"{path} was truncated or changed after it was written: its checksum does not match; copy it again"
        )
    if head != MAGIC + bytes([VERSION]):
        raise BadInput(f"{path} is a packed file of version {head[-1]}, and this zoo reads version {VERSION}")
    try:
        text, code = inflated(body)
        parsed = msgspec.json.decode(text, type=Head)
        shapes = {name: tuple(shape) for name, shape in parsed.shapes.items()}
        _check_sizes(shapes.values(), len(code))
        return PackedFile(path, shapes, bytes(parsed.facts), code)
    except Exception as error:  # only a forged file, since the checksum is valid
        raise _foreign(path, error) from error


def _foreign(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is not a packed file that the zoo wrote: {reason(error)}")


def _check_sizes(shapes: Iterable[tuple[int, ...]], code_bytes: int) -> None:
    """Raise ValueError, before any memory is taken, for shapes that do not fit these bytes or the free memory."""
    shapes = list(shapes)
    size = sum(math.prod(shape) for shape in shapes)
    if size > min(MOST_BY_CODE * (code_bytes + 4), MOST_SPARE + MOST_PER_BYTE * code_bytes):
        raise ValueError(f"{code_bytes:,} bytes cannot hold the {size:,} weights it promises")
    if (rows := sum(sides(shape)[0] for shape in shapes)) > MOST_ROWS:
        raise ValueError(f"it promises layers of {rows:,} inputs, more than {MOST_ROWS:,}")
    if 8 * size > (free := memory.available_bytes()):
        raise ValueError(f"the {size:,} weights it promises do not fit into the {free / 1e9:,.1f} GB of free memory")


def _digest(head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(head + body).digest()[:DIGEST_BYTES]


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats to a narrower dtype, unless some are out of its range."""
    if not weight.is_floating_point():
        return weight
    rounded = weight.to(dtype).float()
    return rounded if rounded.isfinite().all() else weight


def _size_report(weights: Mapping[str, Tensor], bits: list[Bits], code_bytes: int, rest: dict[str, int]) -> SizeReport:
    """Round the sizes of tensors to bytes so that they add up to the size of the file."""
    done, end = 0, 0.0

    def share(more: float) -> int:
        nonlocal done, end
        end += more / 8
        before, done = done, min(round(end), code_bytes)
        return done - before

    rows = []
    for (name, tensor), of in zip(weights.items(), bits, strict=True):
        dense = tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
        parts = share(of.mask), share(of.codebook), share(of.values)
        counts = of.num_weights, of.num_survivors, of.num_values
        rows.append(Row(name, *counts, dense, *parts, of.floor / 8, of.huffman / 8))
    return SizeReport(rows, {**rest, "padding": code_bytes - done})
