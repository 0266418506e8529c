"""The model and data of a run that starts from a file's weights: the file's own, unless set on the command line."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from zoo import distributed, escape
from zoo.catalogue import chosen_by
from zoo.checkpoint.named_files import file_of, newest
from zoo.errors import BadInput
from zoo.instantiate import trusting
from zoo.paths import CONFIG, CONFIGS

# Settings of a net and its data that are not taken from the file: initial weights, sizes given by the data, and the
# shorter side, which depends on data.image_size.
OTHERS = (
    *("model.init", "model.pretrained", "model.freeze", "data.resize"),
    *("num_classes", "num_source_tokens", "num_target_tokens"),
)
PLACES = ("root", "path", "table", "images", "download", "num_workers")  # always the user's choice, never the file's

GROUPS = ("model", "data")


def with_those_of_file(arguments: list[str]) -> list[str]:
    """Add the model=, data= and settings of the `init_from` file to a command line that does not set them.

    `init_from` and `resume` become the path of a file and of a run folder, if they name a folder of runs. A sweep over
    files needs files whose settings are the same. Raises BadInput for others.
    """
    given = {key.lstrip("+~"): value for key, _, value in (a.partition("=") for a in arguments)}
    if resumed := _values(given, "resume"):
        return _with(arguments, "resume", resumed, [_run_folder(one) for one in resumed])
    named = _values(given, "init_from")
    files = [str(file_of(one)) for one in named]
    if not files or not all(Path(file).exists() for file in files):
        return arguments
    packages = OmegaConf.from_dotlist([f"trusted={given.get('trusted', '[]')}"]).trusted
    with trusting(packages if OmegaConf.is_list(packages) else ()):
        taken = [_settings_of(file, arguments, given) for file in files]
    for file, theirs in zip(files, taken, strict=True):
        if different := sorted(set(theirs) ^ set(taken[0])):
            raise BadInput(
                f"init_from: {files[0]} and {file} have different settings ({different[0].lstrip('+')}); "
                "set model=... and data=..., or start one run for each file"
            )
    if taken[0] and distributed.rank() == 0:
        print(escape.line(f"Set by the file of init_from: {' '.join(one.lstrip('+') for one in taken[0])}"))
    return [*_with(arguments, "init_from", named, files), *taken[0]]


def _values(given: Mapping[str, str], key: str) -> list[str]:
    """Return the paths that a command line sets a key to: one, or several in a sweep."""
    if not given.get(key):
        return []
    try:
        (override,) = OverridesParser.create().parse_overrides([f"{key}={given[key]}"])
    except OverrideParseException:
        return []  # Hydra reports it
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return [str(value) for value in values if value is not None]


def _run_folder(named: str) -> str:
    found = None if (Path(named) / CONFIG).is_file() else newest(Path(named), CONFIG)
    return str(found.parent) if found else named


def _with(arguments: list[str], key: str, before: list[str], values: list[str]) -> list[str]:
    """Return the command line with other values of a key: one, or several for a sweep."""
    if values == before:
        return arguments
    others = [a for a in arguments if a.partition("=")[0].lstrip("+~") != key]
    return [*others, f"{key}={','.join(map(as_word, values))}"]


def _settings_of(file: str, arguments: list[str], given: Mapping[str, str]) -> list[str]:
    """Return the settings of a file that a command line does not set, as words of a command line."""
    places = [CONFIGS, *_config_dirs(arguments)]
    experiment = CONFIGS / "experiment" / f"{given.get('experiment', '')}.yaml"
    chosen = given.keys() | (chosen_by(experiment).keys() if experiment.is_file() else set())
    groups = [group for group in GROUPS if group not in chosen]
    if not groups:
        return []

    from zoo.checkpoint.product_file import read_product  # here, since torch takes seconds to import
    from zoo.checkpoint.stored_config import check_stored

    config = read_product(file).facts["config"]
    taken = []
    for group in groups:
        check_stored(config[group], group)
        option = config["choices"].get(group)
        if option not in {path.stem for place in places for path in (place / group).glob("*.yaml")}:
            raise BadInput(f"init_from={file}: there is no {group}={option}, which the file names; set {group}=...")
        taken.append(f"{group}={option}")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        usual = hydra.compose("train", [*taken, f"hydra.searchpath={as_word([f'file://{one}' for one in places[1:]])}"])
    theirs = {group: config[group] for group in groups}
    for key, value in _changed(theirs, usual):
        place = key.rpartition(".")[2] in PLACES or (key == "data.split" and isinstance(value, Mapping))  # of files
        if not place and not {key, key.rpartition(".")[2]} & set(OTHERS) and not _is_said(key, given):
            taken.append(f"++{key}={as_word(value)}")
    return taken


def _config_dirs(arguments: list[str]) -> list[Path]:
    """Return the folder of --config-dir, in a list, if there is one."""
    named = [a.partition("=")[2] for a in arguments if a.startswith("--config-dir=")]
    named += [a for before, a in itertools.pairwise(arguments) if before in ("--config-dir", "-cd")]
    return [Path(one).absolute() for one in named]


def _is_said(key: str, given: Mapping[str, str]) -> bool:
    return any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in given)


def _changed(theirs: Mapping[str, Any], usual: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a file that differ from the defaults, except for interpolated ones."""
    for name, value in theirs.items():
        if name in usual and OmegaConf.is_interpolation(usual, name):
            continue
        known = None if name not in usual or OmegaConf.is_missing(usual, name) else usual[name]
        if isinstance(value, Mapping) and OmegaConf.is_dict(known):
            yield from _changed(value, known, f"{prefix}{name}.")
        elif name not in usual or known != value:
            yield f"{prefix}{name}", value


def as_word(value: Any) -> str:
    """Write a plain value in the syntax of a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_word(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(as_word, value))}]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else repr(value)
