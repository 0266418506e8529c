"""Turn a config node into the object that its `_target_` names; the only place that calls `instantiate`."""

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from zoo.errors import BadInput, ZooError, choices, reason


def build(node: DictConfig | Mapping[str, Any], where: str, **given: Any) -> Any:
    """Build the object of the config key `where`; BadInput names the setting that does not fit and what would."""
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    _check(plain, where)
    try:
        return instantiate(dict(plain), _convert_="all", **given)
    except InstantiationException as error:
        cause: BaseException = error.__cause__ or error
        if isinstance(cause, ZooError):
            raise cause from error
        raise BadInput(f"{where}: {reason(cause)}") from error
    except ZooError:
        raise
    except Exception as error:
        raise BadInput(f"{where}: {reason(error)}") from error


def attribute_of(target: str, name: str) -> Any:
    """Give an attribute of what a `_target_` names, or None where there is none; `build` tells a wrong target."""
    with contextlib.suppress(Exception):
        return getattr(get_object(target), name, None)
    return None


def probe(where: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a partial that `build` made with stand-ins, so that wrong values in it are told before a run begins."""
    try:
        function(*arguments)
    except Exception as error:
        raise BadInput(f"{where}: {reason(error)}") from error


def _check(node: Mapping[str, Any], where: str) -> None:
    """Hold every value below a node against the annotations of the callables that will get it."""
    hints, parameters = _signature(node["_target_"], where) if "_target_" in node else ({}, None)
    for name, value in node.items():
        key = f"{where}.{name}"
        if isinstance(value, Mapping):
            _check(value, key)
        elif not name.startswith("_"):
            if parameters is not None and name not in parameters:
                raise BadInput(f"there is no setting '{key}' of {node['_target_']}; {choices(name, parameters)}")
            if name in hints and not _fits(value, hints[name]):
                raise BadInput(f"{key}={value} does not fit; it must be {_name(hints[name], value)}")


@functools.cache
def _signature(target: str, where: str) -> tuple[dict[str, Any], list[str] | None]:
    """Give a callable's annotations and, unless it takes any keyword, the names of its parameters."""
    try:
        function = get_object(target)
    except Exception as error:
        raise BadInput(f"{where}._target_={target} cannot be imported ({reason(error)})") from error
    hints: dict[str, Any] = {}
    names: list[str] = []
    for one in function.__mro__[:-1] if inspect.isclass(function) else [function]:  # all but `object`
        parameters = inspect.signature(one).parameters
        with contextlib.suppress(NameError, TypeError):  # a library whose annotations name what it does not import
            hints = typing.get_type_hints(one.__init__ if inspect.isclass(one) else one) | hints
        names += [name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return hints, names
        # Any other keyword is passed on, to the next class it is made from.
    return hints, None


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value fits an annotation; annotations that no plain value could contradict always fit."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if get_origin(hint) in (list, tuple):
        return isinstance(value, list)
    return not isinstance(hint, type) or not (value is None or isinstance(value, str))


def _name(hint: Any, value: Any) -> str:
    """Say what an annotation takes, with a list's nearest choices to what was given."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))} ({choices(str(value), map(str, get_args(hint)))})"
    if get_origin(hint) in (Union, types.UnionType):
        plain = [o for o in get_args(hint) if get_origin(o) is Literal or o in (int, float, bool, str, type(None))]
        return " or ".join(_name(option, value) for option in plain)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, str(hint))
