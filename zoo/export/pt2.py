"""The .pt2 file: a net as traced by torch.export, for any process that has torch.

torch.export.load unpickles, looks up and evaluates whatever a file contains, so a foreign file could run any code.
Only the plain data of the archive is read here: its graph becomes a program of zoo.quantize.graph_ir, which allows
only operators of nets, and its weights become tensors. torch.export is not involved.
"""

import functools
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from zoo.errors import BadInput, reason
from zoo.export.file_metadata import labels, read_labels
from zoo.export.parts import ExportPart, trace
from zoo.export.runtime import LoadedGraph
from zoo.files import replacing
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.operators import EXPORTED, INT8, PROBLEMS

EXTRA, MODEL = "extra/", "models/model.json"
WEIGHTS = ("parameter", "buffer", "tensor_constant")
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
# The codes in torch/_export/serde/schema.py; nets use none of the other types, such as complex numbers.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 4: "preserve_format"}
CHECK = "aten._assert_tensor_metadata.default"  # checks a tensor's traced metadata and returns nothing
PLACES = ("layout", "device", "pin_memory")  # keywords for where operators create tensors, which is the CPU here


class TensorMeta(msgspec.Struct):
    """The metadata of a tensor in a graph; a size that may vary is an expression, which is ignored."""

    dtype: int
    sizes: list[dict[str, Any]]
    strides: list[dict[str, Any]]
    storage_offset: dict[str, Any]


class Input(msgspec.Struct):
    name: str
    arg: dict[str, Any]
    kind: int | None = None  # 1 for a positional argument


class Node(msgspec.Struct):
    target: str
    inputs: list[Input]
    outputs: list[dict[str, Any]]


class Graph(msgspec.Struct):
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    nodes: list[Node]
    tensor_values: dict[str, TensorMeta]


class Signature(msgspec.Struct):
    input_specs: list[dict[str, Any]]
    output_specs: list[dict[str, Any]]


class GraphModule(msgspec.Struct):
    graph: Graph
    signature: Signature


class Model(msgspec.Struct):
    """models/model.json; only the fields listed here are read."""

    graph_module: GraphModule


class Payload(msgspec.Struct):
    path_name: str
    use_pickle: Literal[False]
    tensor_meta: TensorMeta


class Payloads(msgspec.Struct):
    config: dict[str, Payload]


def save_pt2(path: Path, part: ExportPart, facts: Mapping[str, Any]) -> None:
    """Write a part of a net as a graph for torch; atomically."""
    program = trace(part)
    with replacing(path) as file:
        torch.export.save(program, file, extra_files=labels(facts))


def open_pt2(path: Path) -> LoadedGraph:
    """Open a .pt2 file; raise BadInput if it is truncated, changed or foreign."""
    records = _records(path)
    texts = {name.removeprefix(EXTRA): content for name, content in records.items() if name.startswith(EXTRA)}
    facts = read_labels({name: content.decode(errors="replace") for name, content in texts.items()}, path)
    try:
        module = msgspec.json.decode(records.get(MODEL, b""), type=Model).graph_module
        program, tensors = _program_of(module, _payloads(records))
        takes, gives, dtypes = _ends(module)
    except (msgspec.DecodeError, *PROBLEMS) as error:
        raise BadInput(f"{path} is not a .pt2 file that scripts/export.py wrote: {reason(error)}") from error

    def example(num: int) -> list[Tensor]:
        """Return inputs on the meta device with `num` samples and 2 for every other dynamic size."""
        sizes = [[(2 if place else num) if size is None else size for place, size in enumerate(one)] for one in takes]
        return [torch.empty(size, dtype=dtype, device="meta") for size, dtype in zip(sizes, dtypes, strict=True)]

    net = deserialize(program, tensors, str(path), example, (INT8, EXPORTED))

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = net(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return LoadedGraph(path, facts, takes, gives, run, dtypes)


def _records(path: Path) -> dict[str, bytes]:
    """Return the records of an archive by name; raise BadInput if it is damaged or its records exceed its size."""
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise ValueError("its records are compressed")
            if sum(info.file_size for info in infos) > len(content):
                raise ValueError("its records are larger than the file")
            root = infos[0].filename.partition("/")[0] + "/" if infos else ""
            if not all(info.filename.startswith(root) for info in infos):
                raise ValueError("its records are not all in one folder")
            records = {info.filename.removeprefix(root): archive.read(info) for info in infos}  # verifies checksums
            if len(records) < len(infos):
                raise ValueError("two of its records have the same name")
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, NotImplementedError, OSError) as error:
        raise BadInput(
            f"{path} is truncated or is not a .pt2 file, or it was changed ({reason(error)}); copy or export it again"
        ) from error
    if any(name.startswith("data/aotinductor/") for name in records):
        raise BadInput(f"{path} holds compiled code, which is never run here; use the .pt2 of format=pt2")
    return records


