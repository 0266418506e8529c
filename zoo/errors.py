"""Errors that are shown to the user as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from zoo import escape

LONGEST_SHOWN = 80  # characters of a value in a message
NOT_ON_RESUME = "cannot be set with resume, which keeps the run's own config except for trainer.*"


class ZooError(Exception):
    """Base class: one sentence saying what went wrong and how to fix it; the process ends with `exit_code`."""

    exit_code = 1


class BadInput(ZooError):
    """Invalid user input: the message gives the value and what is accepted; nothing was changed."""

    exit_code = 2


class Diverged(ZooError):
    """The loss became NaN or infinite, because of the settings and not because of a bug."""

    exit_code = 3


class Interrupted(ZooError):
    """A signal ended the run after its state was saved; the exit code is 128 + signal number, as in shells."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise BadInput as ValueError of one line, which callers from Python expect; also a decorator."""
    try:
        yield
    except BadInput as error:
        raise ValueError(escape.line(error)) from error


def require(holds: bool, key: str, expected: str, value: object) -> None:
    """Raise BadInput with the key, what is expected and the value unless something holds of an argument."""
    if not holds:
        raise BadInput(f"{key}: expected {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """Return a plain value as Python writes it, shortened, and the type of any other value, such as `list`."""
    is_plain = isinstance(value, str | bytes | int | float | None)
    return escape.shortened(repr(value), LONGEST_SHOWN) if is_plain else type(value).__name__


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(num: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `1,000 files`, `2 classes`."""
    plural = "" if num == 1 else "es" if noun.endswith("s") else "s"
    return f"{num:,} {noun}{plural}"


def nearest(word: str, valid: Iterable[str]) -> list[str]:
    """Return up to three of the valid words that are close to `word`, as after a typo."""
    return difflib.get_close_matches(word, sorted(set(valid)), n=3, cutoff=0.6)


def choices(word: str, valid: Iterable[str]) -> str:
    """Return a hint with the valid words closest to `word`, or all of them if none is close."""
    valid = sorted(set(valid))
    if near := nearest(word, valid):
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(valid)}" if valid else "there is nothing to choose from"
