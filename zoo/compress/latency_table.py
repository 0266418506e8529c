"""Measured times of layers by their widths, and of whole nets, from which channels are pruned for a latency."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compress.dependencies import ShadowShortcut, is_depthwise
from zoo.compress.recipe import layout
from zoo.errors import BadInput
from zoo.measure.device import device_name
from zoo.measure.latency import CPU, Runtime, latencies_ms
from zoo.records.json_files import read_latencies, write_latencies

PARTS = 8  # of the width of a side: as many widths are measured, and times in between are interpolated
LAYER_SECONDS = 0.03  # per measurement of a layer


@dataclass(frozen=True)
class TimedLayer:
    """A convolution, linear layer or batch norm, with the shape of its input, batch included."""

    module: nn.Conv2d | nn.Linear | nn.BatchNorm2d
    shape: tuple[int, ...]

    @property
    def num_in(self) -> int:
        return self.shape[-1 if isinstance(self.module, nn.Linear) else 1]

    @property
    def num_out(self) -> int:
        return self.module.num_features if isinstance(self.module, nn.BatchNorm2d) else len(self.module.weight)

    @property
    def has_one_width(self) -> bool:
        """Return whether the layer has as many inputs as outputs, whatever is pruned."""
        return isinstance(self.module, nn.BatchNorm2d) or is_depthwise(self.module)

    def at(self, num_in: int, num_out: int) -> tuple[nn.Module, tuple[int, ...]]:
        """Return such a layer with other widths, on the meta device, and the shape of its input.

        Widths that cannot be divided into the groups of a convolution become larger.
        """
        old = self.module
        with torch.device("meta"):
            if isinstance(old, nn.Linear):
                return nn.Linear(num_in, num_out, old.bias is not None), (*self.shape[:-1], num_in)
            if isinstance(old, nn.BatchNorm2d):
                return nn.BatchNorm2d(num_in), (self.shape[0], num_in, *self.shape[2:])
            groups = num_in if self.has_one_width else old.groups
            shape = (self.shape[0], -(-num_in // groups) * groups, *self.shape[2:])
            settings: Any = old.kernel_size, old.stride, old.padding, old.dilation, groups, old.bias is not None
            return nn.Conv2d(shape[1], -(-num_out // groups) * groups, *settings), shape


def timed_layers(shadow: nn.Module, example: tuple[Tensor, ...], batch: int) -> dict[str, TimedLayer]:
    """Return the convolutions, linear layers and batch norms that the shadow of a net calls in eval mode, by name."""
    found: dict[str, TimedLayer] = {}

    def note(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def after(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            found.setdefault(name, TimedLayer(module, tuple(args[0].shape)))

        return after

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in shadow.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
        and not isinstance(shadow.get_submodule(name.rpartition(".")[0]), ShadowShortcut)
    ]
    with torch.no_grad():
        shadow.eval()(*(x.new_empty(batch, *x.shape[1:]) for x in example))
    for hook in hooks:
        hook.remove()
    return found


def _time_layer(module: nn.Module, shape: tuple[int, ...]) -> float:
    module = module.to_empty(device=CPU)
    for tensor in module.state_dict().values():
        tensor.fill_(1)
    return latencies_ms([module], (torch.empty(shape, device="meta"),), seconds=LAYER_SECONDS)[0]


@dataclass
class LatencyTable:
    """Times in ms, each measured when it is first asked for, and kept in the file `path` if there is one.

    The same table leads to the same decisions. `time_layer` takes a layer on the meta device and the shape of its
    input; `time_nets` takes nets, the inputs of one call, and a runtime.
    """

    example: tuple[Tensor, ...]
    batch: int
    runtime: Runtime
    path: Path | None = None
    layers: dict[str, float] = field(default_factory=dict)
    nets: dict[str, dict[str, float]] = field(default_factory=dict)
    time_layer: Callable[[nn.Module, tuple[int, ...]], float] = _time_layer
    time_nets: Callable[..., list[float]] = latencies_ms
    _known: dict[tuple[TimedLayer, int, int], float] = field(default_factory=dict, init=False)

    def layer_ms(self, layer: TimedLayer, num_in: int, num_out: int) -> float:
        """Return the time of a layer with these widths, interpolated linearly between measured widths."""
        if layer.has_one_width:
            num_in = num_out
        if (key := (layer, num_in, num_out)) not in self._known:
            inputs, outputs = _corners(num_in, layer.num_in), _corners(num_out, layer.num_out)
            if len(inputs) == len(outputs) == 1:
                self._known[key] = self._measured(layer, num_in, num_out)
            elif layer.has_one_width:
                self._known[key] = sum(part * self.layer_ms(layer, width, width) for width, part in outputs.items())
            else:
                self._known[key] = sum(
                    part_in * part_out * self.layer_ms(layer, width_in, width_out)
                    for width_in, part_in in inputs.items()
                    for width_out, part_out in outputs.items()
                )
        return self._known[key]

    def _measured(self, layer: TimedLayer, num_in: int, num_out: int) -> float:
        module, shape = layer.at(num_in, num_out)
        key = f"{module} of {'×'.join(map(str, shape))}"
        if key not in self.layers:
            self.layers[key] = self.time_layer(module, shape)
        return self.layers[key]

    def share(self, net: nn.Module, dense: nn.Module) -> float:
        """Return the measured time of a whole net as a share of the dense net's, and save the table.

        The share of a net with the same layers is 1 without a measurement.
        """
        texts = [f"{one} {json.dumps(layout(one))}" for one in (net, dense)]
        if texts[0] == texts[1]:
            return 1.0
        key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]
        if key not in self.nets:
            inputs = tuple(x.new_empty(self.batch, *x.shape[1:]) for x in self.example)
            ms, dense_ms = self.time_nets([net, dense], inputs, self.runtime)
            self.nets[key] = {"ms": ms, "dense_ms": dense_ms}
            self.save()
        return self.nets[key]["ms"] / self.nets[key]["dense_ms"]

    def facts(self) -> dict[str, Any]:
        """Return what the times depend on besides the nets."""
        return {
            "machine": device_name(CPU),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "batch": self.batch,
            "runtime": self.runtime,
        }

    def save(self) -> None:
        if self.path is not None:
            write_latencies(self.path, {**self.facts(), "layers": self.layers, "nets": self.nets})

    def take(self, path: Path) -> None:
        """Take over the times in a file; raise BadInput if they were measured on something else."""
        try:
            found = read_latencies(path)
        except FileNotFoundError as error:
            raise BadInput(f"latency_table={path} does not exist; expected the latencies.json of a run") from error
        for key, value in self.facts().items():
            if found[key] != value:
                raise BadInput(f"latency_table={path} was measured with {key}={found[key]}, and here it is {value}")
        self.layers |= found["layers"]
        self.nets |= found["nets"]


def _corners(width: int, full: int) -> dict[int, float]:
    """Return the measured widths around a width, with the weights of linear interpolation, which add up to 1."""
    grid = sorted({1, *(-(-full * part // PARTS) for part in range(1, PARTS + 1))})
    low, high = max(w for w in grid if w <= width), min(w for w in grid if w >= width)
    if low == high:
        return {width: 1.0}
    share = (width - low) / (high - low)
    return {low: 1 - share, high: share}
