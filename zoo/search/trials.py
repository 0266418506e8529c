"""A trial as a process of train.py with its own run folder, from which the search reads the results."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from zoo import distributed
from zoo.compare.learning_curve import curve
from zoo.errors import Diverged
from zoo.paths import CONFIG, RESULT, commands
from zoo.records.config_file import read_config
from zoo.records.json_files import read_result
from zoo.search.objectives import Objectives

OUTPUT = "output.txt"
SECONDS_TO_STOP = 120  # for the current step or validation


class TrialRun:
    """Start or resume the training of a trial in `place`, runs/<study>/trial_<number>; it dies with this process.

    An existing run folder is resumed. On a CPU, the result is that of an uninterrupted run.
    """

    def __init__(self, place: Path, overrides: Sequence[str], environment: dict[str, str]) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        there = self.folder
        if there:
            line = [f"resume={_quoted(there)}", f"trusted=[{','.join(map(_quoted, _named(overrides)))}]"]
        else:
            line = [*overrides, f"name={place.name}", f"runs={_quoted(place.parent)}"]
        with open(place / OUTPUT, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(commands()["train"]), *line],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that only the search gets Ctrl-C, and passes it on
                preexec_fn=distributed.dying_with(os.getpid()),
            )

    @property
    def folder(self) -> Path | None:
        """The run folder, once it exists."""
        return run_folder(self.place)

    @property
    def max_epochs(self) -> int:
        assert self.folder is not None
        epochs: int = read_config(self.folder / CONFIG)["trainer"]["max_epochs"]
        return epochs

    def epochs(self, metric: str) -> list[tuple[int, float]]:
        """Return the validations so far as (epoch, value)."""
        return [] if self.folder is None else curve(self.folder, metric)

    def stop(self) -> None:
        """Send SIGTERM, on which the run saves and exits."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def wait(self) -> None:
        """Wait until a stopped run has ended, and kill it after a timeout."""
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def values(self, objectives: Objectives) -> list[float] | None:
        """Return the values of the product that a run kept, or None if it has no result or one is not finite."""
        if self.process.returncode or self.folder is None:
            return None
        return objectives.values(read_result(self.folder / RESULT))

    @property
    def diverged(self) -> bool:
        return self.process.returncode == Diverged.exit_code

    @property
    def last_words(self) -> str:
        """The last line of output, which is the reason of a failure."""
        if self.process.returncode < 0:
            return f"killed by {signal.Signals(-self.process.returncode).name}"
        lines = (self.place / OUTPUT).read_text(errors="replace").strip().splitlines()
        return lines[-1].strip().removeprefix("error: ") if lines else f"exit code {self.process.returncode}"


def name_of(number: int) -> str:
    """Return the name of a trial, of which the runs are in runs/<study>/<name>."""
    return f"trial_{number:03}"


def run_folder(place: Path) -> Path | None:
    """Return the run folder of a trial in runs/<study>/trial_<number>, or None if there is none."""
    return next((path.parent for path in sorted(place.glob(f"*/{CONFIG}"))), None)


def _named(overrides: Sequence[str]) -> list[Path | str]:
    """Return the paths and packages in the user's overrides, which a resumed trial may use as well."""
    pairs = [(key, value.strip("'\"")) for key, _, value in (one.partition("=") for one in overrides)]
    places: list[Path | str] = [value for _, value in pairs if os.path.isabs(value) or value.startswith("..")]
    return places + [value.rpartition(".")[0] for key, value in pairs if key.endswith("._target_")]


def _quoted(path: Path | str) -> str:
    return QuotedString(str(path), Quote.single).with_quotes()
