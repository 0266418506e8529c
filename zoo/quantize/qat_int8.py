"""Train a net with fake quantization, with torchao's PT2E."""

import contextlib
import copy
import functools
import itertools
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self

import torch
from msgspec import Meta
from torch import Tensor, fx, nn

from zoo.compress.context import Context
from zoo.compress.recipe import Step
from zoo.quantize.pt2e import chosen, graph_of, layers_of, make_quantizer, quiet_torchao, traced
from zoo.records.steps import Names, Record, Size

PATTERN_EPS = 1e-5  # of the batch norms that torchao puts in place of folded ones


class StepRecord(Record, frozen=True, kw_only=True):
    shape: Annotated[list[Size], Meta(min_length=3, max_length=3)]
    float_layers: Names


class FakeQuantizedNet(nn.Module):
    """Train a net whose weights and activations are rounded as in int8 (Jacob et al., 2018), with folded batch norms.

    Activation ranges are moving averages, and are frozen once `observes` is set to False; batch norm statistics are
    frozen by `norms_move`. In eval mode both are frozen. An exported graph has no modes: the graph is changed at the
    next call instead, since Lightning sets `training` directly.
    """

    def __init__(self, graph: fx.GraphModule, head_names: Sequence[str]) -> None:
        super().__init__()
        self.graph = graph
        self.head_names = tuple(f"graph.{name}" for name in head_names)
        self.observes = self.norms_move = True
        self._mode: tuple[bool, bool, bool] | None = None

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        mode = self.training, self.training and self.observes, self.training and self.norms_move
        if mode != self._mode:
            self._enter(mode)
        return self.graph(images)

    def _enter(self, mode: tuple[bool, bool, bool]) -> None:
        trains, observes, norms_move = self._mode = mode
        for node in self.graph.graph.nodes:
            if node.target is torch.ops.aten.batch_norm.default:
                node.args = (*node.args[:5], norms_move, *node.args[6:])
            elif node.target is torch.ops.aten.dropout.default:
                node.args = (*node.args[:2], trains)
        self.graph.recompile()
        for module in self.fake_quantizers():
            module.observer_enabled.fill_(observes)

    def fake_quantizers(self) -> list[Any]:
        return [module for module in self.graph.modules() if hasattr(module, "fake_quant_enabled")]


def qat_int8(net: nn.Module, context: Context, *, float_layers: Sequence[str] = ()) -> Step:
    """Let a net train with fake quantization, except for layers matched by a name or pattern of `float_layers`."""
    kept = chosen(float_layers, layers_of(traced(net, context.example)))
    return {"pass": "qat_int8", "shape": list(context.example[0].shape[1:]), "float_layers": kept}


def is_trained_in_int8(recipe: Sequence[Step]) -> bool:
    """Return whether a recipe leaves a net that trains with fake quantization."""
    return bool(recipe) and recipe[-1]["pass"] == "qat_int8"


def fake_quantized(net: nn.Module, recipe: Sequence[Step]) -> nn.Module:
    """Return a FakeQuantizedNet if the last step of the recipe is `qat_int8`, or else the net itself.

    It has no auxiliary heads, and training skips none of its branches.
    """
    if not is_trained_in_int8(recipe):
        return net
    net, step = copy.deepcopy(net), recipe[-1]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that it computes the same with the new eps
            assert module.running_var is not None
            module.running_var.add_(module.eps - PATTERN_EPS).clamp_(min=0)
            module.eps = PATTERN_EPS
    heads: Any = net.head_names
    trace = traced(net, (torch.empty(1, *step["shape"], device="meta"),))
    with quiet_torchao(), only_conv2d_patterns():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        graph = prepare_qat_pt2e(graph_of(trace), make_quantizer(step["float_layers"], is_qat=True))
    _name_once(graph)
    found = FakeQuantizedNet(graph, heads)
    with torch.no_grad():  # shapes the weight ranges, which loading a state requires
        found.norms_move = False
        found(torch.zeros(2, *step["shape"]))
        found.norms_move = True
    for module in found.fake_quantizers():
        module.register_forward_pre_hook(_in_fp32)
        if not module.is_per_channel:
            module.activation_post_process.reset_min_max_vals()
    return found


def _in_fp32(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Cast autocast's inputs back to float32, which fake quantization requires."""
    return (args[0].float(),)


def _name_once(graph: fx.GraphModule) -> None:
    """Use only the first name of a module that has several in a graph, so that its state is saved once."""
    names: dict[int, str] = {}
    for node in graph.graph.find_nodes(op="call_module"):
        name = str(node.target)
        node.target = names.setdefault(id(graph.get_submodule(name)), name)
        if node.target != name:
            delattr(graph, name)
    graph.recompile()


@contextlib.contextmanager
def only_conv2d_patterns() -> Iterator[None]:
    """Let torchao look only for batch norms after 2-d convolutions, with one scale per output channel.

    It would trace an example of every possible pattern, and twice as many with CUDA: 20 s instead of 2.
    """
    from torchao.quantization.pt2e import qat_utils

    names = ("itertools", "_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper")
    theirs = {name: getattr(qat_utils, name) for name in names}

    def only_conv2d(helper: Any, graph: fx.GraphModule, conv: Any, inputs: Any, is_cuda: bool) -> fx.GraphModule:
        return graph if is_cuda or conv is not nn.functional.conv2d else helper(graph, conv, inputs, is_cuda)

    def product(is_per_channel: Any, has_bias: Any, bias_is_quantized: Any, bn_is_training: Any) -> Any:
        return itertools.product([True], has_bias, [False], [False])

    for name in names[1:]:
        setattr(qat_utils, name, functools.partial(only_conv2d, theirs[name]))
    setattr(qat_utils, names[0], types.SimpleNamespace(product=product))
    try:
        yield
    finally:
        for name, helper in theirs.items():
            setattr(qat_utils, name, helper)
