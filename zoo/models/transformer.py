"""The Transformer: an attention-based encoder and decoder for sequences.

Vaswani et al., "Attention is all you need", 2017, section 3; with the parameter names of torch.nn.Transformer. By
default, norms come before each part instead of after (Xiong et al., 2020), which is less sensitive to the learning
rate; only the decoder's input and output share embeddings (Press and Wolf, 2016), since the alphabets may differ.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.attention import Attention
from zoo.models.decoding import PAD, State
from zoo.ranges import BelowOne, Count


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer MLP, each with dropout, shortcut and norm (figure 1, left)."""

    def __init__(
        self, width: int, num_heads: int, mlp_width: int, dropout: float, prenorm: bool, activation: Activation
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.self_attn = Attention(width, num_heads)
        self.linear1 = nn.Linear(width, width_multiplier(activation) * mlp_width)
        self.activation = make_activation(activation, dim=-1)
        self.linear2 = nn.Linear(mlp_width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def before(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x) if self.prenorm else x

    def after(self, norm: nn.LayerNorm, x: Tensor, part: Tensor) -> Tensor:
        x = x + self.dropout(part)
        return x if self.prenorm else norm(x)

    def mlp(self, x: Tensor) -> Tensor:
        return self.linear2(self.activation(self.linear1(x)))

    def forward(self, x: Tensor, mask: Tensor, rotation: Tensor | None) -> Tensor:
        x = self.after(self.norm1, x, self.self_attn(self.before(self.norm1, x), mask=mask, rotation=rotation))
        return self.after(self.norm2, x, self.mlp(self.before(self.norm2, x)))


class DecoderLayer(EncoderLayer):
    """Causal self-attention, attention to the encoder's output, and a two-layer MLP (figure 1, right)."""

    def __init__(
        self, width: int, num_heads: int, mlp_width: int, dropout: float, prenorm: bool, activation: Activation
    ) -> None:
        super().__init__(width, num_heads, mlp_width, dropout, prenorm, activation)
        self.multihead_attn = Attention(width, num_heads)
        self.norm3 = nn.LayerNorm(width)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, mask: Tensor, rotation: Tensor | None
    ) -> Tensor:
        x = self.after(self.norm1, x, self.self_attn(self.before(self.norm1, x), causal=True, rotation=rotation))
        x = self.after(self.norm2, x, self.multihead_attn(self.before(self.norm2, x), memory, mask))
        return self.after(self.norm3, x, self.mlp(self.before(self.norm3, x)))

    def step(self, x: Tensor, own: State, others: State, mask: Tensor, rotation: Tensor | None) -> tuple[Tensor, State]:
        """Process the next token x (N, 1, width), given keys and values of earlier tokens and of the encoder output."""
        q, *new = self.self_attn.project_rotated(self.before(self.norm1, x), rotation)
        k, v = (torch.cat(pair, 2) for pair in zip(own, new, strict=True))
        x = self.after(self.norm1, x, self.self_attn.attend(q, k, v))
        (q,) = self.multihead_attn.project(self.before(self.norm2, x), 0, 1)
        x = self.after(self.norm2, x, self.multihead_attn.attend(q, others[0], others[1], mask))
        return self.after(self.norm3, x, self.mlp(self.before(self.norm3, x))), (k, v)


class Stack(nn.Module):
    """A stack of layers, followed by a norm in the pre-norm case."""

    def __init__(self, layers: list[EncoderLayer], width: int, prenorm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width) if prenorm else nn.Identity()

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, *context)
        return self.norm(x)


