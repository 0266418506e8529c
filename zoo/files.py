"""Atomic writing of files, and safe opening of regular files only."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from zoo.errors import BadInput

SECONDS_FOR_LOCK = 2  # a process that was just killed may take a moment to end
SPECIAL = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR)  # errors when opening links, pipes and sockets


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file next to `path` for writing, and rename it to `path` once it is safely on disk.

    Whatever happens inside (a full disk, a kill), `path` has either its old content or all of the new.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp creates private files
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; NaN, which JSON does not have, raises ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def open_file(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor; raise BadInput, without blocking, for a pipe, device or folder.

    With `flags` that write, a symbolic link raises BadInput as well, since its target would be written to.
    """
    if flags & (os.O_WRONLY | os.O_RDWR):
        flags |= os.O_NOFOLLOW
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    except OSError as error:
        if error.errno not in SPECIAL:
            raise
        raise BadInput(
            f"{path} is a link, a folder or a special file; expected a regular file; move it away"
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadInput(f"{path} is a folder or a special file; expected a regular file; move it away")
    return handle


def read_file(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the content of a regular file; raise BadInput if it is larger than `most_bytes`."""
    with open(open_file(path), "rb") as file:
        content = file.read(most_bytes + 1) or b""  # None for some files that are not regular
    if len(content) > most_bytes:
        raise BadInput(f"{path} is larger than the limit of {most_bytes:,} bytes for such files; use the original")
    return content


@contextmanager
def locked(path: str | os.PathLike[str], whose: str) -> Iterator[None]:
    """Hold the lock file `path`, released when this process ends; raise BadInput if another process holds it.

    It is a POSIX lock, which forked processes do not inherit.
    """
    with open(open_file(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        patience = time.monotonic() + SECONDS_FOR_LOCK
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    break  # a file system without locks
                if time.monotonic() > patience:
                    raise BadInput(f"{whose} is in use by another process; wait until it ends, or stop it") from error
                time.sleep(0.05)
        yield


def check_no_links(folder: Path) -> None:
    """Raise BadInput unless a folder contains only regular files and folders at all depths, since we write into it."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has been renamed meanwhile
                mode = os.lstat(path).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise BadInput(
                        f"{path} is a link or a special file, and its target would be changed; replace it by a "
                        "regular file"
                    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return plain data for JSON, with NaN and infinities replaced by None."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
