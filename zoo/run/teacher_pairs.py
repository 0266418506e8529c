"""Training pairs that the teachers of a sequence net make from sources without references."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.data.pairs import Pairs, Symbols, text_of
from zoo.data.sequences import SequenceData, decode_tokens, encode_source, padded
from zoo.errors import BadInput
from zoo.models.decoding import PAD, START, beam_search
from zoo.ranges import written
from zoo.tasks.sequence_distillation import Ensemble

log = logging.getLogger("zoo")
BATCH, MOST_BEAMS = 500, 64


def teacher_pairs(file: Any, teachers: Sequence[nn.Module], data: SequenceData, beam: int) -> Pairs:
    """Return the best output of the teachers, together, for each source in a file (Kim and Rush, 2016, section 3.2).

    The file is UTF-8 text with one source per line. Sources of the data, whatever their split, are left out, and so are
    those with symbols that the data do not have, too long ones, and those for which the teachers find no end. Raises
    BadInput for a file that cannot be read, or with no source that is left.
    """
    check_words(file, beam)
    sources = _sources(file, data)
    for teacher in teachers:
        teacher.eval()
    found: Pairs = {}
    symbols = data.load().target_symbols
    ordered = sorted(sources, key=len)
    for first in range(0, len(ordered), BATCH):
        batch = ordered[first : first + BATCH]
        tokens = padded([sources[one][0].tolist() for one in batch])
        outputs, _ = beam_search(Ensemble(teachers), tokens, beam, data.max_length + 1)
        for source, output in zip(batch, outputs[:, 0], strict=True):
            if _is_whole(output, data.max_length):
                found[source] = [decode_tokens(output.tolist(), symbols)]
    log.info("task.words: %d further pairs are made by the teachers, from %s.", len(found), file)
    return found


def check_words(file: Any, beam: Any) -> None:
    """Raise BadInput for a file of words that cannot be read, or a wrong width of the beam search."""
    if not isinstance(beam, int) or not 1 <= beam <= MOST_BEAMS:
        raise BadInput(f"task.beam: expected an integer from 1 to {MOST_BEAMS}, got {written(beam)}")
    if isinstance(file, str) and not Path(file).exists():
        raise BadInput(
            f"task.words={file}: there is no such file; docs/sequences.md shows how to make one, and with "
            "task.words=null there are no further words"
        )
    text_of(file, "task.words")


def _sources(file: Any, data: SequenceData) -> dict[Symbols, Tensor]:
    """Return the tokens (1, S) of the sources in a file that are new to the data."""
    lines = text_of(file, "task.words").splitlines()
    facts = data.load()
    known = {source for part in data.pairs.values() for source in part}
    found = {}
    for line in filter(None, map(str.strip, lines)):
        try:
            tokens = encode_source(line, facts)
        except BadInput:
            continue
        source = tuple(facts.source_symbols[token] for token in tokens[0].tolist())
        if source not in known:
            found[source] = tokens
    if not found:
        raise BadInput(f"task.words={file}: expected one source per line, of these data's symbols, but not in the data")
    return found


def _is_whole(output: Tensor, most: int) -> bool:
    """Return whether an output has an end and at least one symbol, and no START, which stands for NaN."""
    length = int((output != PAD).sum())
    return 0 < length <= most and not bool((output == START).any())
