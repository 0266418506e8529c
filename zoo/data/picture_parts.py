"""Pictures inside of larger files, such as shards: named as files are, and read without what is around them."""

import io
import os
import time
from pathlib import Path
from typing import IO, Any

from zoo.errors import BadInput, reason

MOST_BYTES = 1 << 30  # of one picture
BLOCK = 4 << 20  # bytes to request at a time where a remote file is read from its start
SECONDS_BETWEEN_TRIES = (0, 1, 4)  # to read from a server


class PicturePart(str):
    """The name of a picture inside of a larger file, used in place of a path: `shards/train-000.tar/cat/01.jpg`.

    The picture is `size` bytes from `offset` of `file`, a path or an http(s) URL.
    """

    __slots__ = ("file", "offset", "size")
    file: str
    offset: int
    size: int

    def __new__(cls, name: str, file: str, offset: int, size: int) -> "PicturePart":
        part = super().__new__(cls, name)
        part.file, part.offset, part.size = file, offset, size
        return part

    def __reduce__(self) -> tuple[Any, ...]:
        return PicturePart, (str(self), self.file, self.offset, self.size)

    def read(self) -> bytes:
        """Return the bytes; raise OSError or ValueError if they cannot be read, and BadInput if a server fails."""
        if self.size > MOST_BYTES:
            raise ValueError(f"it has {self.size:,} bytes; at most {MOST_BYTES:,} are read")
        if is_remote(self.file):
            return _requested(self)
        with open(self.file, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.size, self.offset)
        if len(content) < self.size:
            raise ValueError(f"{self.file} ends within it")
        return content


def is_remote(file: str) -> bool:
    return file.startswith(("http://", "https://"))


def open_picture(path: str) -> IO[bytes]:
    """Open a file, or a part of one, for reading."""
    return io.BytesIO(path.read()) if isinstance(path, PicturePart) else open(path, "rb")


def content_of(path: str) -> bytes:
    """Return the bytes of a file, or of a part of one."""
    return path.read() if isinstance(path, PicturePart) else Path(path).read_bytes()


def size_of(path: str) -> int:
    """Return the number of bytes of a file, or of a part of one."""
    return path.size if isinstance(path, PicturePart) else os.path.getsize(path)


def open_remote(url: str) -> IO[bytes]:
    """Open a remote file, whose position can be set; raise OSError or ValueError if the server does not allow that."""
    file: IO[bytes] = _server().open(url, "rb", block_size=BLOCK, cache_type="readahead")
    if not file.seekable():
        file.close()
        raise ValueError("the server does not tell its size")
    return file


def _server() -> Any:
    """Return a client that keeps connections open, and is the same for later calls in this process."""
    import fsspec

    return fsspec.filesystem("http")


def _requested(part: PicturePart) -> bytes:
    for seconds in SECONDS_BETWEEN_TRIES:
        time.sleep(seconds)
        try:
            content: bytes = _server().cat_file(part.file, part.offset, part.offset + part.size)
        except Exception as error:  # the client may raise anything if a connection breaks
            why = reason(error)
            continue
        if len(content) == part.size:
            return content
        why = f"it sent {len(content):,} bytes instead of {part.size:,}; servers must support ranges"
    raise BadInput(f"data.urls: {part} cannot be read ({why})")
