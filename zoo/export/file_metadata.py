"""The metadata of an exported file: texts by name, which make the file self-contained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.data.reading import resizing_of
from zoo.errors import BadInput
from zoo.packed.header import facts_text
from zoo.records.metadata import parse_metadata

INPUT = {
    "images": "float32, N x channels x height x width: (pixel - mean) / std, with pixels from 0 to 255",
    "pixels": "uint8, N x channels x height x width: pixels from 0 to 255; mean and std are in the graph",
    "encoder": "source: int64, N x S, tokens by their index in source_symbols, padded with 0; returns the first state",
    "step": "tokens: int64, N, the last token written, initially 1; state_i: the last next_i, initially the encoder's. "
    "Returns logits of the next token, by its index in target_symbols; 2 ends a text",
}

OUTPUT = {
    "labels": "float32, N x classes: logits; their sigmoid is the probability of each label; thresholds decide",
    "numbers": "float32, N x classes: times std, plus mean, of number_scale, each is the number that a class names",
    "logits": "float32, N x classes: logits; their softmax is the probabilities",
    "with temperature": "float32, N x classes: logits; the softmax of logits / temperature is the probabilities",
    "calibrated": "float32, N x classes: logits divided by temperature; their softmax is the probabilities",
}


def labels(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what a user of the file needs to know and, as `zoo`, all the facts of a product file."""
    data, settings = facts["data"], facts["config"]["data"]
    if "classes" in data:
        plain = {name: data[name] for name in ("classes", "mean", "std")}
        plain |= {"image_size": settings["image_size"], "channels": settings["in_channels"]}
        plain["resize"], plain["interpolation"] = resizing_of(settings)
        plain |= {key: facts[key] for key in ("temperature", "thresholds") if key in facts}
        plain |= {"number_scale": data["number_scale"]} if data.get("number_scale") else {}
        takes = "pixels" if facts["export"]["bake"] else "images"
    else:
        plain = {name: data[name] for name in ("source_symbols", "target_symbols", "max_length")}
        takes = facts["export"]["part"]
    texts = {name: json.dumps(value) for name, value in plain.items()}
    if "classes" in data:
        texts["output"] = OUTPUT[_kind(facts)]
    return {**texts, "input": INPUT[takes], "zoo": facts_text(facts)}


def _kind(facts: Mapping[str, Any]) -> str:
    if facts["export"].get("calibrated"):
        return "calibrated"
    if facts["data"].get("number_scale"):
        return "numbers"
    if "thresholds" in facts:
        return "labels"
    return "with temperature" if "temperature" in facts else "logits"


def read_labels(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Read the facts of an exported file; raise BadInput if they are missing or of another version."""
    if "zoo" not in texts:
        raise BadInput(f"{path} was not written by scripts/export.py; only such files can be read here")
    facts = parse_metadata(texts["zoo"], path)
    if "export" not in facts:
        raise BadInput(f"{path} is not an exported file: its metadata have no 'export' entry")
    return facts
