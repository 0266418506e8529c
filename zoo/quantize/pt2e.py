"""Quantize a net to int8 for CPUs, with torchao's PT2E and its quantizer for Inductor on x86.

Weights have a scale per output channel; activations have one scale and zero point per tensor, found by calibration
(ptq_int8.py) or during training (qat_int8.py). Only modules of zoo.quantize import torchao.
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
from zoo.quantize.pooling import note_sides, pad_integers

Batches = Iterable[tuple[Tensor, Tensor]]
QUANTIZED = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)  # layers of these get int8 weights


def program_of(recipe: Iterable[Step]) -> Program | None:
    """Return the program of the net that a recipe leaves, or None if it is not an int8 net."""
    programs = [step["program"] for step in recipe if "program" in step]
    return programs[-1] if programs else None


def traced(net: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Trace a copy of an image net in eval mode, for any batch size; raise BadInput for a net that has no int8 form.

    `example` has the inputs of the net for one sample, on the meta device.
    """
    if isinstance(net, QuantizedNet):
        raise BadInput("the net is already quantized; quantize the float net it was made from")
    if len(example) > 1 or not example[0].is_floating_point():
        raise BadInput(
            f"int8 activations are for image nets, and {type(net).__name__} reads sequences; "
            "use compress=weight_int8 or dynamic_int8"
        )
    net = copy.deepcopy(net).cpu().eval()
    for module in net.modules():
        if getattr(module, "inplace", False):  # or a ReLU after two convolutions is refused
            setattr(module, "inplace", False)  # noqa: B010  mypy assumes that attributes of modules are tensors
    images = torch.zeros(2, *example[0].shape[1:])
    trace = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=True)
    for node in trace.graph.nodes:
        if (
            node.op == "call_function"
            and node.target is not torch.ops.aten.dropout.default
            and not has_word(node.target)
        ):
            raise BadInput(
                f"int8 does not support {node.target}, which {layer_of(node) or type(net).__name__} computes; "
                "use compress=weight_int8 or compress=none"
            )
    return trace


def layers_of(trace: ExportedProgram) -> list[str]:
    """Return the names of layers that have weights to quantize, in execution order."""
    layers = [layer_of(node) for node in trace.graph.nodes if node.target in QUANTIZED]
    return list(dict.fromkeys(layer for layer in layers if layer))


def chosen(patterns: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Return the layers matched by names or patterns; raise BadInput for one that matches none."""
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(f"float_layers: expected a list of names or patterns, got {patterns}")
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise BadInput(f"float_layers: no layer of this net is named '{pattern}'; {choices(pattern, layers)}")
    return [layer for layer in layers if any(fnmatch.fnmatch(layer, pattern) for pattern in patterns)]


def graph_of(trace: ExportedProgram) -> fx.GraphModule:
    """Return a traced net as a module, to be prepared for quantization; see pooling.py."""
    graph: Any = trace.module(check_guards=False)
    note_sides(graph)
    return graph


def make_quantizer(float_layers: Sequence[str], is_qat: bool) -> Any:
    """Return the quantizer, with scales as small as needed: the default minimum of 2^-12 is too large for some weights.

    Fake quantization ignores that bound, so the converted net would differ from the trained one.
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

    Inductor freezes the weights to fuse int8 layers with their neighbours: without fusion they are slower than floats.
    Other shapes, and inference mode, would trigger recompilation without freezing. Raises ZooError for an int8 net if
    this CPU would compute wrong sums.
    """
    import torch._inductor.config

    if isinstance(net, QuantizedNet) and not sums_int8_exactly():
        raise ZooError("Inductor's int8 needs a CPU with VNNI, and this one has none: sums would saturate at 16 bits")
    with quiet_torchao():
        # Registers the patterns of int8 layers.
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401

        if isinstance(net, QuantizedNet):
            pad_integers(net)
        net.compile(dynamic=False)
        with torch._inductor.config.patch(freezing=True), torch.no_grad():
            net(images)


def sums_int8_exactly() -> bool:
    """Return whether this CPU has VNNI, without which two int8 products are added in 16 bits and saturate."""
    return torch.cpu._is_vnni_supported()


@contextlib.contextmanager
def quiet_torchao() -> Iterator[None]:
    """Silence the deprecation warnings of torchao and the packages it calls."""
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
