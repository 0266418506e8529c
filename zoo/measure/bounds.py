"""Resource limits for a net from a file, checked on the meta device before any memory is allocated."""

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

MAX_NUMBERS = 2**26  # in one result for one sample; AlexNet to ViT stay below 2^25 at 224 px
MAX_NUMBERS_IN_ALL = 2**32
MAX_BYTES = 2**29  # of the results held at the same time for one sample
MAX_FLOPS = 2**40  # for one sample; VGG-19 takes 2^35 at 224 px
MAX_RESULTS = 200_000


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return a number that identifies a storage, also on the meta device, where all data pointers are 0."""
    return storage._cdata


class Bounded(TorchDispatchMode):
    """Raise ValueError if a computation on the meta device exceeds a limit: for one result, at once, or in total.

    The limits are those for one sample, times `num_samples`, and at most `available_bytes` at once.
    """

    def __init__(self, num_samples: int = 1, available_bytes: float = math.inf) -> None:
        super().__init__()
        self.num_samples, self.available_bytes = num_samples, available_bytes
        self.num_results = self.num_numbers = self.num_bytes = self.num_flops = 0
        self.alive: set[int] = set()  # storages of results

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _takes_device(func):
            kwargs["device"] = "meta"
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        found = func(*args, **kwargs)
        known = self.alive.union(storage_id(one.untyped_storage()) for one in given)
        for one in [*given, *tree_leaves(found)]:
            if isinstance(one, Tensor):
                self.num_results += 1
                self.num_numbers += one.numel()
                if (
                    storage_id(one.untyped_storage()) not in known
                ):  # not a view of known memory, such as a transposed weight
                    self._check("a result has", one.numel(), MAX_NUMBERS, "numbers")
                    self._hold(one.untyped_storage())
        self.num_flops += _flops(func, args, kwargs, found)
        self._check("its results take", self.num_bytes, MAX_BYTES, "bytes at once")
        self._check("its operators read and produce", self.num_numbers, MAX_NUMBERS_IN_ALL, "numbers")
        self._check("it takes", self.num_flops, MAX_FLOPS, "operations on numbers")
        if self.num_bytes > self.available_bytes:
            raise ValueError(f"its results take {self.num_bytes:,} bytes at once, more than this machine has free")
        if self.num_results > MAX_RESULTS:
            raise ValueError(f"its operators read and produce more than {MAX_RESULTS:,} tensors")
        return found

    def _check(self, what: str, number: int, limit: int, unit: str) -> None:
        if number > limit * self.num_samples:
            num = number // self.num_samples
            raise ValueError(f"{what} {num:,} {unit} for one sample; at most {limit:,} are allowed")

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a storage until it is freed."""
        key, num_bytes = storage_id(storage), storage.nbytes()
        self.alive.add(key)
        self.num_bytes += num_bytes
        weakref.finalize(storage, self._free, key, num_bytes).atexit = False

    def _free(self, key: int, num_bytes: int) -> None:
        self.alive.discard(key)
        self.num_bytes -= num_bytes


@functools.cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _flops(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], found: Any) -> int:
    """Return the operations of a matrix product, convolution or pooling; others are limited by their numbers."""
    if func._overloadpacket in flop_registry:
        return int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=found))
    name = func._schema.name
    if name == "aten::_int_mm":
        return 2 * args[0].numel() * args[1].shape[1]
    if "_pool" in name and "adaptive" not in name:
        return math.prod(args[1]) * tree_leaves(found)[0].numel()
    return 0


def check_activations(
    net: nn.Module, example: Sequence[Tensor], num_samples: int = 1, available_bytes: float = math.inf
) -> Any:
    """Call a net as if it were on the meta device, and return its output there.

    `example` are its inputs for `num_samples` samples, on the meta device. The net itself is not changed. Raises
    ValueError if the computation exceeds the limits of `Bounded`.
    """
    tensors = {name: tensor.to("meta") for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    with torch.no_grad(), Bounded(num_samples, available_bytes):
        return torch.func.functional_call(net, tensors, tuple(example))
