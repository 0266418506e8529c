"""ViT: a Transformer encoder on image patches.

Dosovitskiy et al., "An image is worth 16x16 words", 2020, section 3.1 and table 1; tiny and small as Touvron et al.,
"Training data-efficient image transformers", 2020, table 1; with torchvision's parameter names. With `stem=small`, by
default for images up to 64 px, patches have 4 px, as is usual for CIFAR, since 16 px would leave only four; with
`stem=auto`, a `patch_size` below 16 px is kept. The position embedding is learnt.
"""

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.attention import Attention
from zoo.models.stem import Stem, stem_for
from zoo.models.stochastic_depth import StochasticDepth, decay_linearly
from zoo.ranges import BelowOne, Count, ImageSize, height_width, plain_size

SMALL_IMAGE_PX = 64
SMALL_PATCH_PX, LARGE_PATCH_PX = 4, 16


class Block(nn.Module):
    """Attention and a two-layer MLP, each with pre-norm and a residual connection (figure 1, right)."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, dropout: float, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = Attention(width, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, width_multiplier(activation) * mlp_width),
            make_activation(activation, dim=-1),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )
        self.survive = StochasticDepth()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.survive(self.dropout(self.self_attention(self.ln_1(x))))
        return x + self.survive(self.mlp(self.ln_2(x)))


class Encoder(nn.Module):
    """Add position embeddings, and apply the blocks."""

    def __init__(
        self, tokens: int, width: int, depth: int, num_heads: int, dropout: float, activation: Activation
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential()
        for i in range(depth):
            self.layers.add_module(f"encoder_layer_{i}", Block(width, num_heads, 4 * width, dropout, activation))
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class ViT(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px into logits (N, num_classes).

    `stochastic_depth` is the probability of dropping a branch of the last block in training. Raises ValueError unless
    patches tile the image and the heads divide the width.
    """

    head_names = ("heads.head",)

    def __init__(
        self,
        width: Count,
        depth: Count,
        num_heads: Count,
        patch_size: Count = 16,
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 224,
        dropout: BelowOne = 0.0,
        activation: Activation = "gelu",
        stochastic_depth: BelowOne = 0.0,
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX)
        if stem == "small" and patch_size < LARGE_PATCH_PX:
            raise ValueError(f"stem=small has patches of {SMALL_PATCH_PX} px; leave out patch_size={patch_size}")
        patch = SMALL_PATCH_PX if self.form == "small" and patch_size >= LARGE_PATCH_PX else patch_size
        sides = height_width(image_size)
        if any(side % patch for side in sides) or width % num_heads:
            raise ValueError(
                f"image_size={plain_size(image_size)} must be a multiple of patch_size={patch}, and width={width} of "
                f"num_heads={num_heads}"
            )
        self.map_size = rows, columns = sides[0] // patch, sides[1] // patch  # of patches
        tokens = rows * columns + 1
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.encoder = Encoder(tokens, width, depth, num_heads, dropout, activation)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, num_classes))
        self._initialise()
        decay_linearly(self, stochastic_depth)

    def _initialise(self) -> None:
        """Draw matrices as Glorot and Bengio, patches and positions as DeiT; set biases to 0.

        As in torchvision, queries, keys and values are initialised as one matrix; unlike there, the head does not start
        at 0. DeiT's normal distribution has a std of 0.02 and is truncated at two std. With stem=small, position
        embeddings have the std of the embedded patches instead, 0.02 · √(pixels · channels): with much smaller ones,
        a net takes many steps to learn to use positions.
        """
        of_positions = 0.02 * self.conv_proj.weight[0].numel() ** 0.5 if self.form == "small" else 0.02
        stds = {"conv_proj.weight": 0.02, "encoder.pos_embedding": of_positions}
        for name, parameter in self.named_parameters():
            if name in stds:
                std = stds[name]
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
            elif name.endswith("weight") and parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)  # N × 196 × width at 224 px, N × 49 × width at 28 px
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = self.encoder(x)
        return self.heads(x[:, 0])
