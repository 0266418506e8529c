"""What an exported file says of itself, so that whoever has it needs nothing else: texts by name, in its metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import BadInput
from zoo.packed.header import facts_text
from zoo.records.metadata import parse_metadata

INPUT = {
    "images": "float32, N x channels x image_size x image_size: (pixel - mean) / std, with pixels from 0 to 255",
    "pixels": "uint8, N x channels x image_size x image_size: pixels from 0 to 255; mean and std are in the graph",
    "encoder": "source: int64, N x S, tokens by their place in source_symbols, padded with 0; gives the first state",
    "step": "tokens: int64, N, the last token written, at first 1; state_i: the last next_i, at first the encoder's. "
    "Gives logits of the next token, by its place in target_symbols; 2 ends a text",
}


def labels(facts: Mapping[str, Any]) -> dict[str, str]:
    """Write down what a user of the file must know, and as `zoo` all that a product file says."""
    data, settings = facts["data"], facts["config"]["data"]
    if "classes" in data:
        plain = {name: data[name] for name in ("classes", "mean", "std")}
        plain |= {"image_size": settings["image_size"], "channels": settings["in_channels"]}
        takes = "pixels" if facts["export"]["bake"] else "images"
    else:
        plain = {name: data[name] for name in ("source_symbols", "target_symbols", "max_length")}
        takes = facts["export"]["part"]
    texts = {name: json.dumps(value) for name, value in plain.items()}
    return {**texts, "input": INPUT[takes], "zoo": facts_text(facts)}


def read_labels(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Read the facts of an exported file; BadInput where there are none, or those of another version."""
    if "zoo" not in texts:
        raise BadInput(f"{path} was not written by scripts/export.py; only such files can be read here")
    facts = parse_metadata(texts["zoo"], path)
    if "export" not in facts:
        raise BadInput(f"{path} is not an exported file: its metadata do not say how it was exported")
    return facts