class Transformer(nn.Module):
    """Return logits (N, T, num_target_tokens) of the token after each token of `target` (N, T), given `source` (N, S).

    With `frames`, return those of `frame_logits` as well. Tokens are int64: 0 is padding at the end, 1 starts a target, 2 ends it. `begin` and `step` are for
    zoo.models.decoding. `share` sets which embeddings are shared: none, the decoder's input and `output`, or `all`
    three. `positions` are added to embeddings or, if rotary, rotate the queries and keys of self-attention. No sequence
    may have more than max_length tokens besides 1 and 2. Raises ValueError unless `width` is even and a multiple of
    `num_heads`; for `share` all, if the alphabets differ in size; for rotary positions, if the width of a head is odd.
    """

    def __init__(
        self,
        num_source_tokens: Count,
        num_target_tokens: Count,
        width: Count = 512,
        encoder_depth: Count = 6,
        decoder_depth: Count = 6,
        num_heads: Count = 8,
        mlp_width: Count = 2048,
        dropout: BelowOne = 0.1,
        norm: Literal["pre", "post"] = "pre",
        positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal",
        share: Literal["none", "output", "all"] = "output",
        activation: Activation = "relu",
        max_length: Count = 64,
    ) -> None:
        super().__init__()
        if width % num_heads or width % 2:
            raise ValueError(f"width={width} must be even and a multiple of num_heads={num_heads}")
        if positions == "rotary" and width // num_heads % 2:
            raise ValueError(f"positions=rotary needs heads of an even width, not of {width} / {num_heads}")
        if share == "all" and num_source_tokens != num_target_tokens:
            raise ValueError(
                f"share=all needs a common alphabet, but there are {num_source_tokens} source tokens and "
                f"{num_target_tokens} target tokens; use share=output"
            )
        self.share, self.scale = share, width**0.5
        self.target_embedding = nn.Embedding(num_target_tokens, width)
        if share != "all":
            self.source_embedding = nn.Embedding(num_source_tokens, width)
        if share == "none":
            self.head = nn.Linear(width, num_target_tokens)
        self.head_names = ("head",) if share == "none" else ("target_embedding",)
        settings = (width, num_heads, mlp_width, dropout, norm == "pre", activation)
        self.encoder = Stack([EncoderLayer(*settings) for _ in range(encoder_depth)], width, norm == "pre")
        self.decoder = Stack([DecoderLayer(*settings) for _ in range(decoder_depth)], width, norm == "pre")
        self.dropout = nn.Dropout(dropout)
        places = max_length + 1  # a target has its opening 1 in addition to its symbols
        self.positions: Tensor
        self.rotary = positions == "rotary"
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(places, width) / self.scale)
        else:
            table = rotations(places, width // num_heads) if self.rotary else sinusoids(places, width)
            self.register_buffer("positions", table, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise matrices as Glorot and Bengio, 2010, embeddings with a std of 1/√width, and biases with 0."""
        for name, parameter in self.named_parameters():
            if "embedding" in name:
                nn.init.normal_(parameter, std=1 / self.scale)
            elif parameter.ndim > 1 and name != "positions":
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def embed(self, tokens: Tensor, embedding: nn.Embedding, start: int = 0) -> tuple[Tensor, Tensor | None]:
        """Return the embedded tokens N × T × width, and their rotation if positions are rotary."""
        x = embedding(tokens) * self.scale
        positions = self.positions[start : start + tokens.shape[1]]
        return (self.dropout(x), positions) if self.rotary else (self.dropout(x + positions), None)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory (N, S, width) of source tokens, and the mask (N, 1, 1, S) of its padding."""
        mask = (source != PAD)[:, None, None]
        embedding = self.target_embedding if self.share == "all" else self.source_embedding
        x, rotation = self.embed(source, embedding)
        return self.encoder(x, mask, rotation), mask

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x) if self.share == "none" else nn.functional.linear(x, self.target_embedding.weight)

    def frame_logits(self, memory: Tensor) -> Tensor:
        """Return logits (N, 2 · S, num_target_tokens) for connectionist temporal classification, two per source token.

        The output layer reads the encoder's output for the first, and the same with its halves exchanged for the other.
        """
        return self.logits(torch.stack([memory, memory.roll(memory.shape[-1] // 2, -1)], 2).flatten(1, 2))

    def forward(self, source: Tensor, target: Tensor, frames: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        memory, mask = self.encode(source)  # N × S × width
        x, rotation = self.embed(target, self.target_embedding)
        logits = self.logits(self.decoder(x, memory, mask, rotation))
        return (logits, self.frame_logits(memory)) if frames else logits

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, DecoderLayer)]

    def begin(self, source: Tensor) -> State:
        """Return the mask and, for each layer, keys and values of the (still empty) target and of the source."""
        memory, mask = self.encode(source)
        state = [mask]
        for layer in self._decoder_layers():
            k, v = layer.multihead_attn.project(memory, 1, 3)
            state += [k[:, :, :0], v[:, :, :0], k, v]
        return tuple(state)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        mask, *kept = state
        x, rotation = self.embed(tokens[:, None], self.target_embedding, start=kept[0].shape[2])
        for i, layer in enumerate(self._decoder_layers()):
            own, others = tuple(kept[4 * i : 4 * i + 2]), tuple(kept[4 * i + 2 : 4 * i + 4])
            x, kept[4 * i : 4 * i + 2] = layer.step(x, own, others, mask, rotation)
        return self.logits(self.decoder.norm(x))[:, 0], (mask, *kept)

    def alignments(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the attention from target to source tokens: N × layers × heads × T × S."""
        seen: list[Tensor] = []
        hooks = [
            layer.multihead_attn.register_forward_pre_hook(lambda part, args: seen.append(part.weights(*args)))
            for layer in self._decoder_layers()
        ]
        try:
            self(source, target)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(seen, 1)


def sinusoids(length: int, width: int) -> Tensor:
    """Return interleaved sines and cosines for each position: length × width (section 3.5)."""
    angles = position_angles(length, width)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()


def rotations(length: int, width: int) -> Tensor:
    """Return the cosines and sines of rotary position embeddings: length × 2 × width / 2, for heads of an even width.

    Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, section 3.2.
    """
    angles = position_angles(length, width)
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def position_angles(length: int, width: int) -> Tensor:
    """Return the angle of each position in float64, length × width / 2, with wavelengths from 2π to 20,000π."""
    places = torch.arange(length, dtype=torch.float64)[:, None]
    return places / 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
