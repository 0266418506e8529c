"""A trial as a process of train.py in a run folder of its own, which is all that a search learns of it."""

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from zoo import distributed
from zoo.compare.runs import curve
from zoo.errors import Diverged
from zoo.paths import CONFIG, RESULT, commands
from zoo.records.config_file import read_config
from zoo.records.json_files import read_result

OUTPUT = "output.txt"
SECONDS_TO_STOP = 120  # for the step or the validation in hand


class TrialRun:
    """Start or go on with the training of a trial in `place`, runs/<study>/trial_<number>; dies with this process.

    A run folder that is there already is resumed, and ends, on a CPU, as if it had never been interrupted.
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
                start_new_session=True,  # so that Ctrl-C comes to the search alone, which passes it on
                preexec_fn=distributed.dying_with(os.getpid()),
            )

    @property
    def folder(self) -> Path | None:
        """The run folder, once the run has made it."""
        return next((path.parent for path in sorted(self.place.glob(f"*/{CONFIG}"))), None)

    @property
    def max_epochs(self) -> int:
        assert self.folder is not None
        epochs: int = read_config(self.folder / CONFIG)["trainer"]["max_epochs"]
        return epochs

    def epochs(self, metric: str) -> list[tuple[int, float]]:
        """Return the validations so far as (epoch, value)."""
        return [] if self.folder is None else curve(self.folder, metric)

    def stop(self) -> None:
        """Ask the run to save and to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def wait(self) -> None:
        """Wait until a run that was stopped has ended, and end one that does not."""
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def value(self, metric: str) -> float | None:
        """Return the validation metric of the weights that a run has kept, or None where it has come to no result."""
        if self.process.returncode or self.folder is None:
            return None
        value = read_result(self.folder / RESULT)["validation"].get(metric.removeprefix("val/"))
        return value if value is not None and math.isfinite(value) else None

    @property
    def diverged(self) -> bool:
        return self.process.returncode == Diverged.exit_code

    @property
    def last_words(self) -> str:
        """What the run said last, which is why it failed, if it did."""
        if self.process.returncode < 0:
            return f"killed by {signal.Signals(-self.process.returncode).name}"
        lines = (self.place / OUTPUT).read_text(errors="replace").strip().splitlines()
        return lines[-1].strip().removeprefix("error: ") if lines else f"exit code {self.process.returncode}"


def _named(overrides: Sequence[str]) -> list[Path | str]:
    """Return the places and the classes that the person's own overrides name, which a resumed trial may use, too."""
    pairs = [(key, value.strip("'\"")) for key, _, value in (one.partition("=") for one in overrides)]
    places: list[Path | str] = [value for _, value in pairs if os.path.isabs(value) or value.startswith("..")]
    return places + [value.rpartition(".")[0] for key, value in pairs if key.endswith("._target_")]


def _quoted(path: Path | str) -> str:
    return QuotedString(str(path), Quote.single).with_quotes()
