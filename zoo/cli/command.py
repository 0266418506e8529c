"""The command line: Hydra, with one-line errors. torch is not imported here, so that help is fast."""

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from zoo import distributed, escape
from zoo.cli import settings
from zoo.cli.help import help_text, wants_help
from zoo.cli.messages import config_sentence, print_error, report_error
from zoo.errors import BadInput, Interrupted
from zoo.instantiate import trusting
from zoo.paths import CONFIGS

# Makes torch use huge pages for large tensors: page faults are a twentieth of ResNet-20's time on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
VALUED = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"}
Story = Callable[[DictConfig], Any]


def command(
    config_name: str,
    after_sweep: Callable[[list[Any]], None] | None = None,
    reword: Callable[[list[str]], list[str]] = list,
) -> Callable[[Story], Callable[[], None]]:
    """Turn `story(cfg)` into a command that composes configs/<config_name>.yaml.

    After a sweep, `after_sweep` gets the return values of those of its runs that did not fail. `reword` turns
    arguments that are not overrides into overrides.

    Exit codes: 0 done; 2 bad input, nothing changed; 1 a run failed; 3 its loss became NaN; 130 and 143 stopped by
    Ctrl-C and SIGTERM; a sweep returns the highest code of its runs. HYDRA_FULL_ERROR=1 shows tracebacks.
    """

    def decorate(story: Story) -> Callable[[], None]:
        def main() -> None:
            distributed.die_with_launcher()
            if wants_help(sys.argv[1:]):
                print(help_text(config_name, story.__globals__["__doc__"]))
                return
            with _process_settings() as full:
                invocation = _Invocation(config_name, story, full)
                invocation.run(reword, after_sweep)
            if invocation.codes:
                sys.exit(max(invocation.codes))

        return main

    return decorate


class _Invocation:
    """One call of a command: its runs' return values, and the exit codes of those that failed."""

    def __init__(self, config_name: str, story: Story, full: bool) -> None:
        self.config_name, self.story, self.full = config_name, story, full
        self.codes: list[int] = []
        self.results: list[Any] = []

    def run(self, reword: Callable[[list[str]], list[str]], after_sweep: Callable[[list[Any]], None] | None) -> None:
        try:
            _check_processes()
            _check_braces()
            sys.argv[1:] = _flags_first(reword(sys.argv[1:]))
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=self.config_name)(self.job)()
            if after_sweep and len(self.results) > 1:
                after_sweep(self.results)
            sys.stdout.flush()
        except BrokenPipeError as error:
            self.codes.append(report_error(error))
        except KeyboardInterrupt:
            self.codes.append(print_error("stopped by Ctrl-C; what was saved before is whole", 130))
        except Stopped as stop:
            self.codes.append(print_error("stopped by SIGTERM; what was saved before is whole", stop.code))
        except (BadInput, PermissionError, NotADirectoryError, FileExistsError) as error:
            self.codes.append(report_error(error))
        except Exception as error:  # raised by Hydra while composing the config
            if self.full:
                raise
            self.codes.append(print_error(config_sentence(error, CONFIGS, self.config_name), BadInput.exit_code))

    def job(self, cfg: DictConfig) -> None:
        """One run, of several in a sweep, of which the others go on if it fails."""
        try:
            settings.check(self.config_name, cfg)
            with trusting(cfg.get("trusted") or ()):
                self.results.append(self.story(cfg))
        except Interrupted as error:  # also ends a sweep
            sys.exit(report_error(error))
        except SystemExit as exit_:
            if isinstance(exit_.__context__, KeyboardInterrupt):  # Lightning's answer outside of a step
                sys.exit(print_error("stopped by Ctrl-C; files saved before are intact", 130))
            if not isinstance(exit_.__context__, BrokenPipeError):  # raised by Rich
                raise
            self.codes.append(report_error(exit_.__context__))
        except Exception as error:  # hidden from Hydra, which would print another line
            if self.full:
                raise
            self.codes.append(report_error(error))


