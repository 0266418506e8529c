"""Check the config in a file before anything is built from it, and build its net and data.

A file is untrusted data. Its config may name only nets of zoo.models and data sets of zoo.data, each in its proper
place; every other name, text that would be parsed again, and a net larger than its weights are refused before any
memory is taken. Paths in it are never followed: data sets are looked up by name under `data_root`, and nothing is
downloaded unless the user enables it.
"""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

import zoo.data
import zoo.models
from zoo.catalogue import place_of, targets
from zoo.checkpoint.data_places import is_below, placed
from zoo.data.module import ResidentData
from zoo.data.sources import ImageSource
from zoo.errors import BadInput, reason
from zoo.instantiate import build, is_trusted
from zoo.ranges import height_width

STARTS = ("init", "pretrained", "freeze")  # keys of `model` about initial weights, not about the net
MAX_SETTING = 2**20  # limit of the numbers in a net's config
MAX_SPARE_NUMBERS = 2**26  # that a net may have, however few its file has
MAX_PRUNED = 1024  # times the number of weights left
OPTIMIZERS = frozenset(name for name in torch.optim.__all__ if isinstance(vars(torch.optim)[name], type))
OF_ROWS = ("file", "image", "label", "label_key", "split", "group", "separator", "label_columns")
IN_TABLE = {f"data.{key}" for key in OF_ROWS}  # no paths


def _is_net(member: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, nn.Module)


def _is_data(member: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, ResidentData)


def _is_source(member: Any) -> bool:
    return inspect.isfunction(member) and member.__annotations__.get("return") is ImageSource


def _is_augmentation(member: Any) -> bool:
    return inspect.isclass(member) and any("__call__" in vars(base) for base in member.__mro__)


# By place in a config: the package that must define its `_target_`, and a test of that.
KINDS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "model": (zoo.models, _is_net),
    "data": (zoo.data, _is_data),
    "data.source": (zoo.data, _is_source),
    "data.augment": (zoo.data, _is_augmentation),
    "data.mix": (zoo.data, _is_augmentation),
}


def check_stored(node: Any, place: str) -> None:
    """Raise BadInput unless a config of a `model` or of `data` calls only what belongs there."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise BadInput(f"{place}._target_: expected the class that {place}=... sets, got {place}={str(node)[:80]}")
    _check(node, place)
    for key in ("train", "val", "test") if place == "data" else ():
        if isinstance(name := node.get(key), str) and not is_below(name):
            raise BadInput(f"data.{key}: expected the name of a folder in data.root, got {name[:80]!r}")


def check_new(config: Mapping[str, Any]) -> None:
    """Raise BadInput unless the files that a new run writes can be read again: its net, data and task are known."""
    for place in ("model", "data"):
        check_stored(config[place], place)
    target = str(config["task"].get("_target_"))
    if not target.startswith("zoo.tasks.") and not is_trusted(target):
        raise BadInput(f"task._target_: expected one of zoo.tasks, got '{target[:80]}'; {_if_trusted(target)}")


def _if_trusted(target: str) -> str:
    return f"if you trust its author, allow it by trusted=[{target[:80].partition('.')[0]}]"


def _check(node: Any, place: str) -> None:
    if isinstance(node, list):
        for part in node:
            if isinstance(part, Mapping | list):
                raise BadInput(f"{place} has a mapping or a list in a list")
            _check(part, place)
    elif isinstance(node, Mapping):
        for key, part in node.items():
            if not isinstance(key, str) or not re.fullmatch(r"\w+", key):
                raise BadInput(f"{place} has a setting {str(key)[:80]!r}, which is not a name")
            if key == "_target_":
                _check_target(part, place)
            elif key.startswith("_") and (key, part) != ("_partial_", True):
                raise BadInput(f"{place}.{key}={str(part)[:80]} is not a setting")
            else:
                _check(part, place if place == "data.augment" else f"{place}.{key}")
    elif place.startswith("model.") and type(node) in (int, float) and abs(node) > MAX_SETTING:
        raise BadInput(f"{place}={node} is more than any net has")


def _check_target(target: Any, place: str) -> None:
    """Raise BadInput unless a `_target_` is a public name of the right kind that a module of the right package defines.

    That is a package of the zoo, or one that the user trusts.
    """
    if place not in KINDS or not isinstance(target, str):
        raise BadInput(f"{place} is not called, got _target_={str(target)[:80]!r}")
    package, fits = KINDS[place]
    home, _, name = target.rpartition(".")
    trusted = is_trusted(target)
    homes = {f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)}
    member = None
    if trusted or (home in homes and not name.startswith("_")):
        try:
            member = vars(importlib.import_module(home)).get(name)
        except ImportError as error:
            raise BadInput(f"{place}._target_={target[:80]} cannot be imported ({reason(error)})") from error
    if fits(member) and (trusted or member.__module__ == home):
        return
    if trusted:
        raise BadInput(f"{place}._target_={target[:80]} is not of the kind that belongs there")
    raise BadInput(
        f"{place}._target_: expected what {package.__name__} defines for it, got '{target[:80]}'; {_if_trusted(target)}"
    )


def check_run(config: Mapping[str, Any], trusted: Sequence[str]) -> None:
    """Raise BadInput unless a run folder's config calls only allowed targets and reads only allowed files.

    Allowed are targets in the project's own configs, the optimizers of torch, and files below the current folder;
    `trusted` names more packages and places. The config comes from the author of the folder, who may be anyone.
    """
    for place, node in config.items():
        _check_part(place, node)
        for key, text in _texts(node, place) if place not in ("runs", "choices") else ():
            leads_out = text.startswith(("/", "~")) or ".." in PurePath(text).parts
            leads_out |= place == "data" and "://" in text  # to a server
            inside = PurePath(os.path.abspath(text)).is_relative_to(os.getcwd()) and not re.match(r"~|\w+://", text)
            if leads_out and not inside and not any(PurePath(text).is_relative_to(one) for one in trusted):
                raise BadInput(f"{key}: the run reads '{text}', outside this folder; allow it with trusted=['{text}']")


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the strings in a config that may be paths, each with its key."""
    if isinstance(node, Mapping):
        for key, part in node.items():
            yield from _texts(part, f"{place}.{key}")
    elif isinstance(node, list):
        for part in node:
            yield from _texts(part, place)
    elif isinstance(node, str) and place not in IN_TABLE:
        yield place, node


