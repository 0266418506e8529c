"""Trace the operations of a net."""

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Operation:
    """One operation: a module without submodules, or a function called in a module with submodules.

    `name` is the path of modules, separated by `/`, with the kind appended if the module's name is just a number;
    `inputs` are the names of the operations whose results it takes; `shape` is that of the output; `settings` is the
    module's `extra_repr`.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    settings: str = ""


def follow(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Operation]:
    """Trace inputs on the meta device through a copy of the net in eval mode, and list the operations.

    Nothing is computed. The inputs come first, named as the parameters of `forward`, and `output` comes last.
    Operations that do not depend on an input, such as a slice of a weight, are left out.
    """
    ghost = copy.deepcopy(net).to("meta", torch.float32).eval()
    follower = _Follower(type(net).__name__)
    for name, tensor in zip(inspect.signature(net.forward).parameters, inputs, strict=False):
        follower.note(name, "input", (), tensor)
    for name, module in ghost.named_modules():
        path = "/".join([follower.root, *name.split(".")]) if name else follower.root
        module.register_forward_pre_hook(lambda part, args, path=path: follower.enter(part, path))
        module.register_forward_hook(lambda part, args, output: follower.leave(part, args, output))
    with follower, torch.no_grad():
        output = ghost(*inputs)
    follower.note("output", "output", follower.sources(output), output)
    return follower.operations


class _Follower(TorchFunctionMode):
    """Record which operation each tensor came from, while this mode is on."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        self.operations: list[Operation] = []
        self._known: dict[int, tuple[Tensor, int, str]] = {}  # keeps tensors alive, so that their ids are not reused
        self._paths: list[str] = []  # of the modules being called
        self._within_leaf = False
        self._counts: dict[str, int] = {}

    def enter(self, module: nn.Module, path: str) -> None:
        self._paths.append(path)
        self._within_leaf = _is_leaf(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        path = self._paths.pop()
        if _is_leaf(module):
            self._within_leaf, kind = False, type(module).__name__
            name = f"{path}_{kind}" if path.rpartition("/")[2].isdigit() else path
            self.note(name, kind, self.sources(args), output, module.extra_repr())

    def sources(self, values: Any) -> tuple[str, ...]:
        """Return the names of the operations that tensors came from."""
        return tuple(dict.fromkeys(self._known[id(t)][2] for t in _tensors([values]) if id(t) in self._known))

    def note(self, name: str, kind: str, sources: tuple[str, ...], result: Any, settings: str = "") -> None:
        """Add an operation, unless all its results existed before and have not been modified since."""
        new = [t for t in _tensors([result]) if kind == "output" or not self._has(t)]
        if not new or not (sources or kind == "input"):
            return
        number = self._counts[name] = self._counts.get(name, 0) + 1
        name = name if number == 1 else f"{name}_{number}"
        self.operations.append(Operation(name, kind, sources, tuple(new[0].shape), settings))
        for tensor in new:
            self._known[id(tensor)] = tensor, tensor._version, name

    def _has(self, tensor: Tensor) -> bool:
        return id(tensor) in self._known and self._known[id(tensor)][1] == tensor._version

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._within_leaf and self._paths:
            kind = (func.__self__ if func.__name__ == "__get__" else func).__name__.strip(
                "_"
            )  # for a property, its name
            sources = self.sources([args, *(kwargs or {}).values()])
            self.note(f"{self._paths[-1]}/{kind}", kind, sources, output)
        return output


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