@contextlib.contextmanager
def _process_settings() -> Iterator[bool]:
    """Take over errors and SIGTERM from Hydra and Python; yield whether the user asked for tracebacks."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra raise its errors, so that they can be reported here
    hook, threading.excepthook = threading.excepthook, _leave_to_main
    if logging.lastResort:  # prints warnings of commands without a log file
        logging.lastResort.setFormatter(escape.Formatter())
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of a CUDA_HOME without a GPU
    sigterm = signal.signal(signal.SIGTERM, _stop)  # during training, callbacks.resume has its own
    try:
        yield before == "1"
    finally:
        threading.excepthook = hook
        signal.signal(signal.SIGTERM, sigterm)
        os.environ["HYDRA_FULL_ERROR"] = before or "0"


def _check_processes() -> None:
    distributed.check_numbers()
    if distributed.started_together() and {"-m", "--multirun"} & set(sys.argv[1:]):
        raise BadInput(
            "a sweep starts the processes of each run itself: without torchrun or srun, "
            "python train.py -m ... trainer.devices=N"
        )
    distributed.check_all_there()


def _check_braces() -> None:
    """Raise BadInput for shards in braces that the shell expanded to several settings, whose last would count."""
    keys = [argument.partition("=")[0] for argument in sys.argv[1:]]
    if several := [key for key in keys if key.endswith("urls") and keys.count(key) > 1]:
        raise BadInput(
            f"{several[0]} is set {len(several)} times, as by a shell that expands braces; quote it: "
            f"'{several[0]}=\"train-{{000..009}}.tar\"'"
        )


def first_word_as(key: str) -> Callable[[list[str]], list[str]]:
    """Return a function that turns a first argument that is no setting, such as a path or zoo:NAME, into `key=...`."""

    def reword(arguments: list[str]) -> list[str]:
        if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
            return arguments
        return [f"{key}={QuotedString(arguments[0], Quote.single).with_quotes()}", *arguments[1:]]

    return reword


def words_as(key: str) -> Callable[[list[str]], list[str]]:
    """Return a function that collects positional arguments, such as paths, in a list setting `key=[...]`."""

    def reword(arguments: list[str]) -> list[str]:
        settings: list[str] = []
        words: list[str] = []
        for before, argument in itertools.pairwise(["", *arguments]):
            is_setting = argument.startswith("-") or before.startswith("-") or "=" in argument
            (settings if is_setting and not os.path.exists(argument) else words).append(argument)
        if words and any(setting.startswith(f"{key}=") for setting in settings):
            raise BadInput(f"{key}: expected it once, got {key}=... and the arguments {' '.join(words[:3])}")
        quoted = ",".join(QuotedString(word, Quote.single).with_quotes() for word in words)
        return [*settings, f"{key}=[{quoted}]"] if words else settings

    return reword


def others_as(key: str, own: Sequence[str]) -> Callable[[list[str]], list[str]]:
    """Return a function that collects settings other than `own` and Hydra's in a list setting `key=['a=b',...]`."""

    def reword(arguments: list[str]) -> list[str]:
        kept: list[str] = []
        others: list[str] = []
        for before, argument in itertools.pairwise(["", *arguments]):
            name = argument.partition("=")[0]
            is_own = argument.startswith("-") or before in VALUED or name.partition(".")[0] in (*own, "hydra")
            (kept if is_own or "=" not in argument else others).append(argument)
        quoted = ",".join(QuotedString(other, Quote.single).with_quotes() for other in others)
        return [*kept, f"{key}=[{quoted}]"] if others else kept

    return reword


def _flags_first(arguments: list[str]) -> list[str]:
    """Move flags, such as -m or --cfg job, in front of the overrides, the only place where Hydra reads them."""
    pairs = list(itertools.pairwise(["", *arguments]))
    is_flag = [argument.startswith("-") or (before in VALUED and "=" not in argument) for before, argument in pairs]
    return [a for a, is_one in sorted(zip(arguments, is_flag, strict=True), key=lambda pair: not pair[1])]


class Stopped(SystemExit):
    """End the process on SIGTERM; not an Exception, since libraries swallow those."""

    code: int


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(128 + signum)


def _leave_to_main(failed: threading.ExceptHookArgs) -> None:
    """Ignore OSErrors of writer threads, such as a full disk, which are also raised in the main thread."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)
