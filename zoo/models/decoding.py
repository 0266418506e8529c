"""Batched greedy and beam decoding of sequence nets, with cached state.

The net needs `begin(source)`, which returns its state, and `step(tokens, state)`, which returns the logits (N, V) of
the next token and the next state. A state is a tuple of tensors with the batch first, so that beams can be reordered.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.ranges import Count

PAD, START, END = 0, 1, 2  # the same in all sequence nets and data sets
State = tuple[Tensor, ...]


class Decodes(Protocol):
    """Interface of nets for the functions below."""

    def begin(self, source: Tensor) -> State: ...

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]: ...


@torch.no_grad()
def greedy(net: Decodes | Any, source: Tensor, max_length: Count) -> Tensor:
    """Decode the most likely token at each step until END: (N, up to max_length), with PAD from END on."""
    state = net.begin(source)
    tokens = source.new_full((len(source),), START)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    found = []
    for _ in range(max_length):
        logits, state = net.step(tokens, state)
        tokens = without_openings(logits).argmax(-1)
        done = done | (tokens == END)
        found.append(tokens.masked_fill(done, PAD))
        if done.all():
            break
    return torch.stack(found, 1)


@torch.no_grad()
def beam_search(net: Decodes | Any, source: Tensor, width: int, max_length: int) -> tuple[Tensor, Tensor]:
    """Decode by beam search, keeping the `width` most likely prefixes at each step.

    Returns tokens (N, width, up to max_length), PAD from END on, and their log-probabilities (N, width), best first.
    If there are fewer than `width` sequences, the others have a log-probability of -inf.
    """
    n = len(source)
    rows = torch.arange(n, device=source.device).repeat_interleave(width)
    state = tuple(kept[rows] for kept in net.begin(source))
    first_row = torch.arange(0, n * width, width, device=source.device)[:, None]
    scores = torch.full((n, width), float("-inf"), device=source.device)
    scores[:, 0] = 0.0  # all beams start out equal, so only one of them may count
    tokens = source.new_full((n * width,), START)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    found = source.new_empty((n * width, 0))
    for _ in range(max_length):
        logits, after = net.step(tokens, state)
        steps = without_openings(logits).log_softmax(-1)
        ended = torch.full_like(steps[:1], float("-inf"))
        ended[0, PAD] = 0.0  # finished sequences do not change
        steps = torch.where(done[:, None], ended, steps)
        total = scores[..., None] + steps.view(n, width, -1)
        scores, chosen = total.flatten(1).topk(width)
        rows = (first_row + chosen // steps.shape[-1]).flatten()
        tokens = (chosen % steps.shape[-1]).flatten()
        # What a step returns as it was, such as what it knows of the source, is equal in all beams of a source.
        state = tuple(new if new is old else new[rows] for old, new in zip(state, after, strict=True))
        done = done[rows] | (tokens == END)
        found = torch.cat([found[rows], tokens.masked_fill(done, PAD)[:, None]], 1)
        if done.all():
            break
    return found.view(n, width, -1), scores


def without_openings(logits: Tensor) -> Tensor:
    """Return logits in fp32, for summing scores, with PAD and START ruled out.

    If logits are NaN, START gets probability 1: it is in no reference, so that the output is never counted as correct.
    """
    logits = logits.float()
    never = torch.full_like(logits[:, :END], float("-inf"))
    broken = torch.full_like(logits, float("-inf"))
    broken[:, START] = 0.0
    return torch.where(logits.isnan().any(1, keepdim=True), broken, torch.cat([never, logits[:, END:]], 1))
