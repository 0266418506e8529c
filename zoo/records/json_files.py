"""Read and write result.json, exports.json and recipe.json, with validation by schema and checksum."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoo.errors import BadInput, reason
from zoo.files import read_file, write_json
from zoo.records.schema import CHECKSUM, MOST_DEPTH, Exports, Latencies, Name, Record, Result, Step, Text, damaged

JSON_BYTES = 1 << 25  # at most


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json."""
    return _read_json(path, Result)


def read_exports(path: Path) -> dict[str, Any]:
    """Read an exports.json."""
    return _read_json(path, Exports)


def read_recipe(path: Path) -> list[Step]:
    """Read a recipe.json, which in earlier versions was just the list of steps."""
    found = _unsealed(path, _parsed_json(path))
    steps = found.get("steps") if isinstance(found, dict) and found.keys() == {"steps"} else found
    try:
        recipe = msgspec.convert(steps, Annotated[list[Step], Meta(max_length=100)])
        for step in recipe:
            msgspec.convert(step.get("pass"), Name)
            msgspec.convert(step.get("layout", {}), dict[Text, dict[Literal["sizes", "shapes", "unsaved"], dict]])
    except msgspec.ValidationError as error:
        raise damaged(path, error) from error
    return recipe


def read_latencies(path: Path) -> dict[str, Any]:
    """Read a latencies.json."""
    return _read_json(path, Latencies)


def write_latencies(path: Path, latencies: Mapping[str, Any]) -> None:
    """Write a latencies.json."""
    write_sealed(path, latencies, Latencies)


def write_sealed(path: Path, record: Mapping[str, Any], kind: type[Record] | None = None) -> None:
    """Write JSON with its checksum, atomically; raise ValidationError unless it matches its record."""
    plain = json.loads(json.dumps(record, allow_nan=False))  # as it will be read, with strings as keys
    if kind:
        msgspec.convert(plain, kind)
    write_json(path, {**plain, CHECKSUM: _digest(plain)})


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result.json; raise ValidationError, which is a bug, if `read_result` would reject it."""
    write_sealed(path, result, Result)


def write_exports(path: Path, exports: Mapping[str, Any]) -> None:
    """Write an exports.json; raise BadInput if `read_exports` would reject it, e.g. for invalid names of nets."""
    try:
        write_sealed(path, exports, Exports)
    except msgspec.ValidationError as error:
        raise BadInput(f"{path.name} cannot be written for this checkpoint ({reason(error)})") from error


def write_recipe(path: Path, steps: Iterable[Mapping[str, Any]]) -> None:
    """Write a recipe.json."""
    write_sealed(path, {"steps": list(steps)})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_json(path: Path, kind: type[Record]) -> dict[str, Any]:
    found = _unsealed(path, _parsed_json(path))
    try:
        plain: dict[str, Any] = msgspec.to_builtins(msgspec.convert(found, kind))
    except msgspec.ValidationError as error:
        raise damaged(path, error) from error
    return plain


def _parsed_json(path: Path) -> Any:
    content = read_file(path, JSON_BYTES)
    try:
        found = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite, parse_int=_int
        )
        _check_depth(found, MOST_DEPTH)
        return found
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def _unsealed(path: Path, found: Any) -> Any:
    """Verify the checksum, and return the data without it."""
    if not isinstance(found, dict) or CHECKSUM not in found:
        return found
    rest = {key: value for key, value in found.items() if key != CHECKSUM}
    if found[CHECKSUM] != _digest(rest):
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; use the original")
    return rest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _int(text: str) -> int:
    return int(text) if len(text) <= 20 else _no_number(f"{text[:20]}...")


def _check_depth(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        if isinstance(part, dict | list):
            _check_depth(part, depth - 1)
