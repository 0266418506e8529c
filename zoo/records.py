"""The files of a run's folder, read once and checked: JSON, YAML, CSV and safetensors are data, whoever wrote them.

What does not fit its record, or not its checksum, ends in BadInput, one sentence that names the file. A key that a
record of JSON does not know is refused; settings in a config may be any. The checksum is of everything else in the
file: in JSON the key `checksum`, in config.yaml the comment in the first line, in metrics.csv the name of a last column
that is empty, in predictions.safetensors a key of the metadata. Files of earlier versions have none, and are read, too.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import yaml
from msgspec import UNSET, Meta, Struct, UnsetType
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from zoo.errors import BadInput, reason
from zoo.files import open_file, read_file, write_json, write_text

CHECKSUM = "checksum"
JSON_BYTES, CONFIG_BYTES, METRICS_BYTES, PREDICTIONS_BYTES = 1 << 25, 1 << 17, 1 << 28, 1 << 30  # at most
MOST_DEPTH = 32
MOST_COLUMNS = 4096
SEAL = re.compile(r"# sha256: ([0-9a-f]{64})")
DAMAGED_SEAL = re.compile(r"[0-9a-f]{32}")  # half of it is whole, whatever bit was flipped
COLUMN = re.compile(r"sha256:([0-9a-f]{64})")

PATH = "^[^\\x00\\ud800-\\udc7f\\udd00-\\udfff]*$"  # bytes of names that are not UTF-8 are between the last two
Text = Annotated[str, Meta(max_length=65_536)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Names = Annotated[list[Name], Meta(max_length=10_000)]
Metrics = dict[Name, float | None]  # null where it was not a number


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A frozen record that refuses keys it does not know."""


class Times(Record, frozen=True, kw_only=True):
    """Milliseconds."""

    p50: Amount
    p95: Amount


class Cell(Record, frozen=True, kw_only=True):
    """What a format of an exported net came to: figures, or why it was refused."""

    format: Name
    precision: Name
    runtime: Name
    files: Names
    reason: Text | None
    size_bytes: Count | UnsetType = UNSET
    accuracy: Share | UnsetType = UNSET
    largest_difference: Amount | UnsetType = UNSET
    latency_ms: dict[Literal["1", "64"], Times] | UnsetType = UNSET
    peak_bytes: Count | UnsetType = UNSET
    modules: Names | UnsetType = UNSET

    def __post_init__(self) -> None:
        figures = (self.size_bytes, self.accuracy, self.largest_difference, self.peak_bytes, self.modules)
        has = [figure is not UNSET for figure in (*figures, self.latency_ms)]
        if any(has) if self.reason else not all(has):
            raise ValueError("a format has either all its figures or a reason")
        if self.latency_ms is not UNSET and list(self.latency_ms) != ["1", "64"]:
            raise ValueError("latency_ms must be of 1 and of 64")


class Exports(Record, frozen=True, kw_only=True):
    """exports.json: what scripts/export.py made of a checkpoint."""

    checkpoint: Annotated[str, Meta(max_length=4096, pattern=PATH)]
    net: Name
    data: Name
    accuracy: Share
    rows: Annotated[list[Cell], Meta(max_length=1000)]
    sha256: Name | UnsetType = UNSET  # of the checkpoint


class Ledger(Struct, frozen=True):
    bytes: Count
    ratio: Amount


class Packed(Struct, frozen=True):
    """What a run tells of its packed file, as far as tables are made of it."""

    ledger: Ledger
    stages: dict[Name, Amount]


class InFloats(Struct, frozen=True):
    """What a run tells of the net in floats of which it made one in integers."""

    product_bytes: Count
    test: Metrics

    def __post_init__(self) -> None:
        _check_shares(self.test)
        if self.test.get("accuracy") is None:
            raise ValueError("float.test has no accuracy")


def _check_shares(metrics: Metrics) -> None:
    for key, value in metrics.items():
        most = 1 if key in ("accuracy", "top5", "token_accuracy") else math.inf
        if value is not None and not (key.endswith("loss") or 0 <= value <= most):
            raise ValueError(f"{key} is not a share")


