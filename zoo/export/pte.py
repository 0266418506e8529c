"""The .pte file: an image net as a program of ExecuTorch, PyTorch's runtime for phones, computed by XNNPACK.

ExecuTorch plans all memory in advance, so a program takes one image. The zoo never reads one: ExecuTorch's reader is
not made for files that somebody may have changed.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from zoo.errors import BadInput, reason
from zoo.export.file_metadata import labels
from zoo.export.onnx import quiet
from zoo.export.parts import ExportPart, trace
from zoo.files import replacing

INSTALL = "pip install 'executorch==1.5.*', which was tested with torch 2.14"


def check_executorch() -> None:
    """Raise BadInput if ExecuTorch is not installed, or not for this version of torch."""
    try:
        with quiet():
            import executorch.backends.xnnpack.partition.xnnpack_partitioner
            import executorch.runtime  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(f"format=pte needs the package executorch ({reason(error)}): {INSTALL}") from error
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise BadInput(
            f"format=pte: the installed executorch does not work with torch {torch.__version__} ({reason(error)}): "
            f"{INSTALL}"
        ) from error


def of_one_image(part: ExportPart) -> ExportedProgram:
    """Return the graph of a part of an image net for a single image."""
    return trace(dataclasses.replace(part, inputs=(part.inputs[0][:1],), vary=({},)))


def quantized_for_xnnpack(part: ExportPart, images: Iterable[Tensor]) -> ExportedProgram:
    """Return the graph for a single image in int8, as XNNPACK computes it.

    Weights have a scale per output channel; the scale and zero point of activations come from `images`, batches as the
    graph takes them.
    """
    with quiet():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = xnnpack.XNNPACKQuantizer().set_global(
            xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        )
        observed = prepare_pt2e(trace(part).module(check_guards=False), quantizer)
        for batch in images:
            observed(batch)
        return torch.export.export(convert_pt2e(observed), (part.inputs[0][:1],), strict=True)


def save_pte(path: Path, program: ExportedProgram, facts: Mapping[str, Any]) -> None:
    """Write a graph as a program of ExecuTorch, with metadata as methods that return them; atomically."""
    with quiet():
        import executorch.kernels.quantized  # noqa: F401  for layers in int8 that XNNPACK does not compute
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        xnnpack = XnnpackPartitioner()
        edge = to_edge_transform_and_lower(program, partitioner=[xnnpack], constant_methods=labels(facts))
        content = edge.to_executorch().buffer
    with replacing(path) as file:
        file.write(content)
