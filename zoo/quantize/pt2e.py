"""Quantize a net to int8 for CPUs, by torchao's PT2E with the quantizer for Inductor on x86.

Weights have a scale for each output channel; activations one for all, and a zero point, found by calibration (`ptq`) or
during training (zoo.quantize.qat). Only these two files import torchao.
"""

import contextlib
import copy
import dataclasses
import fnmatch
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from zoo.compress.recipe import Step
from zoo.errors import BadInput, ZooError, choices
from zoo.quantize.graph_ir import Program, QuantizedNet, layer_of
from zoo.quantize.operators import has_word

Batches = Iterable[tuple[Tensor, Tensor]]
DEFAULTS: list[Any] = [None, None, None, [0, 0], [1, 1], False]  # of max_pool2d's arguments
QUANTIZED = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)  # layers of these get int8 weights


def program_of(recipe: Iterable[Step]) -> Program | None:
    """Return the program of the net that a recipe leaves, or None where it is no int8 net."""
    programs = [step["program"] for step in recipe if "program" in step]
    return programs[-1] if programs else None


def traced(net: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Trace a copy of a net of images in eval mode, for any number of them; BadInput for a net that has no int8 form.

    `example` is what the net is called with for one sample, on the meta device.
    """
    if isinstance(net, QuantizedNet):
        raise BadInput("the net is quantized already; quantize the float net that it was made of")
    if len(example) > 1 or not example[0].is_floating_point():
        raise BadInput(
            f"int8 activations are for nets of images, and {type(net).__name__} reads sequences; "
            "take compress=weight_int8 or dynamic_int8"
        )
    net = copy.deepcopy(net).cpu().eval()
    for module in net.modules():
        if getattr(module, "inplace", False):  # or a ReLU that follows two convolutions is refused
            setattr(module, "inplace", False)  # noqa: B010  mypy takes the attributes of modules for tensors
    images = torch.zeros(2, *example[0].shape[1:])
    trace = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=True)
    for node in trace.graph.nodes:
        if (
            node.op == "call_function"
            and node.target is not torch.ops.aten.dropout.default
            and not has_word(node.target)
        ):
            raise BadInput(
                f"int8 has no word for {node.target}, which {layer_of(node) or type(net).__name__} computes; "
                "take compress=weight_int8, or compress=none"
            )
    return trace


def layers_of(trace: ExportedProgram) -> list[str]:
    """Name the layers that have weights to quantize, in the order in which they run."""
    layers = [layer_of(node) for node in trace.graph.nodes if node.target in QUANTIZED]
    return list(dict.fromkeys(layer for layer in layers if layer))


def chosen(patterns: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Return the layers that names or patterns stand for; BadInput for one that stands for none."""
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(f"float_layers: expected a list of names or patterns, got {patterns}")
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise BadInput(f"float_layers: no layer of this net is named '{pattern}'; {choices(pattern, layers)}")
    return [layer for layer in layers if any(fnmatch.fnmatch(layer, pattern) for pattern in patterns)]


def graph_of(trace: ExportedProgram) -> fx.GraphModule:
    """Return a traced net as a module, without what Inductor gets wrong in int8.

    Of a max pooling whose input and output are int8 it forgets that it rounds its output's size up (torch 2.14), so
    that such a one is made to pool what it needs of copies of the last row and column, which changes no maximum.
    """
    graph: Any = trace.module(check_guards=False)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default):
        given = list(node.args)
        image, kernel, stride, padding, dilation, is_rounded_up = given + DEFAULTS[len(given) :]
        if is_rounded_up:
            node.args = (image, kernel, stride, padding, dilation)
            short = []
            for dim in (1, 0):
                size, out = image.meta["val"].shape[2 + dim], node.meta["val"].shape[2 + dim]
                covered = (out - 1) * stride[dim] + dilation[dim] * (kernel[dim] - 1) + 1
                short += [0, max(0, covered - 2 * padding[dim] - size)]
            if any(short):
                with graph.graph.inserting_before(node):
                    padded = graph.graph.call_function(torch.ops.aten.pad.default, (image, short, "replicate"))
                node.args = (padded, *node.args[1:])
    graph.recompile()
    return graph


def make_quantizer(float_layers: Sequence[str], is_qat: bool) -> Any:
    """Return the quantizer, with scales as small as needed: its default minimum of 2^-12 is larger than some weights'.

    Fake quantization takes no notice of that bound, so that a trained net would not be the one that is converted.
    """
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    config = get_default_x86_inductor_quantization_config(is_qat=is_qat)
    for kind in ("input_activation", "output_activation", "weight"):
        spec = getattr(config, kind)
        made = spec.observer_or_fake_quant_ctr.p
        observer = made.func.with_args(**{**made.keywords, "eps": torch.finfo(torch.float32).eps})
        config = dataclasses.replace(config, **{kind: dataclasses.replace(spec, observer_or_fake_quant_ctr=observer)})
    quantizer = X86InductorQuantizer().set_global(config)
    for layer in float_layers:
        quantizer.set_module_name_qconfig(layer, None)
    return quantizer


def lower(net: nn.Module, images: Tensor) -> None:
    """Compile a net in eval mode for a CPU, in place, for images of this shape and under torch.no_grad(), and call it.

    Inductor freezes the weights, which lets it fuse int8 layers with what is around them: without, they are slower than
    floats. Other shapes, and inference mode, would have it compile again and freeze nothing. ZooError for a net in int8
    where the CPU would compute something else.
    """
    import torch._inductor.config

    if isinstance(net, QuantizedNet) and not sums_int8_exactly():
        raise ZooError("Inductor's int8 needs a CPU with VNNI, and this one has none: sums would be cut off at 16 bits")
    with quiet_torchao():
        # Brings the patterns of int8 layers with it.
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

        net.compile(dynamic=False)
        with torch._inductor.config.patch(freezing=True), torch.no_grad():
            net(images)


def sums_int8_exactly() -> bool:
    """Return whether this CPU has VNNI, without which two products of int8 are added in 16 bits, and cut off there."""
    return torch.cpu._is_vnni_supported()


@contextlib.contextmanager
def quiet_torchao() -> Iterator[None]:
    """Keep torchao and what it calls from telling of their own past."""
    loggers = [logging.getLogger(name) for name in ("torch.utils._pytree", "torchao")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category)
            for message in ("The input of maxpool2d is not quantized", "To copy construct from a tensor"):
                warnings.filterwarnings("ignore", message, UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
