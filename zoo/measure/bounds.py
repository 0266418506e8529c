"""Bounds on what a net from a file may take, found on the meta device, before it takes any memory."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MAX_NUMBERS = 2**26  # of one result for one sample; AlexNet to ViT stay below 2^25 at 224 px
MAX_NUMBERS_IN_ALL = 2**32
MAX_RESULTS = 200_000


class Bounded(TorchDispatchMode):
    """Raise ValueError where a computation makes a result that is too large, or too many results."""

    def __init__(self) -> None:
        super().__init__()
        self.num_results = self.num_numbers = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _takes_device(func):
            kwargs["device"] = "meta"
        found = func(*args, **kwargs)
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                self.num_results += 1
                self.num_numbers += one.numel()
                if one.numel() > MAX_NUMBERS:
                    raise ValueError(f"a result would have {one.numel():,} numbers, and at most {MAX_NUMBERS:,} may be")
        if self.num_results > MAX_RESULTS or self.num_numbers > MAX_NUMBERS_IN_ALL:
            raise ValueError("its results would have more numbers in all than any net's")
        return found


@functools.cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def check_activations(net: nn.Module, example: Sequence[Tensor]) -> Any:
    """Call a net as if it were on the meta device, and return what it gives there.

    `example` is what it is called with for one sample, on the meta device. The net itself is left as it is. Raises
    ValueError where what it computes would be too much.
    """
    tensors = {name: tensor.to("meta") for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    with torch.no_grad(), Bounded():
        return torch.func.functional_call(net, tensors, tuple(example))
