"""The .pt2 file: a net as torch.export traced it, for any process that has torch.

torch.export.load by itself unpickles, looks up and evaluates what a file asks it to, so that a foreign one could do
anything. What is read here is first held against the little that we write.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.pt2_archive import PT2ArchiveReader

from zoo.errors import BadInput, reason
from zoo.export.graphs import Part, trace
from zoo.export.labels import labels, read_labels
from zoo.export.opened import Opened
from zoo.files import replacing

EXTRA = "extra/"
# What else an archive of ours holds; an AOTInductor package has compiled code, and other files may have pickles.
RECORDS = re.compile(
    r"models/model\.json|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    rf"|{EXTRA}\w+|archive_format|archive_version|byteorder|\.data/\w+|version"
)
NAME = re.compile(r"[\w.+-]*")  # of what becomes a name in the code that torch makes of a graph, and runs
ARITHMETIC = "add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem"
OPERATORS = re.compile(
    rf"torch\.ops\.(aten|quantized_decomposed)\.(?!from_file)\w+\.\w+|_operator\.({ARITHMETIC})"
    r"|torch\.sym_(max|min|not|float|ite)"
)
CALLS = re.compile("Symbol|Integer|Add|Mul|Pow|Max|Min|FloorDiv|Mod|CleanDiv|PythonMod|Eq|Ne|Ge|Gt|Le|Lt")
EXPRESSION = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword),
    *(ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop),
)


def save_pt2(path: Path, part: Part, facts: Mapping[str, Any]) -> None:
    """Write a net's part as a graph that torch runs; whole or not at all."""
    program = trace(part)
    with replacing(path) as file:
        torch.export.save(program, file, extra_files=labels(facts))


def open_pt2(path: Path) -> Opened:
    """Open our .pt2 file; BadInput for one that is cut short, changed or foreign."""
    content = path.read_bytes()
    texts = _checked(content, path)
    facts = read_labels(texts, path)
    if b"quantized_decomposed" in content:
        # Registers the operators of int8, which torch looks up.
        from torch.ao.quantization.fx import _decomposed  # noqa: F401
    try:
        # Not torch.export.load, which goes on with an older format, of pickles, where it meets an error.
        from torch.export.pt2_archive._package import load_pt2

        program = load_pt2(io.BytesIO(content)).exported_programs["model"]
        module = program.module()
    except Exception as error:  # whatever torch makes of a graph that it did not write
        raise BadInput(f"{path} holds no graph that this torch can read: {reason(error)}") from error
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    takes, gives = ([list(values[name].shape) for name in s] for s in (signature.user_inputs, signature.user_outputs))

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = module(*inputs)
        return found if isinstance(found, tuple) else (found,)

    return Opened(path, facts, takes, gives, run)


def _checked(content: bytes, path: Path) -> dict[str, str]:
    """Give the texts of an archive; BadInput unless it is whole, and asks torch for nothing but arithmetic."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()  # torch itself compares no checksums
        reader = PT2ArchiveReader(io.BytesIO(content))
        names = reader.get_file_names()
    except (zipfile.BadZipFile, RuntimeError, AssertionError, EOFError) as error:
        raise BadInput(f"{path} is cut short or is no .pt2 file ({reason(error)}); copy or export it again") from error
    if damaged:
        raise BadInput(f"{path} was changed after it was written: a checksum does not match; copy or export it again")
    if any(name.startswith("data/aotinductor/") for name in names):
        raise BadInput(f"{path} holds compiled code, which is not run unseen; use the .pt2 of format=pt2 here")
    try:
        _check_records(reader, names)
    except Exception as error:
        raise BadInput(f"{path} is no .pt2 file that scripts/export.py wrote: {reason(error)}") from error
    return {name.removeprefix(EXTRA): reader.read_string(name) for name in names if name.startswith(EXTRA)}


def _check_records(reader: PT2ArchiveReader, names: list[str]) -> None:
    """Raise ValueError for records that would be unpickled, and for a graph that could run anything but a net."""
    for name in names:
        if not RECORDS.fullmatch(name):
            raise ValueError(f"it holds '{name}'")
    if len(reader.read_bytes("data/sample_inputs/model.pt")):
        raise ValueError("it holds sample inputs, which might be a pickle")
    for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        for payload in json.loads(reader.read_string(name))["config"].values():
            if payload["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
                raise ValueError(f"it holds a pickle, '{payload['path_name']}'")
    model = json.loads(reader.read_string("models/model.json"))
    if model["guards_code"]:
        raise ValueError("it brings Python code")
    _check_graph(model)


def _check_graph(value: Any, key: str = "") -> None:
    """Raise ValueError where a part of a graph's JSON, at `key` of the part above it, could become code."""
    if isinstance(value, dict):
        if key == "metadata" and value:
            raise ValueError("its nodes have metadata")
        for name, part in value.items():
            _check_graph(name)
            _check_graph(part, name)
    elif isinstance(value, list):
        for part in value:
            _check_graph(part, key)
    elif not isinstance(value, str) or key == "as_string":  # which becomes a literal
        return
    elif key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec") and value.startswith("["):
        _check_tree(json.loads(value))
    elif not (OPERATORS if key == "target" and "." in value and _is_call(value) else NAME).fullmatch(value):
        raise ValueError(f"its graph asks for '{value}'")


def _is_call(target: str) -> bool:
    """Tell an operator's name, which torch looks up among its own, from a weight's."""
    return target.startswith(("torch", "_operator", "math", "#"))


def _check_tree(spec: Any) -> None:
    """Raise ValueError for arguments that are in anything but tuples, lists and dicts."""
    parts = spec[1:] if isinstance(spec, list) else [spec]
    for part in parts:
        if part["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
            raise ValueError(f"its graph asks for '{part['type']}'")
        if part["context"] not in (None, "null", "[]"):
            raise ValueError("its graph has arguments with names")
        for child in part["children_spec"]:
            _check_tree(child)


def _check_expression(text: str) -> None:
    """Raise ValueError for a size that is more than a formula; SymPy evaluates it as Python."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        is_foreign = isinstance(node, ast.Call) and not CALLS.fullmatch(ast.unparse(node.func))
        if is_foreign or not isinstance(node, EXPRESSION):
            raise ValueError(f"its graph asks for '{text}'")
