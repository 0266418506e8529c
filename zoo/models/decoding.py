"""Let a sequence net speak: greedy and beam decoding, a whole batch at once, each step on what the last one kept.

A net that decodes has `begin(source)`, which gives its state, and `step(tokens, state)`, which gives the logits (N, V)
of what follows and the next state. A state is tensors whose first dimension is the batch, so that beams can be moved.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.ranges import Count

PAD, START, END = 0, 1, 2  # tokens that every sequence net and every sequence data set agree on
State = tuple[Tensor, ...]


class Decodes(Protocol):
    """What the functions below want of a net."""

    def begin(self, source: Tensor) -> State: ...

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]: ...


@torch.no_grad()
def greedy(net: Decodes | Any, source: Tensor, max_length: Count) -> Tensor:
    """Follow the most likely token from START to END: (N, up to max_length), with PAD from END on."""
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
    """Keep the `width` most likely beginnings at every step.

    Gives tokens (N, width, up to max_length), PAD from END on, and their log-probabilities (N, width), best first.
    Where there are fewer than `width` sequences, the rest have a log-probability of -inf.
    """
    n = len(source)
    rows = torch.arange(n, device=source.device).repeat_interleave(width)
    state = tuple(kept[rows] for kept in net.begin(source))
    first_row = torch.arange(0, n * width, width, device=source.device)[:, None]
    scores = torch.full((n, width), float("-inf"), device=source.device)
    scores[:, 0] = 0.0  # all beams begin alike, so that only one of them may count
    tokens = source.new_full((n * width,), START)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    found = source.new_empty((n * width, 0))
    for _ in range(max_length):
        logits, state = net.step(tokens, state)
        steps = without_openings(logits).log_softmax(-1)
        ended = torch.full_like(steps[:1], float("-inf"))
        ended[0, PAD] = 0.0  # what has ended stays as it is
        steps = torch.where(done[:, None], ended, steps)
        total = scores[..., None] + steps.view(n, width, -1)
        scores, chosen = total.flatten(1).topk(width)
        rows = (first_row + chosen // steps.shape[-1]).flatten()
        tokens = (chosen % steps.shape[-1]).flatten()
        state = tuple(kept[rows] for kept in state)
        done = done[rows] | (tokens == END)
        found = torch.cat([found[rows], tokens.masked_fill(done, PAD)[:, None]], 1)
        if done.all():
            break
    return found.view(n, width, -1), scores


def without_openings(logits: Tensor) -> Tensor:
    """Rule out PAD and START, which cannot follow; in fp32, in which scores add up.

    After logits with NaN, START is certain: it is in no reference, so that what was written there is never right.
    """
    logits = logits.float()
    never = torch.full_like(logits[:, :END], float("-inf"))
    broken = torch.full_like(logits, float("-inf"))
    broken[:, START] = 0.0
    return torch.where(logits.isnan().any(1, keepdim=True), broken, torch.cat([never, logits[:, END:]], 1))
