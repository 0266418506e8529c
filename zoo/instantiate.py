"""Build the object that a config node's `_target_` names; the only module that calls `instantiate`."""

import contextlib
import functools
import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from zoo.errors import BadInput, ZooError, choices, reason
from zoo.ranges import OF_LIBRARIES, expected, takes

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextlib.contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Allow files to name classes of these packages in the block, where they are found in the current folder, too."""
    named = tuple(packages)
    places = [os.getcwd()] if named and os.getcwd() not in sys.path else []
    sys.path += places
    token = _trusted.set(named)
    try:
        yield
    finally:
        _trusted.reset(token)
        for place in places:
            sys.path.remove(place)


def trusted_packages() -> tuple[str, ...]:
    """Return the packages that the user trusts."""
    return _trusted.get()


def is_trusted(target: str) -> bool:
    """Return whether a `_target_` is in one of the packages that the user trusts."""
    return any(target.startswith(f"{package}.") for package in trusted_packages())


def build(node: DictConfig | Mapping[str, Any], where: str, **given: Any) -> Any:
    """Build the object of the config key `where`; raise BadInput naming the invalid setting and what is accepted."""
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    check(plain, where)
    try:
        return instantiate(dict(plain), _convert_="all", **given)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise BadInput(f"{where}: {reason(error)}") from error
        raise _as_bad_input(where, cause) from cause.__cause__


def _as_bad_input(where: str, error: BaseException) -> BaseException:
    """Return BadInput if a constructor rejected its arguments, else the error itself, which is a bug.

    A rejection is a ValueError, Lightning's MisconfigurationException, or a missing argument.
    """
    if isinstance(error, ZooError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    never_ran = isinstance(error, TypeError) and frames[-1].filename == inspect.getfile(instantiate)
    if never_ran or isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
        return BadInput(f"{where}: {reason(error)}")
    return error


def attribute_of(target: str, name: str) -> Any:
    """Return an attribute of a `_target_`, or None if there is none; `build` reports a wrong target."""
    with contextlib.suppress(Exception):
        return getattr(get_object(target), name, None)
    return None


def probe(where: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a partial built by `build` with dummy arguments, so that wrong values are reported before a run starts."""
    try:
        function(*arguments)
    except ValueError as error:
        raise BadInput(f"{where}: {reason(error)}") from error


def check(node: Mapping[str, Any], where: str) -> None:
    """Check every value below a node against the annotations and ranges of the callable it is passed to.

    BadInput names the key, the accepted values and the value given. zoo.ranges adds ranges for library classes.
    """
    hints, parameters = _signature(node["_target_"], where) if "_target_" in node else ({}, None)
    for name, value in node.items():
        key = f"{where}.{name}"
        if str(name).startswith("_"):  # a number may be the name of a class
            continue
        if parameters is not None and name not in parameters:
            raise BadInput(f"there is no setting '{key}' of {node['_target_']}; {choices(name, parameters)}")
        if name in hints and not takes(hints[name], value):
            raise BadInput(expected(key, hints[name], value))
        if isinstance(value, Mapping):
            check(value, key)


@functools.cache
def _signature(target: str, where: str) -> tuple[dict[str, Any], list[str] | None]:
    """Return a callable's annotations and, unless it takes any keyword, the names of its parameters."""
    try:
        function = get_object(target)
    except Exception as error:
        raise BadInput(f"{where}._target_={target} cannot be imported ({reason(error)})") from error
    hints: dict[str, Any] = {}
    names: list[str] = []
    for one in function.__mro__[:-1] if inspect.isclass(function) else [function]:  # all but `object`
        parameters = inspect.signature(one).parameters
        with contextlib.suppress(NameError, TypeError):  # a library whose annotations use names it does not import
            hints = typing.get_type_hints(one.__init__ if inspect.isclass(one) else one, include_extras=True) | hints
        for module, ranges in OF_LIBRARIES.items():
            if f"{one.__module__}.".startswith(f"{module}."):
                hints |= ranges
        names += [name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return hints, names
        # Any other keyword is passed on to the next base class.
    return hints, None
