"""The command line: Hydra, with every mistake answered by one sentence. No torch here, so that help is quick."""

import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from zoo import escape, ranks
from zoo.errors import BadInput, Interrupted, ZooError, choices, reason

# Has torch take large tensors in huge pages, since faults of small ones are a twentieth of ResNet-20's time on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

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
            before = os.environ.get("HYDRA_FULL_ERROR")
            full = before == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra raise its errors, so that they can be told here
            sigterm = signal.signal(signal.SIGTERM, _stop)  # while training, callbacks.resume has its own
            codes: list[int] = []
            results: list[Any] = []

            def job(cfg: DictConfig) -> None:
                try:
                    results.append(story(cfg))
                except Interrupted as error:  # ends a sweep, too
                    sys.exit(tell(error))
                except SystemExit as exit_:
                    if isinstance(exit_.__context__, KeyboardInterrupt):  # Lightning's answer where no step is in hand
                        sys.exit(_say("stopped by Ctrl-C at once; what was saved before is whole", 130))
                    raise
                except Exception as error:  # kept from Hydra, which would print a line of its own
                    if full:
                        raise
                    codes.append(tell(error))  # and the other runs of a sweep go on

            try:
                if ranks.started_together() and {"-m", "--multirun"} & set(sys.argv[1:]):
                    raise BadInput(
                        "a sweep starts the processes of each run by itself: without torchrun or srun, "
                        "python train.py -m ... trainer.devices=N"
                    )
                sys.argv[1:] = reword(sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(configs), config_name=config_name)(job)()
                if after_sweep and len(results) > 1:
                    after_sweep(results)
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


class Stopped(SystemExit):
    """End the process on SIGTERM from wherever it is; no Exception, which libraries swallow."""

    code: int


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(128 + signum)


def tell(error: Exception) -> int:
    """Print the sentence for an error of a run, or the traceback of one that nobody foresaw, and give the exit code."""
    if isinstance(error, ZooError):
        return _say(str(error), error.exit_code)
    if isinstance(error, OmegaConfBaseException):
        return _say(_config_sentence(error), BadInput.exit_code)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return _say(f"{error.strerror}{where}; what was saved before is whole", ZooError.exit_code)
    if isinstance(error, RuntimeError) and ranks.world_size() > 1 and re.search("gloo|NCCL|by peer", str(error)):
        lost = f"process {ranks.rank()} lost its connection to another, and so it ended ({reason(error)})"
        return _say(f"{lost}; resume= and the run's folder goes on", ZooError.exit_code, lost=True)
    traceback.print_exception(error)
    ranks.LastWords(f"{type(error).__name__}, as the traceback above says", ZooError.exit_code).leave()
    return ZooError.exit_code


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
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: there is no such {group}; {choices(option, error.options or [])}"
    if configs and isinstance(error, ValueError):  # Hydra's word for model=5, which names neither
        for key, _, option in (argument.partition("=") for argument in sys.argv[1:]):
            options = [path.stem for path in (configs / key).glob("*.yaml")]
            if options and option not in options:
                return f"{key}={option}: there is no such {key or 'group'}; {choices(option, options)}"
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is no override of the form key=value: {first_line}"
    if configs and (match := re.match(r"Could not override '([^']+)'", first_line)):
        key = match.group(1).split("@")[0]
        parent, nearest = _valid_keys(key, configs, config_name)
        if any(name.startswith(f"{key}.") for name in nearest):
            return f"'{key}' has no such keys, and a mapping is merged; ~{key} '+{key}={{...}}' replaces it"
        return f"there is no setting '{key}'; in {parent or 'the config'} {choices(key, nearest)}"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        first_line += f" ({reason(error.__cause__)})"
    return first_line


def _valid_keys(key: str, configs: Path, config_name: str) -> tuple[str, list[str]]:
    """Give the deepest part of `key` that exists, and the full names of all settings below it."""
    settings = list(_leaves(OmegaConf.to_container(_compose_without(key, configs, config_name))))
    groups = [path.name for path in configs.iterdir() if path.is_dir()]
    parent = key
    while parent:
        parent = parent.rpartition(".")[0]
        below = [name for name in settings if name.startswith(f"{parent}.")]
        if below:
            return parent, below
    return "", [*groups, *(name.split(".")[0] for name in settings), *settings]


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
        else:
            yield f"{prefix}{name}"
