"""The .onnx file: a net as operators of ONNX, for ONNX Runtime and whatever else reads them, in any language."""

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput, reason
from zoo.export.graphs import trace
from zoo.export.labels import Exported, Runtime, check_shapes, labels, read_labels
from zoo.files import replacing

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "images", "logits"
MOST_BYTES = 2**31  # of a protocol buffer


def save_onnx(path: Path, net: nn.Module, inputs: tuple[Tensor, ...], facts: Mapping[str, Any]) -> None:
    """Write a net, called with inputs of two samples, as a graph that takes any number; whole or not at all."""
    write_onnx(path, translate(net, inputs), facts)


def translate(net: nn.Module, inputs: tuple[Tensor, ...]) -> "onnx.ModelProto":
    """Give a net in eval mode as a graph of ONNX for any number of samples, without a word of where it came from."""
    with quiet():
        program = torch.onnx.export(
            trace(net, inputs), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    del model.graph.value_info[:]
    ends = (*model.graph.input, *model.graph.output)
    for end in ends:
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    for part in (model, model.graph, *ends, *model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
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


class Half(nn.Module):
    """A net in float16 between images and logits of float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).half()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.half()).float()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch and ONNX Runtime from telling of themselves, and of packages that they could do without."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
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


def read_onnx(path: Path) -> Exported:
    """Read our .onnx file; BadInput for one that is cut short, changed or foreign, or of another net than it says."""
    import onnxruntime

    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:  # from bytes, so that no other file is read, whatever the graph says
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime's own, which have no common parent
        raise BadInput(f"{path} is cut short or is no .onnx file ({reason(error)}); copy or export it again") from error
    facts = read_labels(session.get_modelmeta().custom_metadata_map, path)
    end = len(content) - len(_seal(b""))
    if content[end:] != _seal(content[:end]):
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; copy or export it again")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    check_shapes(path, facts, taken.shape, given.shape)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([given.name], {taken.name: images.cpu().numpy()})[0])

    return Exported(path, facts, Runtime(run, facts))
