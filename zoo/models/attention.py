"""Multi-head attention.

Vaswani et al., "Attention is all you need", 2017, section 3.2; with the parameter names of torch.nn.MultiheadAttention.
"""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Attend from tokens x (N, tokens, width) to themselves, or to a memory (N, memory tokens, width).

    `mask` is True where attention is allowed, and broadcasts to (N, heads, tokens, memory tokens); with `causal`, each
    token attends only to itself and earlier ones. `rotation`, tokens × 2 × d / 2, has the cosines and sines by which
    queries are rotated (rotary position embeddings), and keys are in self-attention; `memory_rotation` is for the keys
    of a memory. The net has to initialise the weights.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Tensor | None = None,
        memory_rotation: Tensor | None = None,
    ) -> Tensor:
        if memory is None:
            q, k, v = self.project(x, 0, 3)
            memory_rotation = rotation
        else:
            (q,), (k, v) = self.project(x, 0, 1), self.project(memory, 1, 3)
        return self.attend(rotate(q, rotation), rotate(k, memory_rotation), v, mask, causal)

    def project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Return queries, keys and values from index `first` to before `last`, each N × heads × tokens × d."""
        weight: Tensor = self.in_proj_weight
        bias: Tensor = self.in_proj_bias
        if last - first < 3:  # runtimes are slow with weights that are slices, even of all rows
            width = len(weight) // 3  # of all heads: that of x, unless some were pruned
            rows = slice(first * width, last * width)
            weight, bias = weight[rows], bias[rows]
        x = nn.functional.linear(x, weight, bias)
        return x.unflatten(-1, (last - first, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return the attention output (N, tokens, width) for heads as returned by `project`."""
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
            if causal:
                earlier = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
                mask = earlier if mask is None else mask & earlier
            x = probabilities(q, k, mask) @ v  # 3 to 9 times as fast, with gradients, as torch's kernel for this case
        else:
            x = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        rotation: Tensor | None = None,
        memory_rotation: Tensor | None = None,
    ) -> Tensor:
        """Return the attention weights, N × heads × tokens × memory tokens, whose rows sum to 1."""
        (q,), (k,) = self.project(x, 0, 1), self.project(memory, 1, 2)
        return probabilities(rotate(q, rotation), rotate(k, memory_rotation), mask)


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax of the scaled scores, N × heads × tokens × memory tokens, which is 0 where `mask` is False.

    Rows in which it is False everywhere are uniform.
    """
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)).softmax(-1)


def rotate(x: Tensor, rotation: Tensor | None) -> Tensor:
    """Rotate queries or keys x (N, heads, tokens, d) by their positions: d / 2 planes of elements i and i + d / 2.

    Without a rotation, they are returned as they are.
    """
    if rotation is None:
        return x
    cosines, sines = rotation[:, 0].to(x.dtype), rotation[:, 1].to(x.dtype)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosines - b * sines, a * sines + b * cosines], -1)
