"""Nets as graphs, from which all formats are written: one for images, encoder and step for sequences."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from zoo.ranges import height_width

BATCH = Dim("batch", min=1)


@dataclass(frozen=True)
class ExportPart:
    """The source of one graph: a net in eval mode, example inputs of two samples, and which sizes may vary.

    `vary` has the dynamic dimensions of each input; `takes` and `gives` are the names of inputs and outputs.
    """

    net: nn.Module
    inputs: tuple[Tensor, ...]
    vary: tuple[dict[int, Dim], ...] = ({0: BATCH},)
    takes: tuple[str, ...] = ("images",)
    gives: tuple[str, ...] = ("logits",)


class Baked(nn.Module):
    """A net that takes pixels and normalises them."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images.float() - self.mean) / self.std)


class Calibrated(nn.Module):
    """A net whose logits are divided by a temperature, so that their softmax is calibrated."""

    temperature: Tensor

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) / self.temperature


class Encoder(nn.Module):
    """The encoder of a sequence net: returns the first state of a source."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        net: Any = self.net
        return net.begin(source)


class Step(nn.Module):
    """One decoding step of a sequence net: from a token and a state to the next token's logits and the next state."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tokens, *state = inputs
        net: Any = self.net
        logits, after = net.step(tokens, tuple(state))
        return (logits, *after)


class Half(nn.Module):
    """A copy of a net in float16 with float32 inputs and outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).half()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.net(*(x.half() if x.is_floating_point() else x for x in inputs))
        if isinstance(found, Tensor):
            return found.float()
        return tuple(x.float() if x.is_floating_point() else x for x in found)


def parts(net: nn.Module, facts: Mapping[str, Any]) -> dict[str, ExportPart]:
    """Return the parts of a net by name, in the precision given in `facts`: one for images, two for sequences."""
    if "classes" not in facts["data"]:
        return _parts_of_writer(net, facts["data"]["max_length"], facts["export"]["precision"] == "fp16")
    return {"": _part_of_images(net, facts)}


def _part_of_images(net: nn.Module, facts: Mapping[str, Any]) -> ExportPart:
    settings, export = facts["config"]["data"], facts["export"]
    shape = (2, settings["in_channels"], *height_width(settings["image_size"]))
    net = Half(net) if export["precision"] == "fp16" else net
    net = Baked(net, facts["data"]["mean"], facts["data"]["std"]) if export["bake"] else net
    net = Calibrated(net, facts["temperature"]) if export.get("calibrated") else net
    return ExportPart(net.eval(), (torch.zeros(shape, dtype=torch.uint8 if export["bake"] else torch.float32),))


def _parts_of_writer(net: nn.Module, max_length: int, half: bool) -> dict[str, ExportPart]:
    """Return encoder and step of a sequence net, for sources and targets of up to `max_length` tokens.

    The sizes of a state that vary are found by trial. torch.export supports LSTMs of fixed length only.
    """
    encoder, step = Encoder(net).eval(), Step(net).eval()
    source, written = Dim("source", min=1, max=max_length), Dim("written", min=0, max=max_length)
    token = torch.full((2,), 3)

    def state_of(num_read: int, num_written: int) -> tuple[Tensor, ...]:
        state = encoder(torch.full((2, num_read), 3))
        for _ in range(num_written):
            _, *state = step(token, *state)
        return tuple(state)

    with torch.no_grad():
        state, *others = state_of(5, 3), state_of(6, 3), state_of(5, 4)
    vary = tuple(
        {0: BATCH}
        | {i: source for i, (a, b) in enumerate(zip(kept.shape, more_read.shape, strict=True)) if a != b}
        | {i: written for i, (a, b) in enumerate(zip(kept.shape, more_written.shape, strict=True)) if a != b}
        for kept, more_read, more_written in zip(state, *others, strict=True)
    )
    is_fixed = has_fixed_length(net)
    read = torch.full((2, max_length if is_fixed else 5), 3)
    of_read = {0: BATCH} if is_fixed else {0: BATCH, 1: source}
    kept, after = (tuple(f"{word}_{i}" for i in range(len(state))) for word in ("state", "next"))
    nets = [Half(encoder).eval(), Half(step).eval()] if half else [encoder, step]
    return {
        "encoder": ExportPart(nets[0], (read,), (of_read,), ("source",), kept),
        "step": ExportPart(nets[1], (token, *state), ({0: BATCH}, *vary), ("tokens", *kept), ("logits", *after)),
    }


def has_fixed_length(net: nn.Module) -> bool:
    """Return whether a net's encoder takes only sources padded to the maximum length."""
    return any(isinstance(module, nn.RNNBase) for module in net.modules())


def trace(part: ExportPart) -> ExportedProgram:
    """Return a part's graph, without unused weights and without references to its source code."""
    first = next(iter(inspect.signature(part.net.forward).parameters.values()))
    vary: Any = {first.name: part.vary} if first.kind is inspect.Parameter.VAR_POSITIONAL else part.vary
    # Strict, since otherwise len(x) would fix the graph to two samples.
    program = torch.export.export(part.net, part.inputs, dynamic_shapes=vary, strict=True)
    drop_unread(program)
    program.example_inputs = None
    program._guards_code = []  # size checks in Python, which readers of the file would have to run
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


def drop_unread(program: ExportedProgram) -> None:
    """Remove weights that no node reads from a graph, such as those of auxiliary heads."""
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    for spec in [spec for spec in signature.input_specs if spec.kind in kinds and not nodes[spec.arg.name].users]:
        program.graph.erase_node(nodes[spec.arg.name])
        signature.input_specs.remove(spec)
    program.graph_module.recompile()
    read = {spec.target for spec in signature.input_specs}
    for held in (program.state_dict, program.constants):
        for name in [name for name in held if name not in read]:
            del held[name]
