"""Where the members of a tar file are, so that each can be read alone.

Headers are parsed by the standard library's TarInfo.frombuf. Its TarFile is not used, since it reads names and other
extensions into memory whatever size they declare.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

BLOCK = tarfile.BLOCKSIZE
MOST_BYTES = 1 << 20  # of an extended header, such as a long name
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LONG_NAME, EXTENDED, SPARSE = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE
NO_CONTENT = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")  # of an extended header: its length, a key and a value


class TarMember(NamedTuple):
    """A regular file in a tar file: `size` bytes from `offset`; names that are not UTF-8 have surrogate escapes."""

    name: str
    offset: int
    size: int


def tar_members(file: IO[bytes], others: list[str]) -> Iterator[TarMember]:
    """Yield the regular files in a tar file, in order, also of several that were joined; the file must be seekable.

    Names of links and other special members are added to `others`. Raises ValueError if it is not a tar file, or does
    not end as one: with a block of zeros.
    """
    end = file.seek(0, 2)
    place, ended, last = 0, False, "its start"
    long: dict[bytes, bytes] = {}
    while place < end:
        file.seek(place)
        block = file.read(BLOCK)
        if place == 0:
            _check_start(block)
        place += BLOCK
        if not block.strip(b"\0"):
            ended = True
            continue
        ended = False
        head = _header(block, last)
        name = long.pop(b"path", head.name.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        size = _number(long.pop(b"size", str(head.size).encode())) if head.type not in NO_CONTENT else 0
        if place + size > end:
            raise ValueError(f"it ends within {name}: it is cut off, or damaged")
        if head.type in (LONG_NAME, EXTENDED):
            long |= _extensions(file, head.type, place, size)
            place += -(-size // BLOCK) * BLOCK
            continue
        if head.type == SPARSE or any(key.startswith(b"GNU.sparse") for key in long):
            raise ValueError(f"{name} is stored as a sparse file; write it without gaps")
        elif head.isreg():
            yield TarMember(name, place, size)
        elif head.type in NO_CONTENT and head.type != tarfile.DIRTYPE:
            others.append(name)
        if head.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):  # which are between a name and its member
            long.clear()
        last = name
        place += -(-size // BLOCK) * BLOCK
    if not ended:
        raise ValueError(f"it ends after {last} without the end mark of tar files: it is cut off")


def _check_start(block: bytes) -> None:
    if kind := next((kind for start, kind in COMPRESSED.items() if block.startswith(start)), None):
        raise ValueError(f"it is compressed with {kind}; decompress it, since pictures are compressed anyway")


def _header(block: bytes, last: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        where = "it is not a tar file" if last == "its start" else f"it is damaged after {last}"
        raise ValueError(where) from error


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ValueError(f"a member declares a size of {text[:20]!r}")
    return int(text)


def _extensions(file: IO[bytes], kind: bytes, place: int, size: int) -> dict[bytes, bytes]:
    """Return what a header says about the next one: its name, its size and the like."""
    if size > MOST_BYTES:
        raise ValueError(f"it has an extended header of {size:,} bytes; at most {MOST_BYTES:,} are read")
    file.seek(place)
    content = file.read(size)
    if kind == LONG_NAME:
        return {b"path": content.split(b"\0")[0]}
    found, place = {}, 0
    while match := RECORD.match(content, place):
        if (stop := place + int(match[1])) <= match.end() or stop > len(content):
            raise ValueError("it has a damaged extended header")
        found[match[2]] = content[match.end() : stop - 1]
        place = stop
    return {key: value for key, value in found.items() if key in (b"path", b"size") or key.startswith(b"GNU.sparse")}
