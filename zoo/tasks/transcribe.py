"""Outputs of a sequence net: for all sources of a split, compared with the references, or for one text."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.sequences import NAMES_OF_SPECIALS, START, SequenceData, SequenceFacts, decode_tokens, encode_source
from zoo.models.decoding import beam_search, greedy
from zoo.tasks.edits import edits

NUM_WORST = 50


def transcribe(net: nn.Module, data: SequenceData, split: str, device: torch.device, beam: int = 1) -> dict[str, Any]:
    """Decode every source of a split with a net on the device, and measure as task=transduction does.

    The result also has the `worst` outputs, by edits to the nearest reference.
    """
    facts = data.load()
    rows = []
    for source, _, references in data.loader(split, device):  # type: ignore[arg-type]
        written = best_of(net, source, facts.max_length, beam)
        for read, one, several in zip(source.tolist(), written.tolist(), references.tolist(), strict=True):
            found = decode_tokens(one, facts.target_symbols)
            known = [r for r in (decode_tokens(r, facts.target_symbols) for r in several) if r]
            rows.append((edits(found, known), decode_tokens(read, facts.source_symbols), found, known))
    errors, length = (sum(row[0][i] for row in rows) for i in (0, 1))
    wrong = sum(row[0].errors > 0 for row in rows)
    worst = sorted((row for row in rows if row[0].errors), key=lambda row: (-row[0].errors, row[0].length, row[1]))
    join = "" if facts.source_unit == "character" else " "
    return {
        "num_samples": len(rows),
        "num_nan": sum(NAMES_OF_SPECIALS[START] in found for _, _, found, _ in rows),  # see `without_openings`
        "beam": beam,
        "wer": wrong / len(rows),
        "per": errors / length,
        "accuracy": 1 - wrong / len(rows),
        "worst": [
            {
                "source": join.join(read),
                "edits": found.errors,
                "written": " ".join(written),
                "references": [" ".join(one) for one in known],
            }
            for found, read, written, known in worst[:NUM_WORST]
        ],
    }


@torch.inference_mode()
def write_for(
    net: nn.Module, text: str, facts: SequenceFacts, device: torch.device, beam: int
) -> list[tuple[str, float]]:
    """Return the `beam` most likely sequences for a text, with their probabilities, best first."""
    tokens, scores = beam_search(net, encode_source(text, facts).to(device), beam, facts.max_length)
    return [
        (" ".join(decode_tokens(one, facts.target_symbols)), score)
        for one, score in zip(tokens[0].tolist(), scores[0].exp().tolist(), strict=True)
        if score > 0
    ]


@torch.inference_mode()
def best_of(net: nn.Module, source: Tensor, max_length: int, beam: int) -> Tensor:
    """Return the most likely sequences found by a beam search of this width: tokens (N, length)."""
    return greedy(net, source, max_length) if beam == 1 else beam_search(net, source, beam, max_length)[0][:, 0]
