"""The command line: Hydra, with every mistake answered by one sentence. Torch is not imported here, so help is quick."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.errors import ZooError, choices

Story = Callable[[DictConfig], None]


def command(config_name: str) -> Callable[[Story], Callable[[], None]]:
    """Turn `story(cfg)` into a command that composes configs/<config_name>.yaml beside the story's own file.

    Exit codes: 0 done; 2 bad input, nothing touched; 1 a run failed; 130 and 143 stopped by Ctrl-C and SIGTERM; of a
    sweep the highest of its runs. HYDRA_FULL_ERROR=1 shows tracebacks.
    """

    def decorate(story: Story) -> Callable[[], None]:
        configs = Path(story.__code__.co_filename).resolve().parent / "configs"

        def main() -> None:
            full = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra raise its errors, so that they can be told here
            codes = []

            def job(cfg: DictConfig) -> None:
                try:
                    story(cfg)
                except Exception as error:  # kept from Hydra, which would print a line of its own
                    if full:
                        raise
                    codes.append(tell(error, configs, config_name))  # and the other runs of a sweep go on

            try:
                hydra.main(version_base="1.3", config_path=str(configs), config_name=config_name)(job)()
            except (Exception, KeyboardInterrupt) as error:
                if full:
                    raise
                codes.append(tell(error, configs, config_name))
            if codes:
                sys.exit(max(codes))

        return main

    return decorate


def tell(error: BaseException, configs: Path, config_name: str) -> int:
    """Print the sentence for an error, or the traceback of one that nobody foresaw, and give the exit code."""
    code = error.exit_code if isinstance(error, ZooError) else 130 if isinstance(error, KeyboardInterrupt) else 2
    if isinstance(error, ZooError):
        sentence = str(error)
    elif isinstance(error, KeyboardInterrupt):
        sentence = "stopped by Ctrl-C before there was anything to save"
    elif isinstance(error, HydraException | OmegaConfBaseException):
        sentence = _config_sentence(error, configs, config_name)
    elif isinstance(error, OSError) and error.strerror:
        code, where = 1, f": {error.filename}" if error.filename else ""
        sentence = f"{error.strerror}{where}; what was saved before is whole"
    else:
        traceback.print_exception(error)
        return 1
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _config_sentence(error: Exception, configs: Path, config_name: str) -> str:
    """Say what was wrong with a group, an option, a key or a value, and which are right."""
    first_line = str(error).strip().splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: there is no such {group}; {choices(option, error.options or [])}"
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is no override of the form key=value: {first_line}"
    if match := re.match(r"Could not override '([^']+)'", first_line):
        key = match.group(1).split("@")[0]
        parent, nearest = _valid_keys(key, configs, config_name)
        return f"there is no setting '{key}'; in {parent or 'the config'} {choices(key, nearest)}"
    if match := re.match(r"Missing mandatory value: (\S+)", first_line):
        return f"{match.group(1)} is not given; {config_name}.py needs {match.group(1)}=..."
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        first_line += f" ({str(error.__cause__).strip().splitlines()[0]})"
    return first_line


def _valid_keys(key: str, configs: Path, config_name: str) -> tuple[str, list[str]]:
    """Give the deepest part of `key` that exists, and the full names of all settings below it."""
    settings = dict(_leaves(_compose_without(key, configs, config_name)))
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


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every setting of a config as a dotted name and its value, interpolations unresolved."""
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

