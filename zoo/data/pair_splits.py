"""How sequence pairs are split into those for training, validation and testing."""

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Literal

from zoo.data.pairs import Pairs, Symbols, text_of
from zoo.errors import BadInput, shown

log = logging.getLogger("zoo")

PARTS = ("train", "val", "test")
SplitRule = Literal["hash", "stem"] | Mapping[str, str]  # or the files with the words of each part
ENDINGS = ("'s", "s'", "'", "ings", "ing", "ed", "es", "s", "e")  # of English words, each with what precedes it kept
LEAST = 2  # letters that are left of a word


def split_pairs(pairs: Pairs, rule: SplitRule) -> dict[str, Pairs]:
    """Split sources into train, val and test, each part sorted by length, so that batches need little padding.

    With `hash` the part of a source depends on the source alone: the SHA-256 of its symbols, joined by spaces and in
    UTF-8, as a number, modulo 100. Below 90 it is used for training, below 95 for validation, else for testing. `stem`
    takes the same of the word's `stem`. Otherwise, `rule` has the files with the words for `val` and `test`, and maybe
    `train`, see `listed`; without `val`, one in 20 of the training words is used for it, by the same number.

    Raises BadInput for an unknown part, files that cannot be read, and a word in two files.
    """
    parts: dict[str, Pairs] = {name: {} for name in PARTS}
    places = {} if isinstance(rule, str) else listed(pairs, rule)
    for source in sorted(pairs, key=lambda source: (len(source), source)):
        if isinstance(rule, str):
            place = _place(source if rule == "hash" else tuple(stem("".join(source))))
            name = "train" if place < 90 else "val" if place < 95 else "test"
        else:
            name = places.get(source, "left out" if "train" in rule else "train")
            if name == "train" and "val" not in rule and _place(source) < 5:
                name = "val"
        if name in parts:
            parts[name][source] = pairs[source]
    return parts


def _place(symbols: Symbols) -> int:
    return int(hashlib.sha256(" ".join(symbols).encode()).hexdigest(), 16) % 100


def stem(word: str) -> str:
    """Return an English word without the endings of its regular inflections.

    It serves to keep the inflections of a word together, not to tell words apart: all of walk, walks, walked and
    walking have one stem, and bring and bred have another one, too.
    """
    shorter = word
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST:
            shorter = word[: -len(ending)]
            break
    else:
        if len(word) > LEAST and word[-1] == word[-2]:  # as in running
            shorter = word[:-1]
        elif word.endswith("y"):  # as in city and cities
            shorter = f"{word[:-1]}i"
    return word if shorter == word else stem(shorter)


def listed(pairs: Pairs, files: Mapping[str, str]) -> dict[Symbols, str]:
    """Return the part of each word in lists: UTF-8 files with a word per line, or a dictionary's lines.

    A line names the source that it is, up to a tab if there is one, or else its first word, with capitals or without,
    and without the number of a variant, as in `TOMATO(1)  T AH0 ...`. A message counts the words that are no sources.
    """
    if unknown := sorted(set(files) - set(PARTS)):
        raise BadInput(f"data.split.{unknown[0]}: expected the files of {', '.join(PARTS)}")
    if "test" not in files:
        raise BadInput("data.split.test: expected the file with the words for testing")
    found: dict[Symbols, str] = {}
    for name, path in files.items():
        text = text_of(path, f"data.split.{name}")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith((";;;", "#"))]
        sources = [_named(line, pairs) for line in lines]
        missing = [line for line, source in zip(lines, sources, strict=True) if source is None]
        if len(missing) == len(lines):
            raise BadInput(f"data.split.{name}={path}: expected words of these data, one per line, and found none")
        if missing:
            log.warning(
                "data.split.%s: %d of its %d lines are not in these data, such as %s",
                *(name, len(missing), len(lines), shown(missing[0])),
            )
        for source in filter(None, sources):
            if found.setdefault(source, name) != name:
                word = shown("".join(source))
                raise BadInput(f"data.split: {word} is in the files of both {found[source]} and {name}")
    return found


def _named(line: str, pairs: Pairs) -> Symbols | None:
    """Return the source that a line names."""
    whole, first = line.partition("\t")[0].strip(), re.sub(r"\(\d+\)$", "", line.split()[0])
    for text in (whole, first, first.lower()):
        for source in (tuple(text), tuple(text.split())):
            if source in pairs:
                return source
    return None
