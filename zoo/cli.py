"""The command line: Hydra, with every mistake answered by one sentence. No torch here, so that help is quick."""

import difflib
import itertools
import logging
import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from zoo import escape, memory, ranks, settings
from zoo.errors import NOT_ON_RESUME, BadInput, Interrupted, ZooError, choices, reason

# Has torch take large tensors in huge pages, since faults of small ones are a twentieth of ResNet-20's time on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

VALUED = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"}
Story = Callable[[DictConfig], Any]


def command(
    config_name: str,
    after_sweep: Callable[[list[Any]], None] | None = None,
    reword: Callable[[list[str]], list[str]] = list,
) -> Callable[[Story], Callable[[], None]]:
    """Turn `story(cfg)` into a command that composes the checkout's configs/<config_name>.yaml.

    After a sweep, `after_sweep` gets what the story gave for each of its runs that did not fail. `reword` puts into
    Hydra's words what is none of them.

    Exit codes: 0 done; 2 bad input, nothing touched; 1 a run failed; 3 its loss became NaN; 130 and 143 stopped by
    Ctrl-C and SIGTERM; of a sweep the highest of its runs. HYDRA_FULL_ERROR=1 shows tracebacks.
    """

    def decorate(story: Story) -> Callable[[], None]:
        configs = Path(__file__).resolve().parents[1] / "configs"

        def main() -> None:
            ranks.die_with_launcher()
            before = os.environ.get("HYDRA_FULL_ERROR")
            full = before == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra raise its errors, so that they can be told here
            hook, threading.excepthook = threading.excepthook, _leave_to_main
            if logging.lastResort:  # which prints warnings where a command keeps no log
                logging.lastResort.setFormatter(escape.Formatter())
            sigterm = signal.signal(signal.SIGTERM, _stop)  # while training, callbacks.resume has its own
            codes: list[int] = []
            results: list[Any] = []

            def job(cfg: DictConfig) -> None:
                try:
                    settings.check(config_name, cfg)
                    results.append(story(cfg))
                except Interrupted as error:  # ends a sweep, too
                    sys.exit(tell(error))
                except SystemExit as exit_:
                    if isinstance(exit_.__context__, KeyboardInterrupt):  # Lightning's answer where no step is in hand
                        sys.exit(_say("stopped by Ctrl-C at once; what was saved before is whole", 130))
                    if not isinstance(exit_.__context__, BrokenPipeError):  # Rich's answer
                        raise
                    codes.append(tell(exit_.__context__))
                except Exception as error:  # kept from Hydra, which would print a line of its own
                    if full:
                        raise
                    codes.append(tell(error))  # and the other runs of a sweep go on

            try:
                ranks.check_numbers()
                if ranks.started_together() and {"-m", "--multirun"} & set(sys.argv[1:]):
                    raise BadInput(
                        "a sweep starts the processes of each run by itself: without torchrun or srun, "
                        "python train.py -m ... trainer.devices=N"
                    )
                ranks.check_all_there()
                sys.argv[1:] = _flags_first(reword(sys.argv[1:]))
                hydra.main(version_base="1.3", config_path=str(configs), config_name=config_name)(job)()
                if after_sweep and len(results) > 1:
                    after_sweep(results)
                sys.stdout.flush()
            except BrokenPipeError as error:
                codes.append(tell(error))
            except KeyboardInterrupt:
                codes.append(_say("stopped by Ctrl-C; what was saved before is whole", 130))
            except Stopped as stop:
                codes.append(_say("stopped by SIGTERM; what was saved before is whole", stop.code))
            except (BadInput, PermissionError, NotADirectoryError, FileExistsError) as error:
                codes.append(tell(error))
            except Exception as error:  # raised by Hydra while it composed the config
                if full:
                    raise
                codes.append(_say(_config_sentence(error, configs, config_name), BadInput.exit_code))
            finally:
                threading.excepthook = hook
                signal.signal(signal.SIGTERM, sigterm)
                os.environ["HYDRA_FULL_ERROR"] = before or "0"
            if codes:
                sys.exit(max(codes))

        return main

    return decorate


