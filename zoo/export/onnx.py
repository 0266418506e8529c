"""The .onnx file: a net as ONNX operators, for ONNX Runtime and other runtimes in any language."""

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
from zoo.export.file_metadata import labels, read_labels
from zoo.export.onnx_bounds import check_graph
from zoo.export.onnx_sizes import SAMPLES, Sizes
from zoo.export.parts import ExportPart, trace
from zoo.export.runtime import LoadedGraph
from zoo.export.worker import session_options
from zoo.files import replacing
from zoo.memory import available_bytes

if TYPE_CHECKING:
    import onnx
    import onnxruntime

MOST_BYTES = 2**31  # limit of a protocol buffer
# Types of the inputs and outputs of our graphs, as ONNX Runtime names them.
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(bool)": torch.bool,
}
LONGEST_REASON = 300


def save_onnx(path: Path, part: ExportPart, facts: Mapping[str, Any]) -> None:
    """Write a part of a net as an ONNX graph; atomically."""
    write_onnx(path, translate(part), facts)


def translate(part: ExportPart) -> "onnx.ModelProto":
    """Return a part of a net as an ONNX graph, without references to its source code."""
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
    """Write a graph with its metadata; raise BadInput if it is too large for one file."""
    from onnx.helper import set_model_props

    if model.ByteSize() > MOST_BYTES:
        raise BadInput(f"an .onnx file holds at most 2 GiB, and this net takes {model.ByteSize() / 2**30:.1f}")
    model.producer_name = "zoo"
    set_model_props(model, labels(facts))
    content = model.SerializeToString()
    with replacing(path) as file:
        file.write(content + _seal(content))


def _seal(content: bytes) -> bytes:
    """Return the checksum of a graph as an extra metadata entry, since ONNX itself has none."""
    from onnx import ModelProto

    seal = ModelProto()
    seal.metadata_props.add(key="sha256", value=hashlib.sha256(content).hexdigest())
    return seal.SerializeToString()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence messages of torch and ONNX Runtime, also those about missing optional packages."""
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


def open_onnx(path: Path) -> LoadedGraph:
    """Open an .onnx file; raise BadInput, also when it is run, if it is truncated, changed or foreign."""
    import onnxruntime

    content = path.read_bytes()
    facts, sizes = _checked(content, path)
    try:
        session = onnxruntime.InferenceSession(content, _options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BadInput(f"{path} is not a graph that ONNX Runtime can compute ({_short(error)})") from error
    takes, gives = session.get_inputs(), session.get_outputs()
    checked: set[tuple[torch.Size, ...]] = set()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in inputs)
        try:
            if shapes not in checked:
                sizes.check(shapes)
                checked.add(shapes)
            given = {one.name: tensor.numpy() for one, tensor in zip(takes, inputs, strict=True)}
            return tuple(torch.from_numpy(array) for array in session.run(None, given))
        except Exception as error:  # exceptions of ONNX and ONNX Runtime have no common base class
            listed = ", ".join(str(list(shape)) for shape in shapes)[:80]
            raise BadInput(f"{path} holds a graph that cannot be computed for {listed}: {_short(error)}") from error

    odd = [one.type for one in (*takes, *gives) if one.type not in DTYPES]
    if odd:
        raise BadInput(f"{path} takes or returns {odd[0][:80]}, which no exported net does")
    dtypes = [[DTYPES[one.type] for one in ends] for ends in (takes, gives)]
    return LoadedGraph(path, facts, [one.shape for one in takes], [one.shape for one in gives], run, *dtypes)


def _options() -> "onnxruntime.SessionOptions":
    """Return session options for an untrusted graph, which limit it to the free memory and log nothing."""
    import onnxruntime

    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": available_bytes()}))
    options = session_options(torch.get_num_threads())
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4  # fatal only; errors are raised as exceptions anyway
    return options


def _short(error: Exception) -> str:
    return reason(error)[:LONGEST_REASON]


def _checked(content: bytes, path: Path) -> tuple[dict[str, Any], Sizes]:
    """Return a graph's facts and sizes; raise BadInput before ONNX Runtime opens a graph that we did not write."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
    except DecodeError as error:
        raise BadInput(f"{path} is truncated or is not an .onnx file ({reason(error)}); export it again") from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    end = len(content) - len(_seal(b""))
    if "zoo" in texts and content[end:] != _seal(content[:end]):
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; copy or export it again")
    facts = read_labels(texts, path)
    try:
        check_graph(model, len(content))
        sizes = Sizes(model)
        sizes.check([[size.dim_value or SAMPLES for size in one.type.tensor_type.shape.dim] for one in sizes.inputs])
    except Exception as error:  # ONNX's exceptions have no common base class
        raise BadInput(f"{path} is not an .onnx file that scripts/export.py wrote: {_short(error)}") from error
    return facts, sizes
