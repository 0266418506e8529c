"""One-line error messages, and their exit codes."""

import difflib
import os
import re
import select
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from zoo import distributed, escape, memory
from zoo.errors import NOT_ON_RESUME, BadInput, ZooError, choices, reason
from zoo.paths import CONFIGS, as_typed
from zoo.records.config_file import leaves


def report_error(error: Exception) -> int:
    """Print the message for an error, or the traceback if it was unexpected, and return the exit code."""
    if isinstance(error, ZooError):
        return print_error(str(error), error.exit_code)
    if isinstance(error, OmegaConfBaseException) and not _is_bug(error):
        return print_error(config_sentence(error), BadInput.exit_code)
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would report it again at exit
        return print_error("the output was closed by its reader; files saved before are intact", ZooError.exit_code)
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        saved = "" if isinstance(error, FileNotFoundError) else "; files saved before are intact"
        return print_error(f"{error.strerror}{where}{saved}", ZooError.exit_code)
    if isinstance(error, RuntimeError) and (died := re.search(r"DataLoader worker \(pid.*\) (\w.*)", str(error))):
        how = str(error.__cause__ or "").strip() or died.group(1)  # the cause's text is empty if torch timed out first
        return print_error(
            f"a data loading worker died ({how.rstrip('.')}); if memory is low, set fewer workers "
            "(data.num_workers) or smaller batches (data.batch_size, data.eval_batch_size), and continue with "
            "resume= and the run folder",
            ZooError.exit_code,
        )
    if memory.is_out_of_memory(error):
        return print_error(f"out of memory ({reason(error)}); files saved before are intact", ZooError.exit_code)
    if isinstance(error, RuntimeError) and distributed.world_size() > 1 and re.search("gloo|NCCL|by peer", str(error)):
        lost = f"process {distributed.rank()} lost its connection to another and stopped ({reason(error)})"
        return print_error(f"{lost}; continue with resume= and the run folder", ZooError.exit_code, lost=True)
    traceback.print_exception(error)
    distributed.LastWords(f"{type(error).__name__}, see the traceback above", ZooError.exit_code).leave()
    return ZooError.exit_code


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe that was closed by its reader, as by `| head -1`."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_bug(error: OmegaConfBaseException) -> bool:
    """Return whether our code looked up a key that no config has, rather than one missing in the input."""
    may_lack = any(argument.startswith(("~", "resume=")) for argument in sys.argv[1:])
    return isinstance(error, ConfigAttributeError | ConfigKeyError) and not may_lack


def print_error(sentence: str, code: int, lost: bool = False) -> int:
    """Print a message once: in the first process, or where zoo.run.launch or torchrun collects it."""
    sentence = as_typed(escape.line(" ".join(sentence.split())))
    has_left = distributed.LastWords(sentence, code, lost).leave()
    is_first = distributed.rank() == 0 and not (has_left and distributed.FOLDER in os.environ)
    if is_first or (distributed.are_connected() and not has_left):
        print(f"error: {sentence}", file=sys.stderr)
    return code


def config_sentence(error: Exception, configs: Path | None = None, config_name: str = "") -> str:
    """Describe a wrong group, option, key or value, and list the valid ones."""
    first_line = reason(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required; set {error.full_key}=..."
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and error.full_key:
        return f"{error.full_key}: is required, but the config does not have it"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = error.options or [path.stem for path in (CONFIGS / group).glob("*.yaml")]  # empty for lists
        return f"{group}={option}: there is no such option; {choices(option, options)}"
    if configs and isinstance(error, ValueError):  # Hydra's error for model=5 names neither
        for key, _, option in (argument.partition("=") for argument in sys.argv[1:]):
            options = [path.stem for path in (configs / key).glob("*.yaml")]
            if options and option not in options:
                return f"{key}={option}: there is no such option; {choices(option, options)}"
    if match := re.match(r"Error resolving interpolation '\$\{optim\}/\$\{model\}'.* keys: (.*)", first_line):
        missing = "model" if "model" not in match.group(1).split(", ") else "optim"
        return f"{missing}: is needed, but ~{missing} removes it"
    if isinstance(error, OverrideParseException):
        return _no_override(str(error.override))
    if match := re.match(r"Ambiguous value for argument '(.*)'$", first_line):
        key, _, value = match.group(1).partition("=")
        return (
            f"{key}: expected one value, got {value}: for a list write {shlex.quote(f'{key}=[{value}]')}, for a string "
            f"{_quoted(key, value)}, and for one run per value add -m"
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
    """Explain how to write an override that Hydra cannot parse; values with special characters need quotes."""
    key, equals, value = text.partition("=")
    sentence = f"'{text}' cannot be read as key=value"
    try:
        OverridesParser.create().parse_override(f"{key}={_in_quotes(value)}")
    except HydraException:
        return sentence
    return f"{sentence}; special characters need quotes: {_quoted(key, value)}" if equals else sentence


def _in_quotes(value: str) -> str:
    return QuotedString(value.strip("'\""), Quote.double).with_quotes()


def _quoted(key: str, value: str) -> str:
    """Quote an override with a string value for the shell."""
    return shlex.quote(f"{key}={_in_quotes(value)}")


def _no_setting(key: str, configs: Path, config_name: str) -> str:
    """Report an unknown setting `key`, with similar names or the same name in other groups as suggestions."""
    known: Any = OmegaConf.to_container(_compose_without(key, configs, config_name))
    every = [name for name, value in leaves(known) if value != {} and not name.endswith("_target_")]
    if any(name.startswith(f"{key}.") for name in every):
        return f"'{key}' has no such keys, and mappings are merged; ~{key} '+{key}={{...}}' replaces it"
    parent = key
    while parent := parent.rpartition(".")[0]:
        if below := [name for name in every if name.startswith(f"{parent}.")]:
            return f"there is no setting '{key}'; in {parent} {choices(key, below)}"
    leaf = key.rpartition(".")[2]
    tops = list(dict.fromkeys(name.split(".")[0] for name in every))
    groups = [path.name for path in configs.iterdir() if path.is_dir() and (path.name in tops or "model" in tops)]
    first = [name for name in (*groups, *tops) if name != key]
    for names in (
        [name for name in every if name.rpartition(".")[2] == leaf],
        difflib.get_close_matches(key, list(dict.fromkeys([*first, *every]))),
        [name for name in every if difflib.get_close_matches(leaf, [name.rpartition(".")[2]])],
    ):
        if names:
            return f"there is no setting '{key}'; did you mean {' or '.join(names[:3])}?"
    return f"there is no setting '{key}'; {choices(key, first)}"


def _compose_without(key: str, configs: Path, config_name: str) -> DictConfig:
    """Compose the config of this command line without the override of `key`."""
    good = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-") and a.split("=")[0].lstrip("+~") != key]
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        try:
            return hydra.compose(config_name, good)
        except HydraException:
            return hydra.compose(config_name)
