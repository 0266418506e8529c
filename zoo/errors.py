"""The errors that are shown to a person as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


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


def kept_on_resume(override: str) -> BadInput:
    """Refuse an override of what a resumed run keeps, whether or not the command line has such a setting."""
    return BadInput(
        f"{override} cannot be given with resume: a run keeps its settings and its data, and only trainer.* may be "
        "changed; with others begin a new run, by init_from=RUN/model.safetensors"
    )


def reason(error: BaseException) -> str:
    """Give the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(num: int, what: str) -> str:
    """Write how many there are of something that takes an s: 1 file, 2,000 files."""
    return f"{num:,} {what}{'s' * (num != 1)}"


def choices(word: str, valid: Iterable[str]) -> str:
    """Name the valid words nearest to `word`, or all of them where none is near."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(word, valid, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(valid)}" if valid else "there is nothing to choose from"
