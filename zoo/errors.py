"""The errors that are shown to a person as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable

NOT_ON_RESUME = "cannot be given with resume, which keeps the run's own config but for trainer.*"


class ZooError(Exception):
    """Say in one sentence what went wrong and what would help; the process ends with `exit_code`."""

    exit_code = 1


class BadInput(ZooError):
    """Say what came and what would do; the person's input is at fault, and nothing was touched."""

    exit_code = 2


class Diverged(ZooError):
    """Say that a run's loss left the finite numbers, which its settings are to blame for, and no fault."""

    exit_code = 3


class Interrupted(ZooError):
    """Say that a signal ended the run after its state was saved; exits with 128 + the signal's number, as shells do."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(num: int, noun: str) -> str:
    """Say how many there are of something: `1 file`, `1,000 files`, `2 classes`."""
    plural = "" if num == 1 else "es" if noun.endswith("s") else "s"
    return f"{num:,} {noun}{plural}"


def nearest(word: str, valid: Iterable[str]) -> list[str]:
    """Return up to three of the valid words that are close to `word`, as after a typo."""
    return difflib.get_close_matches(word, sorted(set(valid)), n=3, cutoff=0.6)


def choices(word: str, valid: Iterable[str]) -> str:
    """Name the valid words nearest to `word`, or all of them where none is near."""
    valid = sorted(set(valid))
    if near := nearest(word, valid):
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(valid)}" if valid else "there is nothing to choose from"
