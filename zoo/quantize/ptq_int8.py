"""Quantize a trained net to int8 with activation ranges from some batches, with torchao's PT2E."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor
from torch.export import ExportedProgram

from zoo.errors import BadInput
from zoo.quantize.graph_ir import Program, serialize
from zoo.quantize.pooling import without_ceil_mode
from zoo.quantize.pt2e import Batches, graph_of, make_quantizer, quiet_torchao
from zoo.records.steps import MAX_STEPS, Count, Names, Record


class StepRecord(Record, frozen=True, kw_only=True):
    num_batches: Count
    float_layers: Names
    program: Annotated[list[Any], Meta(max_length=MAX_STEPS)]


def ptq(
    trace: ExportedProgram, batches: Batches, num_batches: int, float_layers: Sequence[str] = ()
) -> tuple[Program, dict[str, Tensor]]:
    """Quantize a traced net after training, and return its program and tensors.

    Activations are calibrated by histograms over `num_batches` batches of images and labels. Raises BadInput if there
    are fewer, or if the images do not fit the net.
    """
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        prepared = prepare_pt2e(graph_of(trace), make_quantizer(float_layers, is_qat=False))
        name = trace.graph_signature.user_inputs[0]
        shape = next(node.meta["val"].shape[1:] for node in trace.graph.nodes if node.name == name)
        with torch.no_grad():
            for images in _calibration(batches, num_batches, tuple(shape)):
                prepared(images)
        return serialize(without_ceil_mode(convert_pt2e(prepared)))


def _calibration(batches: Batches, num_batches: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    num = 0
    for images, *_ in itertools.islice(batches, num_batches):
        if tuple(images.shape[1:]) != shape:
            raise BadInput(f"calibration images are {tuple(images.shape[1:])}, and the net takes {shape}")
        num += 1
        yield images
    if num < num_batches:
        raise BadInput(f"num_batches={num_batches}: expected at most {num}, the number of training batches")