class Result(Record, frozen=True, kw_only=True):
    """result.json: what a finished run came to."""

    name: Name
    net: Name
    data: Name
    params: Count
    macs: Count
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    epochs: Count
    best_epoch: Count
    seconds: Amount
    epoch_seconds: list[Amount]
    images_per_second: Amount
    device: Name
    precision: Name
    validation: Metrics
    test: Metrics
    num_samples: dict[Literal["train", "val", "test"], Count]
    split_hash: Name
    commit: Name | None
    versions: dict[Name, Name]
    bytes: dict[Name, Count]
    settings: dict[Name, Any] | UnsetType = UNSET  # from here on, not all versions wrote it
    processes: Count | UnsetType = UNSET
    product_bytes: Count | UnsetType = UNSET
    latency_ms: Amount | UnsetType = UNSET
    compress: dict[Name, Any] | UnsetType = UNSET
    folder: Text | UnsetType = UNSET
    split_sizes: dict[Literal["train", "val", "test"], Count] | UnsetType = UNSET
    test_hash: Name | UnsetType | None = UNSET
    exports: dict[Name, Cell] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.test.get("accuracy") is None:
            raise ValueError("test has no accuracy")
        _check_shares(self.validation)
        _check_shares(self.test)
        if self.product_bytes is UNSET and "model.safetensors" not in self.bytes:
            raise ValueError("product_bytes is missing")
        if any(sizes is not UNSET and "test" not in sizes for sizes in (self.num_samples, self.split_sizes)):
            raise ValueError("num_samples does not say how many were tested")
        for name, told in (self.compress or {}).items():
            if name == "pack":
                msgspec.convert(told, Packed)
            if isinstance(told, dict) and "float" in told:
                msgspec.convert(told["float"], InFloats)


class Choices(Struct, frozen=True):
    """The option that was taken of each group that comparing needs; of others, there may be any."""

    model: Name
    data: Name
    task: Name


class Config(Struct, frozen=True):
    """config.yaml, as far as comparing and resuming need it."""

    name: Name | int | float
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    model: dict[Name, Any]
    data: dict[Name, Any]
    choices: dict[Name, Name | None]

    def __post_init__(self) -> None:
        msgspec.convert(self.choices, Choices)


Step = dict[Name, Any]


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json."""
    return _read_json(path, Result)


def read_exports(path: Path) -> dict[str, Any]:
    """Read an exports.json."""
    return _read_json(path, Exports)


def read_recipe(path: Path) -> list[Step]:
    """Read a recipe.json, which in earlier versions was the list of steps alone."""
    found = _unsealed(path, _parsed_json(path))
    steps = found.get("steps") if isinstance(found, dict) and found.keys() == {"steps"} else found
    try:
        recipe = msgspec.convert(steps, Annotated[list[Step], Meta(max_length=100)])
        for step in recipe:
            msgspec.convert(step.get("pass"), Name)
            msgspec.convert(step.get("layout", {}), dict[Text, dict[Literal["sizes", "shapes", "unsaved"], dict]])
    except msgspec.ValidationError as error:
        raise _damaged(path, error) from error
    return recipe


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON with its checksum, whole or not at all."""
    plain = json.loads(json.dumps(record, allow_nan=False))  # as it will be read, with keys that are texts
    write_json(path, {**plain, CHECKSUM: _digest(plain)})


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result.json; ValidationError, for a bug of ours, where `read_result` would refuse it."""
    msgspec.convert(json.loads(json.dumps(result, allow_nan=False)), Result)
    write_sealed(path, result)


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
        raise _damaged(path, error) from error
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
        raise _damaged(path, error) from error


def _unsealed(path: Path, found: Any) -> Any:
    """Return what was read without its checksum, which must fit."""
    if not isinstance(found, dict) or CHECKSUM not in found:
        return found
    rest = {key: value for key, value in found.items() if key != CHECKSUM}
    if found[CHECKSUM] != _digest(rest):
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; use the original")
    return rest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
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


def _damaged(path: Path, error: BaseException | str) -> BadInput:
    why = error if isinstance(error, str) else reason(error)[:200]
    return BadInput(f"{path} is damaged, or no zoo wrote it ({why}); use the original")


def write_config(path: Path, text: str) -> None:
    """Write a config.yaml, whole or not at all, with its checksum as a comment in the first line."""
    write_text(path, f"# sha256: {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.yaml as plain data: no aliases, no tags, no interpolations, which a run's config has none of."""
    try:
        text = read_file(path, CONFIG_BYTES).decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error
    body = _without_seal(path, text)
    try:
        _check_events(body)
        plain: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(body)))
        _check_settings(plain)
        msgspec.convert(plain, Config)
    except Exception as error:  # of YAML's and OmegaConf's many kinds
        raise _damaged(path, error) from error
    return plain


def _without_seal(path: Path, text: str) -> str:
    first, _, body = text.partition("\n")
    seal = SEAL.fullmatch(first)
    if seal is None:
        if DAMAGED_SEAL.search(first):
            raise _damaged(path, "its first line is not the checksum that it was")
        if not text.endswith("\n"):
            raise _damaged(path, "its last line has no end")
        return text
    if hashlib.sha256(body.encode()).hexdigest() != seal.group(1):
        raise BadInput(
            f"{path} was changed after the run wrote it: its checksum does not match; put the original back or, if it "
            "was changed on purpose, delete its first line, '# sha256: ...'"
        )
    return body


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that means more than it says, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if getattr(event, "anchor", None) is not None:
            raise ValueError("it has aliases")
        if getattr(event, "tag", None) is not None and event.tag != "!":
            raise ValueError("it has tags")
        if isinstance(event, yaml.ScalarEvent) and ("${" in event.value or event.value == "???"):
            raise ValueError("it has values that are not settled")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")