def words_as(key: str) -> Callable[[list[str]], list[str]]:
    """Give what has the words of a command line that are no settings, such as paths, stand in a list, `key=[...]`."""

    def reword(arguments: list[str]) -> list[str]:
        settings: list[str] = []
        words: list[str] = []
        for before, argument in itertools.pairwise(["", *arguments]):
            is_setting = argument.startswith("-") or before.startswith("-") or "=" in argument
            (settings if is_setting and not os.path.exists(argument) else words).append(argument)
        quoted = ",".join(QuotedString(word, Quote.single).with_quotes() for word in words)
        return [*settings, f"{key}=[{quoted}]"] if words else settings

    return reword


def _flags_first(arguments: list[str]) -> list[str]:
    """Move what is no override, such as -m or --cfg job, in front of those that are, where alone Hydra reads it."""
    pairs = list(itertools.pairwise(["", *arguments]))
    is_flag = [argument.startswith("-") or (before in VALUED and "=" not in argument) for before, argument in pairs]
    return [a for a, is_one in sorted(zip(arguments, is_flag, strict=True), key=lambda pair: not pair[1])]


class Stopped(SystemExit):
    """End the process on SIGTERM from wherever it is; no Exception, which libraries swallow."""

    code: int


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(128 + signum)


def _leave_to_main(failed: threading.ExceptHookArgs) -> None:
    """Keep quiet about a full disk or a folder that is gone, which a writer's thread raises in the main one as well."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def tell(error: Exception) -> int:
    """Print the sentence for an error of a run, or the traceback of one that nobody foresaw, and give the exit code."""
    if isinstance(error, ZooError):
        return _say(str(error), error.exit_code)
    if isinstance(error, OmegaConfBaseException) and not _is_bug(error):
        return _say(_config_sentence(error), BadInput.exit_code)
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would tell it again at its end
        return _say("what read the output has closed it; what was saved before is whole", ZooError.exit_code)
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        saved = "" if isinstance(error, FileNotFoundError) else "; what was saved before is whole"
        return _say(f"{error.strerror}{where}{saved}", ZooError.exit_code)
    if isinstance(error, RuntimeError) and (died := re.search(r"DataLoader worker \(pid.*\) (\w.*)", str(error))):
        how = error.__cause__ or died.group(1)
        return _say(
            f"a process that reads pictures died ({str(how).strip().rstrip('.')}); where memory is short, set fewer "
            "(data.num_workers) or smaller batches (data.batch_size, data.eval_batch_size); resume= and the run's "
            "folder goes on",
            ZooError.exit_code,
        )
    if memory.is_lacking(error):
        return _say(f"out of memory ({reason(error)}); what was saved before is whole", ZooError.exit_code)
    if isinstance(error, RuntimeError) and ranks.world_size() > 1 and re.search("gloo|NCCL|by peer", str(error)):
        lost = f"process {ranks.rank()} lost its connection to another, and so it ended ({reason(error)})"
        return _say(f"{lost}; resume= and the run's folder goes on", ZooError.exit_code, lost=True)
    traceback.print_exception(error)
    ranks.LastWords(f"{type(error).__name__}, as the traceback above says", ZooError.exit_code).leave()
    return ZooError.exit_code


def _nobody_reads() -> bool:
    """Tell whether standard output is a pipe whose other end was closed, as `| head -1` does."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_bug(error: OmegaConfBaseException) -> bool:
    """Tell whether our code looked up a key that no config has, rather than one that a person or an old run lacks."""
    may_lack = any(argument.startswith(("~", "resume=")) for argument in sys.argv[1:])
    return isinstance(error, ConfigAttributeError | ConfigKeyError) and not may_lack


def _say(sentence: str, code: int, lost: bool = False) -> int:
    """Print a sentence once: the first process what all would say, and zoo.launch or torchrun what one has left."""
    sentence = escape.line(" ".join(sentence.split()))
    has_left = ranks.LastWords(sentence, code, lost).leave()
    is_first = ranks.rank() == 0 and not (has_left and ranks.FOLDER in os.environ)
    if is_first or (ranks.are_connected() and not has_left):
        print(f"error: {sentence}", file=sys.stderr)
    return code


