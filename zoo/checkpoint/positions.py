"""Weights that belong to places of an image, taken over by a net for images of another size."""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.errors import BadInput

log = logging.getLogger("zoo")
POSITIONS = "encoder.pos_embedding"  # of a ViT
Map = tuple[int, int]  # rows and columns


def fitted(net: nn.Module, weights: Mapping[str, Tensor], before: Map | None, source: str) -> dict[str, Tensor]:
    """Return weights for the size of the map of `net`, where those of the file are for a map of the size `before`.

    The position embeddings of a ViT are interpolated, which is logged; `before` null is a square. Raises BadInput for
    other nets with weights for each place, whose number may be the same for another map.
    """
    after = getattr(net, "map_size", None)
    if after is None or not (POSITIONS in weights or before):
        return dict(weights)
    if POSITIONS not in weights:
        if before != after:
            raise BadInput(
                f"{source}: its {type(net).__name__} has weights for the places of a map of {_text(before)}, and the "
                f"map of this one has {_text(after)}; use the same data.image_size"
            )
        return dict(weights)
    num = weights[POSITIONS].shape[1] - 1 if weights[POSITIONS].ndim == 3 else 0
    before = before or (math.isqrt(max(0, num)),) * 2
    if before == after or math.prod(before) != num:  # weights of another net, which are refused when they are loaded
        return dict(weights)
    log.info("Its position embeddings, for %s patches, are interpolated to %s.", _text(before), _text(after))
    return {**weights, POSITIONS: interpolated(weights[POSITIONS], before, after)}


def interpolated(embedding: Tensor, before: Map, after: Map) -> Tensor:
    """Return position embeddings (1, 1 + rows * columns, width) for another number of rows and columns.

    Bicubic with aligned corners, as torchvision's `interpolate_embeddings`. The first, of the class token, is kept.
    """
    patches = embedding[:, 1:].unflatten(1, before).permute(0, 3, 1, 2)
    found = interpolate(patches.float(), after, mode="bicubic", align_corners=True).to(embedding.dtype)
    return torch.cat([embedding[:, :1], found.flatten(2).transpose(1, 2)], 1)


def _text(size: Map | None) -> str:
    return " × ".join(map(str, size or ()))
