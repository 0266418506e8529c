"""The .onnx file: a net as operators of ONNX, for ONNX Runtime and whatever else reads them, in any language."""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import BadInput, reason
from zoo.export.alone import session_options
from zoo.export.graphs import Part, trace
from zoo.export.labels import labels, read_labels
from zoo.export.onnx_bounds import check_graph
from zoo.export.opened import Opened
from zoo.files import replacing

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2**31  # of a protocol buffer


def save_onnx(path: Path, part: Part, facts: Mapping[str, Any]) -> None:
    """Write a net's part as a graph of ONNX; whole or not at all."""
    write_onnx(path, translate(part), facts)


def translate(part: Part) -> "onnx.ModelProto":
    """Give a net's part as a graph of ONNX, without a word of where it came from."""
    with quiet():
        program = torch.onnx.export(
            trace(part), dynamo=True, input_names=part.takes, output_names=part.gives, verbose=False
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    del model.graph.value_info[:]
    ends = (*model.graph.input, *model.graph.output)
    for end in ends:
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    for piece in (model, model.graph, *ends, *model.graph.node, *model.graph.initializer):
        del piece.metadata_props[:]
        piece.doc_string = ""
    return model


def write_onnx(path: Path, model: "onnx.ModelProto", facts: Mapping[str, Any]) -> None:
    """Write a graph with what a user must know; BadInput where a single file cannot hold it."""
    from onnx.helper import set_model_props

    if model.ByteSize() > MOST_BYTES:
        raise BadInput(f"an .onnx file holds 2 GiB at most, and this net takes {model.ByteSize() / 2**30:.1f}")
    model.producer_name = "zoo"
    set_model_props(model, labels(facts))
    content = model.SerializeToString()
    with replacing(path) as file:
        file.write(content + _seal(content))


def _seal(content: bytes) -> bytes:
    """Give a checksum of a graph as one more entry of its metadata, which may stand behind it; ONNX has none itself."""
    from onnx import ModelProto

    seal = ModelProto()
    seal.metadata_props.add(key="sha256", value=hashlib.sha256(content).hexdigest())
    return seal.SerializeToString()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch and ONNX Runtime from telling of themselves, and of packages that they could do without."""
    loggers = [logging.getLogger(name) for name in (None, "torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_onnx(path: Path) -> Opened:
    """Open our .onnx file; BadInput for one that is cut short, changed or foreign."""
    import onnxruntime

    content = path.read_bytes()
    facts = read_labels(_checked(content, path), path)
    options = session_options(torch.get_num_threads())
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime's own, which have no common parent
        raise BadInput(f"{path} is not a graph that ONNX Runtime can compute ({reason(error)})") from error
    takes, gives = session.get_inputs(), session.get_outputs()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {one.name: tensor.numpy() for one, tensor in zip(takes, inputs, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, given))

    return Opened(path, facts, [one.shape for one in takes], [one.shape for one in gives], run)


def _checked(content: bytes, path: Path) -> dict[str, str]:
    """Return the metadata of a graph; BadInput before ONNX Runtime sees a file that is not as we write them."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
    except DecodeError as error:
        raise BadInput(f"{path} is cut short or is not an .onnx file ({reason(error)}); export it again") from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if "zoo" not in texts:
        return texts  # which says that it is somebody else's
    end = len(content) - len(_seal(b""))
    if content[end:] != _seal(content[:end]):
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; copy or export it again")
    try:
        check_graph(model)
    except (ValueError, onnx.shape_inference.InferenceError, RuntimeError, TypeError) as error:
        raise BadInput(f"{path} is not an .onnx file that scripts/export.py wrote: {reason(error)}") from error
    return texts