def _config_sentence(error: Exception, configs: Path | None = None, config_name: str = "") -> str:
    """Say what was wrong with a group, an option, a key or a value, and which are right."""
    first_line = reason(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not given; say {error.full_key}=..."
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and error.full_key:
        return f"{error.full_key}: is needed, and the config has none"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: there is no such {group}; {choices(option, error.options or [])}"
    if configs and isinstance(error, ValueError):  # Hydra's word for model=5, which names neither
        for key, _, option in (argument.partition("=") for argument in sys.argv[1:]):
            options = [path.stem for path in (configs / key).glob("*.yaml")]
            if options and option not in options:
                return f"{key}={option}: there is no such {key or 'group'}; {choices(option, options)}"
    if isinstance(error, OverrideParseException):
        return _no_override(str(error.override))
    if match := re.match(r"Ambiguous value for argument '(.*)'$", first_line):
        key, _, value = match.group(1).partition("=")
        return (
            f"{key}: expected one value, got {value}: as a list write {shlex.quote(f'{key}=[{value}]')}, as a text "
            f"{_quoted(key, value)}, and for a run with each -m in front"
        )
    if configs and (match := re.match(r"Could not override '([^']+)'", first_line)):
        key = match.group(1).split("@")[0]
        if any(argument.startswith("resume=") for argument in sys.argv[1:]) and not key.startswith("trainer."):
            return f"{key} {NOT_ON_RESUME}"
        return _no_setting(key, configs, config_name)
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        first_line += f" ({reason(error.__cause__)})"
    return first_line


def _no_override(text: str) -> str:
    """Say how to write what Hydra's grammar cannot read; values with signs of its own need quotes."""
    key, equals, value = text.partition("=")
    sentence = f"'{text}' cannot be read as key=value"
    try:
        OverridesParser.create().parse_override(f"{key}={_in_quotes(value)}")
    except HydraException:
        return sentence
    return f"{sentence}; a text with such signs needs quotes: {_quoted(key, value)}" if equals else sentence


def _in_quotes(value: str) -> str:
    return QuotedString(value.strip("'\""), Quote.double).with_quotes()


def _quoted(key: str, value: str) -> str:
    """Write an override whose value is a text as a shell takes it."""
    return shlex.quote(f"{key}={_in_quotes(value)}")


def _no_setting(key: str, configs: Path, config_name: str) -> str:
    """Say that there is no setting `key`, and which were meant: near names, or those of other groups that end so."""
    every = list(_leaves(OmegaConf.to_container(_compose_without(key, configs, config_name))))
    if any(name.startswith(f"{key}.") for name in every):
        return f"'{key}' has no such keys, and a mapping is merged; ~{key} '+{key}={{...}}' replaces it"
    parent = key
    while parent := parent.rpartition(".")[0]:
        if below := [name for name in every if name.startswith(f"{parent}.")]:
            return f"there is no setting '{key}'; in {parent} {choices(key, below)}"
    leaf = key.rpartition(".")[2]
    groups = [path.name for path in configs.iterdir() if path.is_dir()]
    first = [*groups, *(name.split(".")[0] for name in every)]
    for names in (
        [name for name in every if name.rpartition(".")[2] == leaf],
        difflib.get_close_matches(key, list(dict.fromkeys([*first, *every]))),
        [name for name in every if difflib.get_close_matches(leaf, [name.rpartition(".")[2]])],
    ):
        if names:
            return f"there is no setting '{key}'; did you mean {' or '.join(names[:3])}?"
    return f"there is no setting '{key}'; {choices(key, first)}"


def _compose_without(key: str, configs: Path, config_name: str) -> DictConfig:
    """Compose the config of this command line less the override of `key`."""
    good = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-") and a.split("=")[0].lstrip("+~") != key]
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        try:
            return hydra.compose(config_name, good)
        except HydraException:
            return hydra.compose(config_name)


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Give every setting of a plain config as a dotted name."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif name != "_target_":
            yield f"{prefix}{name}"