def _check_settings(value: Any) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key for key in value):
            raise ValueError("a key is not a text")
        value = value.values()
    elif not isinstance(value, list):
        if isinstance(value, float) and math.isnan(value):
            raise ValueError("a number is NaN")
        if type(value) is int and abs(value) >= 2**63:
            raise ValueError("a number is beyond 64 bits")
        return
    for part in value:
        _check_settings(part)


Row = dict[str, float]


def metrics_text(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the text of a metrics.csv: a column a metric, an empty cell where a step has none, and the checksum."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = ["step", *sorted(names.keys() - {"step"})]
    lines: list[list[Any]] = [[row.get(name, "") for name in columns] for row in rows]
    writer.writerows([[*line, ""] for line in [list[Any](columns), *lines]])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    head, end, rest = text.getvalue().partition("\r\n")
    return f"{head}sha256:{digest}{end}{rest}"


def read_metrics(path: Path) -> list[Row]:
    """Read a metrics.csv: a row a step, without the cells that are empty.

    A number may be inf or nan, as the norm of gradients in fp16 is now and then.
    """
    try:
        text = read_file(path, METRICS_BYTES).decode()
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = next(lines, [""])
        if column := COLUMN.fullmatch(columns[-1]):
            if hashlib.sha256(text.replace(column.group(), "", 1).encode()).hexdigest() != column.group(1):
                raise ValueError("its checksum does not match")
        elif any(DAMAGED_SEAL.search(name) for name in columns):
            raise ValueError("its checksum is damaged")
        rows = _rows(columns, lines, sealed=column is not None)
        if column is None and not (rows and text.endswith("\n")):
            raise ValueError("it is cut short")
        return rows
    except (ValueError, csv.Error) as error:
        raise _damaged(path, error) from error


def _rows(columns: list[str], lines: Iterable[list[str]], sealed: bool) -> list[Row]:
    if columns[0] != "step" or len(set(columns)) < len(columns) or len(columns) > MOST_COLUMNS:
        raise ValueError("its first line does not name its columns")
    rows: list[Row] = []
    for line in lines:
        if len(line) != len(columns) or (sealed and line[-1]):
            raise ValueError(f"row {len(rows) + 2} has not one cell a column")
        cells = dict(zip(columns, line, strict=True))
        row: Row = {name: _number(cell) for name, cell in cells.items() if cell}
        if not re.fullmatch(r"[0-9]{1,18}", line[0]) or (rows and int(line[0]) <= rows[-1]["step"]):
            raise ValueError(f"row {len(rows) + 2} has not the next step")
        row["step"] = int(line[0])
        if "epoch" in row and not (row["epoch"].is_integer() and 0 <= row["epoch"] < 2**31):
            raise ValueError(f"row {len(rows) + 2} has no epoch")
        rows.append(row)
    return rows


def _number(text: str) -> float:
    if not re.fullmatch(r"-?([0-9]{1,400}(\.[0-9]{1,40})?(e[-+]?[0-9]{1,3})?|inf)|nan", text):
        raise ValueError(f"{text[:20]!r} is not a number")
    return float(text)


@dataclass(frozen=True)
class Predictions:
    """Which samples of the test set a product has right, in their order, and the hash of the data's split."""

    split_hash: str | None
    right: np.ndarray


def predictions_digest(tensors: Mapping[str, Any], split_hash: str | None) -> str:
    """Return the checksum of predictions, which are tensors or arrays."""
    digest = hashlib.sha256(str(split_hash).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_predictions(path: Path) -> Predictions:
    """Read a predictions.safetensors: of images what they are and were taken for, of sequences which are right."""
    os.close(open_file(path))
    try:
        if path.stat().st_size > PREDICTIONS_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        if metadata.keys() - {"split_hash", CHECKSUM}:
            raise ValueError("its metadata are not ours")
        split_hash = metadata.get("split_hash")
        if CHECKSUM in metadata and metadata[CHECKSUM] != predictions_digest(tensors, split_hash):
            raise ValueError("its checksum does not match")
        if tensors.keys() not in ({"correct"}, {"labels", "predicted", "confidence"}):
            raise ValueError("its tensors are not ours")
        if any(one.ndim != 1 or one.shape != next(iter(tensors.values())).shape for one in tensors.values()):
            raise ValueError("its tensors have not one entry a sample")
        if any(one.dtype.kind not in "biu" for name, one in tensors.items() if name != "confidence"):
            raise ValueError("its tensors are not whole numbers")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if "correct" in tensors:
        return Predictions(split_hash, tensors["correct"].astype(bool))
    return Predictions(
        split_hash, (tensors["labels"] == tensors["predicted"]) & ~np.isnan(tensors["confidence"].astype(np.float32))
    )
