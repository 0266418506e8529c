"""Read and write the config.yaml of a run as plain data, with a checksum in the first line."""

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from omegaconf import OmegaConf

from zoo.errors import BadInput
from zoo.files import read_file, write_text
from zoo.records.schema import DAMAGED_SEAL, MOST_DEPTH, Config, damaged

CONFIG_BYTES = 1 << 17  # at most
SEAL = re.compile(r"# sha256: ([0-9a-f]{64})")

# Names of `_target_`s in earlier versions, replaced by the new ones when reading.
MOVED = {
    "zoo.callbacks.attention.AttentionMaps": "zoo.callbacks.attention_maps.AttentionMaps",
    "zoo.callbacks.graph.NetGraph": "zoo.callbacks.net_graph.NetGraph",
    "zoo.callbacks.pruning.Pruning": "zoo.callbacks.pruning_schedule.Pruning",
    "zoo.callbacks.quantization.QuantizationSchedule": "zoo.callbacks.qat_schedule.QuantizationSchedule",
    "zoo.callbacks.sharing.WeightSharing": "zoo.callbacks.sharing_schedule.WeightSharing",
    "zoo.compress.quantize.qat_int8": "zoo.quantize.qat_int8.qat_int8",
    "zoo.packing.pack": "zoo.run.pack_product.pack",
    "zoo.quantizing.convert_int8": "zoo.run.quantize_product.convert_int8",
    "zoo.quantizing.ptq_int8": "zoo.run.quantize_product.ptq_int8",
    "zoo.quantizing.weight_only": "zoo.run.quantize_product.weight_only",
    "zoo.tasks.muon.Muon": "zoo.optim.muon.Muon",
    **{
        f"zoo.tasks.schedules.{name}": f"zoo.optim.schedules.{name}"
        for name in ("constant", "cosine", "step", "one_cycle")
    },
}


def write_config(path: Path, text: str) -> None:
    """Write a config.yaml atomically, with its checksum as a comment in the first line."""
    write_text(path, f"# sha256: {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.yaml as plain data, without aliases, tags or interpolations."""
    try:
        text = read_file(path, CONFIG_BYTES).decode()
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error
    body = _without_seal(path, text)
    try:
        _check_events(body)
        plain: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(body)))
        _check_settings(plain)
        msgspec.convert(plain, Config)
    except Exception as error:  # YAML and OmegaConf raise many types
        raise damaged(path, error) from error
    settings: dict[str, Any] = _with_moved_targets(plain)
    return settings


def _with_moved_targets(node: Any) -> Any:
    if isinstance(node, dict):
        moved = {key: _with_moved_targets(value) for key, value in node.items()}
        if "speak" in moved:  # an earlier name of a setting of zoo.tasks.transduction
            moved["decode"] = moved.pop("speak")
        target = moved.get("_target_")
        return moved | {"_target_": MOVED[target]} if isinstance(target, str) and target in MOVED else moved
    return [_with_moved_targets(part) for part in node] if isinstance(node, list) else node


def _without_seal(path: Path, text: str) -> str:
    first, _, body = text.partition("\n")
    seal = SEAL.fullmatch(first)
    if seal is None:
        if DAMAGED_SEAL.search(first):
            raise damaged(path, "the checksum in its first line is damaged")
        if not text.endswith("\n"):
            raise damaged(path, "its last line is incomplete")
        return text
    if hashlib.sha256(body.encode()).hexdigest() != seal.group(1):
        raise BadInput(
            f"{path} was changed after the run wrote it: its checksum does not match; restore the original or, if the "
            "change was intended, delete its first line, '# sha256: ...'"
        )
    return body


def _check_events(text: str) -> None:
    """Raise ValueError for YAML with aliases, tags, interpolations or deep nesting, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if getattr(event, "anchor", None) is not None:
            raise ValueError("it has aliases")
        if getattr(event, "tag", None) is not None and event.tag != "!":
            raise ValueError("it has tags")
        if isinstance(event, yaml.ScalarEvent) and ("${" in event.value or event.value == "???"):
            raise ValueError("it has unresolved values")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")


def _check_settings(value: Any) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key for key in value):
            raise ValueError("a key is not a string")
        value = value.values()
    elif not isinstance(value, list):
        if isinstance(value, float) and math.isnan(value):
            raise ValueError("a number is NaN")
        if type(value) is int and abs(value) >= 2**63:
            raise ValueError("a number needs more than 64 bits")
        return
    for part in value:
        _check_settings(part)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested config with flat keys."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
