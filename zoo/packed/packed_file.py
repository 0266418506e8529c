"""The packed file, .zoo: a net in few bytes, by itself, as docs/packed_file.md lays down byte by byte.

A magic number, a version and a checksum of all else; the facts and the tensors' shapes as a deflated text; the weights
as zoo.packed.codec codes them. What is pruned or shared is found by looking at the weights.
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
from zoo.packed.codec import MOST_BY_CODE, Bits, decode, encode, sides
from zoo.packed.header import deflated, facts_text, inflated
from zoo.packed.size_report import Ledger, Row

MAGIC = b"\x89ZOO"  # no text file begins so
VERSION = 1
DIGEST_BYTES = 16  # of SHA-256
HEADER_BYTES = len(MAGIC) + 1
# Weights that any file may hold, and how many more for each of its bytes. Of one weight in 10,000 left, with eight
# values, a byte has some 4,000.
MOST_SPARE, MOST_PER_BYTE = 1 << 24, 1 << 12
MOST_ROWS = 1 << 20  # inputs of all layers, each of which is decoded by itself; VGG-19 has 63,000
MOST_TENSORS = 20_000  # ResNet-152 has 932
Half = bool | Literal["bfloat16"]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text at the beginning of a packed file: the shapes of its tensors by name, and its metadata."""

    shapes: Annotated[
        dict[
            Annotated[str, msgspec.Meta(max_length=512)],
            Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=2**40)]], msgspec.Meta(max_length=8)],
        ],
        msgspec.Meta(max_length=MOST_TENSORS),
    ]
    facts: msgspec.Raw


def save_packed(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any], half: Half = False) -> Ledger:
    """Write a packed file, whole or not at all, and say where its bytes go.

    Weights come back as they were, in float32; with `half` rounded before, to float16 or, if it says so, to the 8 bits
    of bfloat16. BadInput for another `half`, and for a type of tensor that cannot be coded.
    """
    dtype = dtype_of(half)
    content, ledger = pack({name: _rounded(w, dtype) if half else w for name, w in weights.items()}, facts)
    with replacing(path) as file:
        file.write(content)
    return ledger


def dtype_of(half: Half) -> torch.dtype:
    """Return the type that floats are rounded to; BadInput where `half` is none of its choices."""
    dtypes = {False: torch.float32, True: torch.float16, "bfloat16": torch.bfloat16}
    if not isinstance(half, bool | str) or half not in dtypes:
        raise BadInput(f"half={half} must be true, for float16, or false, or bfloat16")
    return dtypes[half]


def pack(weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[bytes, Ledger]:
    """Return the content of a packed file, and where its bytes go."""
    try:
        code, bits = encode(weights.values())
        _check_sizes([tuple(weight.shape) for weight in weights.values()], len(code))
    except ValueError as error:
        raise BadInput(f"these weights cannot be packed: {error}") from error
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    text = deflated(f'{{"shapes":{json.dumps(shapes, separators=(",", ":"))},"facts":{facts_text(facts)}}}')
    head = MAGIC + bytes([VERSION])
    content = head + _digest(head, text + code) + text + code
    rest = {"header": len(head), "checksum": DIGEST_BYTES, "facts": len(text)}
    ledger = _ledger(weights, bits, len(code), rest)
    assert ledger.size_bytes == len(content)
    return content, ledger


def is_packed(path: Path) -> bool:
    """Tell by its first bytes whether a file is a packed one, or the beginning of one."""
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
    return MAGIC.startswith(start)


@dataclass(frozen=True)
class Opened:
    """A packed file whose checksum is right: the shapes of its tensors, the JSON of its metadata, and coded weights."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    facts: bytes
    code: bytes

    def weights(self) -> dict[str, Tensor]:
        """Decode the weights; BadInput for a code that is not ours."""
        try:
            return dict(zip(self.shapes, decode(self.code, self.shapes.values()), strict=True))
        except Exception as error:  # only of a file that was made so: its checksum is right
            raise _foreign(self.path, error) from error


def read_packed(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """Read a packed file's weights and the JSON of its metadata; BadInput as `open_packed` raises it."""
    opened = open_packed(path)
    return opened.weights(), opened.facts


def open_packed(path: Path) -> Opened:
    """Read all of a packed file but its weights, which may take far more memory; BadInput for one that is damaged.

    Nothing in it is looked at before its checksum was found right.
    """
    content = path.read_bytes()
    head, digest, body = (
        content[:HEADER_BYTES],
        content[HEADER_BYTES:][:DIGEST_BYTES],
        content[HEADER_BYTES:][DIGEST_BYTES:],
    )
    if _digest(head, body) != digest:
        raise BadInput(
            f"{path} was cut short or changed after it was written: its checksum does not match; copy it again"
        )
    if head != MAGIC + bytes([VERSION]):
        raise BadInput(f"{path} is a packed file of version {head[-1]}, and this zoo reads version {VERSION}")
    try:
        text, code = inflated(body)
        said = msgspec.json.decode(text, type=Head)
        shapes = {name: tuple(shape) for name, shape in said.shapes.items()}
        _check_sizes(shapes.values(), len(code))
        return Opened(path, shapes, bytes(said.facts), code)
    except Exception as error:  # only of a file that was made so: its checksum is right
        raise _foreign(path, error) from error


def _foreign(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is no packed file that the zoo wrote: {reason(error)}")


def _check_sizes(shapes: Iterable[tuple[int, ...]], code_bytes: int) -> None:
    """Raise ValueError for shapes that so few bytes cannot hold, or that the memory cannot, before any is taken."""
    shapes = list(shapes)
    size = sum(math.prod(shape) for shape in shapes)
    if size > min(MOST_BY_CODE * (code_bytes + 4), MOST_SPARE + MOST_PER_BYTE * code_bytes):
        raise ValueError(f"{code_bytes:,} bytes cannot hold the {size:,} weights it promises")
    if (rows := sum(sides(shape)[0] for shape in shapes)) > MOST_ROWS:
        raise ValueError(f"it promises layers of {rows:,} inputs, and at most {MOST_ROWS:,} may be")
    if 8 * size > (free := memory.available_bytes()):
        raise ValueError(f"the {size:,} weights it promises do not fit the {free / 1e9:,.1f} GB of memory free here")


def _digest(head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(head + body).digest()[:DIGEST_BYTES]


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats to those of a narrower type, unless some are beyond it."""
    if not weight.is_floating_point():
        return weight
    rounded = weight.to(dtype).float()
    return rounded if rounded.isfinite().all() else weight


def _ledger(weights: Mapping[str, Tensor], bits: list[Bits], code_bytes: int, rest: dict[str, int]) -> Ledger:
    """Round what tensors take to bytes so that the sum is that of the file."""
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
    return Ledger(rows, {**rest, "padding": code_bytes - done})
