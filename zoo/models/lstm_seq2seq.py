"""LSTM encoder-decoder with attention: a bidirectional encoder and a decoder that attends to its outputs.

Luong et al., "Effective approaches to attention-based neural machine translation", 2015, section 3.1, with the score
`general`; Hochreiter and Schmidhuber, 1997, with forget gates. The encoder is bidirectional (Bahdanau et al., 2014),
and the attended state is not fed back into the decoder (section 3.3), so that training needs no loop over tokens.
"""

import torch
from torch import Tensor, nn

from zoo.models.decoding import PAD, State
from zoo.ranges import BelowOne, Count


class BothWays(nn.Module):
    """Bidirectional LSTM from (N, S, inputs) to (N, S, 2 · width); each direction ignores the padding at the end."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.forwards = nn.LSTM(inputs, width, batch_first=True)
        self.backwards = nn.LSTM(inputs, width, batch_first=True)

    def forward(self, x: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output, and the concatenated outputs before the backward one is reversed again."""
        ahead, _ = self.forwards(x)
        back, _ = self.backwards(_taken(x, turned))
        return torch.cat([ahead, _taken(back, turned)], 2), torch.cat([ahead, back], 2)


class LSTMSeq2Seq(nn.Module):
    """Return logits (N, T, num_target_tokens) of the token after each token of `target` (N, T), given `source` (N, S).

    Tokens are int64: 0 is padding at the end, 1 starts a target, 2 ends it. `begin` and `step` are for
    zoo.models.decoding.
    """

    head_names = ("head",)

    def __init__(
        self,
        num_source_tokens: Count,
        num_target_tokens: Count,
        width: Count = 256,
        encoder_depth: Count = 2,
        decoder_depth: Count = 1,
        dropout: BelowOne = 0.2,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width={width} must be even: each direction gets half of it")
        self.source_embedding = nn.Embedding(num_source_tokens, width)
        self.target_embedding = nn.Embedding(num_target_tokens, width)
        self.encoder = nn.ModuleList(BothWays(width, width // 2) for _ in range(encoder_depth))
        self.bridge = nn.Linear(width, 2 * decoder_depth * width)
        self.decoder = nn.LSTM(
            width, width, decoder_depth, dropout=dropout if decoder_depth > 1 else 0, batch_first=True
        )
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, num_target_tokens)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise matrices as Glorot and Bengio, 2010; forget gates start open (Jozefowicz et al., 2015)."""
        for name, parameter in self.named_parameters():
            if "embedding" in name:
                nn.init.normal_(parameter)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
                if "bias_ih" in name:
                    quarter = len(parameter) // 4  # input, forget, cell, output
                    nn.init.ones_(parameter[quarter : 2 * quarter])

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the memory (N, S, width), its mask (N, 1, S), and the decoder's first state (N, 2 · depth, width)."""
        mask = source != PAD
        lengths = mask.sum(1, keepdim=True)
        places = torch.arange(source.shape[1], device=source.device).expand_as(source)
        turned = torch.where(mask, lengths - 1 - places, places)
        x = self.dropout(self.source_embedding(source))
        for layer in self.encoder:
            x, outputs = layer(x, turned)
            x = self.dropout(x)
        last = _taken(outputs, lengths - 1)[:, 0]  # N × width: last output of each direction
        return x, mask[:, None], self.bridge(last).tanh().unflatten(1, (-1, x.shape[2]))

    def write(self, target: Tensor, first: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the token after each token, and the final state."""
        h, c = first.transpose(0, 1).contiguous().chunk(2)  # each depth × N × width
        x, (h, c) = self.decoder(self.dropout(self.target_embedding(target)), (h, c))  # N × T × width
        x = self.dropout(x)
        query, keys = self.score(x)[:, None], memory[:, None]  # one head, since ONNX attention needs this dimension
        looked = nn.functional.scaled_dot_product_attention(query, keys, keys, mask[:, None], scale=1.0)[:, 0]
        x = self.dropout(self.combine(torch.cat([looked, x], 2)).tanh())
        return self.head(x), torch.cat([h, c]).transpose(0, 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, mask, first = self.encode(source)
        return self.write(target, first, memory, mask)[0]

    def begin(self, source: Tensor) -> State:
        return self.encode(source)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        memory, mask, first = state
        logits, first = self.write(tokens[:, None], first, memory, mask)
        return logits[:, 0], (memory, mask, first)

    def alignments(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the attention from target to source tokens: N × 1 layer × 1 head × T × S."""
        memory, mask, first = self.encode(source)
        h, c = first.transpose(0, 1).contiguous().chunk(2)
        x, _ = self.decoder(self.target_embedding(target), (h, c))
        scores = self.score(x) @ memory.transpose(1, 2)
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)[:, None, None]


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Gather x (N, S, width) at the places (N, P): (N, P, width)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