def _check_part(place: str, node: Any) -> None:
    if place in ("model", "data"):
        check_stored(node, place)
    elif isinstance(node, Mapping):
        target = node.get("_target_")
        if "_target_" in node and not _may_be(str(target), place) and not is_trusted(str(target)):
            raise BadInput(
                f"{place}: the run calls '{str(target)[:80]}', as the zoo never does there; {_if_trusted(str(target))}"
            )
        for key, part in node.items():
            if key in ("_args_", "_recursive_", "_convert_"):
                raise BadInput(f"{place}.{key} is not a setting of a run")
            _check_part(f"{place}.{key}", part)
    elif isinstance(node, list):
        for part in node:
            _check_part(place, part)


def _may_be(target: str, place: str) -> bool:
    """Return whether the project's own configs call this target in such a place, or it is an optimizer of torch."""
    if place == "optim" and target.startswith("torch.optim."):
        return target.removeprefix("torch.optim.") in OPTIMIZERS
    return target in targets().get(place_of(place), ())


def stored_net(model: Mapping[str, Any]) -> nn.Module:
    """Build the net described by a file's config; raise BadInput as `check_stored` does."""
    check_stored(model, "model")
    net: nn.Module = build({key: value for key, value in model.items() if key not in STARTS}, "model")
    check_heads(net)
    return net


def check_heads(net: nn.Module) -> None:
    """Raise BadInput unless a module is a net, which names its output layers, and not a part of one."""
    if not hasattr(net, "head_names"):
        raise BadInput(f"model: {type(net).__name__} has no head_names, the names of its output layers, as nets have")


def stored_shape(model: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """Build a file's net on the meta device, which takes no memory; raise BadInput if it is too large for the file."""
    numbers = sum(weight.numel() for weight in weights.values())
    try:
        with torch.device("meta"), _at_most(len(weights) + 8):
            net = stored_net(model)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"{source}: its config does not describe a net: {reason(error)}") from error
    size = sum(tensor.numel() for tensor in [*net.parameters(), *net.buffers()])
    if size > max(MAX_SPARE_NUMBERS, MAX_PRUNED * numbers):
        raise BadInput(f"{source}: its config describes a net of {size:,} numbers, and the file has {numbers:,}")
    return net


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raise ValueError as soon as more than `count` parameters are created."""
    made = 0

    def seen(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise ValueError("it has more parameters than the file has tensors")

    hook = register_module_parameter_registration_hook(seen)
    try:
        yield
    finally:
        hook.remove()


def example_of(metadata: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the inputs of a file's net for one sample, on the meta device; for sequences, the longest."""
    data = metadata["data"]
    if "source_symbols" in data:
        return tuple(torch.ones(1, data["max_length"], dtype=torch.int64, device="meta") for _ in range(2))
    settings = metadata["config"]["data"]
    return (torch.empty(1, settings["in_channels"], *height_width(settings["image_size"]), device="meta"),)


def stored_data(metadata: Mapping[str, Any], cfg: DictConfig) -> ResidentData:
    """Build the data that a file's net was trained on, with the same split, from `cfg.data_root`.

    Raises BadInput if the config names anything but data sets of the zoo, if the user must set the location, or if
    the data found there are different.
    """
    config = metadata["config"]
    check_stored(config["data"], "data")
    settings = {**config["data"], "eval_batch_size": cfg.batch_size}
    if isinstance(settings.get("classes"), str):  # a file
        settings["classes"] = metadata["data"]["classes"]
    settings = placed(settings, str(config.get("data_root")), cfg)
    try:
        data: ResidentData = build(settings, "data")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInput(f"the config of the file does not describe data: {reason(error)}") from error
    data.load()
    data.check_same(metadata["data"], "the net was trained on")
    return data
