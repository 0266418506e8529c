"""Per-layer summary of a net: output, parameters, computation, memory and receptive field."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.measure.bounds import storage_id
from zoo.measure.padding import padding_kind
from zoo.measure.receptive_field import Fields, ReceptiveFields

BYTES_PER_VALUE = 4  # fp32


@dataclass(frozen=True)
class Layer:
    """One call of a module; its submodules are counted separately and not included.

    `output` is (C, H, W), or (features,), or (tokens, width); `window` describes the window of a convolution or
    pooling; `activation_bytes` is the memory for the output of a layer without submodules for one image in fp32, 0 if
    it shares the input's memory; sums and concatenations between layers, and values inside attention, are not counted.
    `field` is the receptive field, None if the output does not depend on the image.
    """

    name: str
    kind: str
    window: str
    output: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int
    field: Fields | None


def measure_layers(net: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Trace one image (C, H, W) through a copy of the net in eval mode, and list its layers in order of execution.

    Nothing is computed, since the copy is on the meta device. Parameters are counted at a module's first call only.
    """
    ghost = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, *image_shape, device="meta")
    rows: list[Layer] = []
    seen: set[nn.Module] = set()
    open_calls: list[list[int]] = []  # for each module being called: MACs before it, and MACs of its submodules

    def before(module: nn.Module, args: Any) -> None:
        open_calls.append([macs(), 0])

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            start, within = open_calls.pop()
            total = macs() - start
            if open_calls:
                open_calls[-1][1] += total
            params = 0 if module in seen else sum(p.numel() for p in module.parameters(recurse=False))
            seen.add(module)
            is_leaf = next(module.children(), None) is None
            if isinstance(output, Tensor) and (is_leaf or params or total > within):
                storages = {storage_id(one.untyped_storage()) for one in (output, args[0])}
                own_memory = is_leaf and len(storages) == 2
                rows.append(
                    Layer(
                        name=name,
                        kind=type(module).__name__,
                        window=_window(module, args[0]),
                        output=tuple(output.shape[1:]),
                        params=params,
                        macs=total - within,
                        activation_bytes=BYTES_PER_VALUE * output.numel() if own_memory else 0,
                        field=fields.of(output),
                    )
                )

        return note

    for name, module in ghost.named_modules():
        if name:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after(name))
    with FlopCounterMode(display=False) as counter, ReceptiveFields(image) as fields, torch.no_grad():

        def macs() -> int:
            return counter.get_total_flops() // 2

        ghost(image)
    return rows


def _window(module: nn.Module, image: Tensor) -> str:
    """Describe a module's sliding window: size, stride if not 1, and padding."""
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return ""
    settings: list[list[Any]] = []  # along height and width
    for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode"):
        value = getattr(module, name, 1 if name == "dilation" else False)
        settings.append(list(value) if isinstance(value, tuple) else [value, value])
    (height, width), (stride, _), paddings, *_ = settings
    kinds = {padding_kind(image.shape[2 + axis], *(pair[axis] for pair in settings)) for axis in (0, 1)}
    kind = next(iter(kinds)) if len(kinds) == 1 else "same" if kinds == {"valid", "same"} else "padded"
    number = f" {paddings[0]}" if kind == "padded" else ""
    return f"{height}×{width}" + (f" /{stride}" if stride > 1 else "") + f" {kind}{number}"
