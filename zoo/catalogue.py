"""Catalogue of nets and recipes, read from the first lines of their configs.

Each config in configs/model starts with its paper and the data it was designed for, and each in configs/experiment
with a description, its source and the published accuracy.
"""

import fnmatch
import functools
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from zoo.errors import BadInput, choices
from zoo.paths import CONFIGS
from zoo.ranges import height_width

HEADER = re.compile(r'# paper: (?P<authors>.*), "(?P<title>.*)", (?P<year>\d{4})\n# made for: (?P<data>data=\S+.*)\n')

MADE_FOR = re.compile(r"^# made for: data=(?P<name>\w+)(?P<settings>.*)$", re.MULTILINE)
RECIPE = re.compile(r"# @package _global_\n# .+\n# source: (?P<source>.+)\n# published: (?P<published>.+)\n")


@dataclass(frozen=True)
class Entry:
    """An image net, and the full config of a run on the data it was designed for."""

    name: str
    authors: str
    title: str
    year: int
    cfg: DictConfig

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width)."""
        return self.cfg.data.in_channels, *height_width(self.cfg.data.image_size)


def _hydra_ready() -> AbstractContextManager[None]:
    if GlobalHydra().is_initialized():
        return nullcontext()
    return hydra.initialize_config_dir(str(CONFIGS), version_base="1.3")


def model_names(pattern: str = "*") -> list[str]:
    """Return the names of configs/model that match a pattern such as `resnet*`, sorted."""
    return sorted(fnmatch.filter((file.stem for file in (CONFIGS / "model").glob("*.yaml")), pattern))


def sizes_made_for(model: str) -> dict[str, Any]:
    """Return num_classes, image_size and so on of the data that a net was made for, by the second line of its config.

    Hydra is not used, since a program that builds a net may have its own Hydra config.
    """
    header = MADE_FOR.search((CONFIGS / "model" / f"{model}.yaml").read_text())
    assert header is not None
    chosen: Any = OmegaConf.to_container(OmegaConf.from_dotlist(header["settings"].split()))
    return _numbers_of(header["name"]) | chosen.get("data", {})


def _numbers_of(data: str) -> dict[str, Any]:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / f"{data}.yaml"))
    node = node.get("data", node)
    bases = [base for base in node.get("defaults", []) if isinstance(base, str)]  # the others choose a net
    numbers = {key: value for key, value in node.items() if value is None or isinstance(value, int)}
    for base in bases:
        numbers = _numbers_of(base.partition("@")[0]) | numbers
    return numbers


def data_settings(name: str) -> dict[str, Any]:
    """Return the settings of a data set in configs/data, as plain data; raise BadInput for an unknown name."""
    names = [file.stem for file in (CONFIGS / "data").glob("*.yaml")]
    if name not in names:
        raise BadInput(f"{name[:80]} is not a data set; {choices(name[:80], names)}")
    with _hydra_ready():
        cfg = hydra.compose("train", [f"data={name}", "name=zoo"])
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return dict(plain["data"])


@functools.cache
def targets() -> dict[str, frozenset[str]]:
    """Return all `_target_`s in the project's own configs, by place in the config of a run; see `place_of`."""
    found: dict[str, set[str]] = {}
    for file in CONFIGS.rglob("*.yaml"):
        node: Any = OmegaConf.to_container(OmegaConf.load(file))
        in_root = file.parent == CONFIGS or file.read_text().startswith("# @package _global_")
        for place, target in _targets(node, "" if in_root else f"{file.relative_to(CONFIGS).parts[0]}."):
            found.setdefault(place_of(place), set()).add(target)
    found["callbacks.*"] |= found["compress.*"]  # configs/compress has callbacks of its own
    return {place: frozenset(names) for place, names in found.items()}


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield prefix.removesuffix("."), node["_target_"]
        for key, part in node.items():
            yield from _targets(part, f"{prefix}{key}.")


def place_of(key: str) -> str:
    """Return the place of a config key, with arbitrary names replaced by `*`, as in `callbacks.*`."""
    for group in ("compress.before_fit", "compress.after_fit", "compress", "callbacks", "task.metrics"):
        if re.fullmatch(rf"{group}\.[^.]+", key):
            return key if key in ("compress.before_fit", "compress.after_fit") else f"{group}.*"
    return key


def needed_of_data(config: str) -> set[str]:
    """Return the data settings that the text of another config refers to, such as num_classes."""
    return set(re.findall(r"\$\{data\.(\w+)\}", config))


def _whole_text(file: Path) -> str:
    """Return the text of a config and of those in its group that it begins with."""
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    bases = [file.with_stem(base) for base in node.get("defaults", []) if isinstance(base, str)]
    return file.read_text() + "".join(_whole_text(base) for base in bases if base.is_file())


def matches(group: str = "model") -> list[tuple[str, str]]:
    """Return all pairs of an option of a group (model or task) and a data set with all settings it refers to."""
    with _hydra_ready():
        sets = {
            file.stem: hydra.compose("train", [f"data={file.stem}", "name=zoo"]).data.keys()
            for file in sorted((CONFIGS / "data").glob("*.yaml"))
        }
    needs = {file.stem: needed_of_data(_whole_text(file)) for file in sorted((CONFIGS / group).glob("*.yaml"))}
    return [(option, data) for option in needs for data in sets if needs[option] <= sets[data]]


def catalogue() -> Iterator[Entry]:
    """Yield every image net in configs/model; raise ValueError for a config without the two header lines."""
    with _hydra_ready():
        for file in sorted((CONFIGS / "model").glob("*.yaml")):
            header = HEADER.match(file.read_text())
            if header is None:
                raise ValueError(
                    f'{file} must start with two lines: # paper: Authors, "Title", year; # made for: data=...'
                )
            cfg = hydra.compose("train", [f"model={file.stem}", "name=zoo", *header["data"].split()])
            if "image_size" in cfg.data:
                yield Entry(file.stem, header["authors"], header["title"], int(header["year"]), cfg)


@dataclass(frozen=True)
class Recipe:
    """An experiment, the published accuracy (of it or of the closest setup), and the source of its settings."""

    name: str
    net: str
    data: str
    epochs: int
    published: str
    source: str


def chosen_by(experiment: Path) -> dict[str, str]:
    """Return the option chosen for each group in the defaults of an experiment, including those it inherits."""
    chosen: dict[str, str] = {}
    for line in OmegaConf.load(experiment).defaults:
        if isinstance(line, str):
            chosen |= chosen_by(experiment.with_stem(line))
        else:
            chosen |= {str(key).removeprefix("override /"): option for key, option in line.items()}
    return chosen


def recipes() -> list[Recipe]:
    """Return the experiments in configs/experiment with a source and published results, by data set and name."""
    found = []
    for file in sorted((CONFIGS / "experiment").glob("*.yaml")):
        if header := RECIPE.match(file.read_text()):
            chosen = chosen_by(file)
            facts = (file.stem, chosen["model"], chosen["data"], OmegaConf.load(file).trainer.max_epochs)
            found.append(Recipe(*facts, header["published"], header["source"]))
    return sorted(found, key=lambda recipe: recipe.data)