def _payloads(records: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Return the tensors of an archive by name; raise ValueError if one does not fit its record."""
    tensors = {}
    for config in CONFIGS:
        room = config[: config.rindex("/") + 1]
        for name, payload in msgspec.json.decode(records[config], type=Payloads).config.items():
            meta, content = payload.tensor_meta, records[room + payload.path_name]
            sizes, strides = ([_number(one) for one in several] for several in (meta.sizes, meta.strides))
            if math.prod(sizes) * DTYPES[meta.dtype].itemsize > len(content) or any(side < 0 for side in sizes):
                raise ValueError(f"its tensor '{name[:80]}' is larger than its record")
            flat = torch.frombuffer(bytearray(content), dtype=DTYPES[meta.dtype]) if content else torch.empty(0)
            tensors[name] = flat.as_strided(sizes, strides, _number(meta.storage_offset)).contiguous()
    return tensors


def _number(size: Mapping[str, Any]) -> int:
    if type(size.get("as_int")) is not int:
        raise ValueError("a tensor of fixed size has a size that varies")
    return size["as_int"]


def _program_of(module: GraphModule, payloads: Mapping[str, Tensor]) -> tuple[list[list[Any]], dict[str, Tensor]]:
    """Return a graph as a program, and the tensors it reads."""
    places, tensors, program = _inputs_of(module, payloads)
    value = functools.partial(_value, places)
    for node in module.graph.nodes:
        target = node.target.removeprefix("torch.ops.").removeprefix("_")
        if target == CHECK:
            continue
        by_place = [value(one.arg) for one in node.inputs if one.kind == 1 or target.startswith("operator.")]
        by_name = {one.name: value(one.arg) for one in node.inputs[len(by_place) :] if one.name not in PLACES}
        program.append([target, *by_place, *([{"keywords": by_name}] if by_name else [])])
        made = {"result": len(program) - 1}
        results = [one for output in node.outputs for one in output.get("as_tensors", [output])]
        if len(results) == 1:
            places[_name_of(results[0])] = made
            continue
        for index, one in enumerate(results):
            places[_name_of(one)] = {"result": len(program)}
            program.append(["operator.getitem", made, index])
    program.append(["output", [value(one) for one in module.graph.outputs]])
    return program, tensors


def _inputs_of(
    module: GraphModule, payloads: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], list[list[Any]]]:
    """Return where a program has what its graph takes, the tensors among that, and the program's first steps."""
    places: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    program: list[list[Any]] = []
    for spec in module.signature.input_specs:
        ((kind, argument),) = spec.items()
        if kind == "user_input":
            places[_name_of(argument["arg"])] = {"result": len(program)}
            program.append(["input"])
        elif kind in WEIGHTS:
            name = argument[f"{kind}_name"]
            tensors[name] = payloads[name]
            places[argument["arg"]["name"]] = {"tensor": name}
        else:
            raise ValueError(f"its graph takes a {kind[:80]}")
    return places, tensors, program


def _value(places: Mapping[str, dict[str, Any]], argument: Mapping[str, Any]) -> Any:
    """Return an argument of a graph as a program has it."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return places[content["name"]]
        case "as_tensors":
            return [places[one["name"]] for one in content]
        case "as_optional_tensors" | "as_sym_ints":
            return [_value(places, one) for one in content]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _value(places, content)
        case "as_name":
            return places[content]
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools":
            return content
        case "as_float":
            return float(content)  # infinity is stored as text
        case "as_scalar_type":
            return {"dtype": str(DTYPES[content]).removeprefix("torch.")}
        case "as_memory_format":
            return {"memory_format": MEMORY_FORMATS[content]}
    raise ValueError(f"its graph has an argument of the kind '{kind[:80]}'")


def _name_of(argument: Mapping[str, Any]) -> str:
    """Return the name of a result, which is a tensor or a size."""
    ((kind, content),) = argument.items()
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return content["as_name"]
    return content if isinstance(content, str) else content["name"]


def _ends(module: GraphModule) -> tuple[list[list[int | None]], list[list[int | None]], list[torch.dtype]]:
    """Return the shapes of a graph's inputs and outputs, with None for dynamic sizes, and the types of its inputs."""
    takes = [_name_of(spec["user_input"]["arg"]) for spec in module.signature.input_specs if "user_input" in spec]
    values = module.graph.tensor_values
    ends = (takes, [_name_of(one) for one in module.graph.outputs])
    takes_shapes, gives_shapes = ([[one.get("as_int") for one in values[n].sizes] for n in names] for names in ends)
    return takes_shapes, gives_shapes, [DTYPES[values[name].dtype] for name in takes]
