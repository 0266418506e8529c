"""Weights in the layout of timm, and the preprocessing in the config.json next to them.

timm's ResNets and its Inception-v3 have the names of torchvision's, which are ours. Its ViTs have other names, and its
VGGs have convolutions in place of the two hidden linear layers.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from torch import Tensor

from zoo.errors import BadInput, reason
from zoo.files import read_file

CONFIG_JSON = "config.json"  # as on the Hugging Face hub
MOST_BYTES = 1 << 20
OF_POOLED = 7  # px, side of the map that the first linear layer of a VGG reads
# Name prefixes, ours and timm's; {} is a number.
NAMES = (
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_{}.ln_1.", "blocks.{}.norm1."),
    ("encoder.layers.encoder_layer_{}.self_attention.in_proj_", "blocks.{}.attn.qkv."),
    ("encoder.layers.encoder_layer_{}.self_attention.out_proj.", "blocks.{}.attn.proj."),
    ("encoder.layers.encoder_layer_{}.ln_2.", "blocks.{}.norm2."),
    ("encoder.layers.encoder_layer_{}.mlp.0.", "blocks.{}.mlp.fc1."),
    ("encoder.layers.encoder_layer_{}.mlp.3.", "blocks.{}.mlp.fc2."),
    ("encoder.ln.", "norm."),
    ("heads.head.", "head."),
    ("classifier.0.", "pre_logits.fc1."),
    ("classifier.3.", "pre_logits.fc2."),
    ("classifier.6.", "head.fc."),
)
OF_VIT, OF_VGG = "patch_embed.proj.weight", "pre_logits.fc1.weight"  # names only in timm's layout
Channels = Annotated[list[Annotated[float, Meta(ge=-4, le=4)]], Meta(min_length=1, max_length=4)]


class Preprocessing(msgspec.Struct, frozen=True):
    """The part of timm's config that says how images are prepared; mean and std are fractions of 255."""

    mean: Channels
    std: Channels
    crop_pct: Annotated[float, Meta(gt=0, le=2)] = 0.875
    interpolation: Annotated[str, Meta(max_length=20)] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError("mean and std must have the same length, and std must be above 0")


class _Config(msgspec.Struct, frozen=True):
    pretrained_cfg: Preprocessing


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with our names and shapes; those of other layouts are returned unchanged."""
    if OF_VIT not in weights and OF_VGG not in weights:
        return dict(weights)
    pairs = [(theirs, ours) for ours, theirs in NAMES if OF_VIT in weights or not ours.startswith("heads")]
    renamed = {_renamed(name, pairs): weight for name, weight in weights.items()}
    hidden = ("classifier.0.weight", "classifier.3.weight")
    return {name: weight.flatten(1) if name in hidden else weight for name, weight in renamed.items()}


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ResNet, a VGG, an Inception-v3 without auxiliary heads or a ViT in timm's layout."""
    found = {}
    for name, weight in weights.items():
        if name == "classifier.0.weight":
            weight = weight.view(len(weight), -1, OF_POOLED, OF_POOLED)
        elif name == "classifier.3.weight":
            weight = weight[:, :, None, None]
        found[_renamed(name, NAMES)] = weight
    return found


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for before, after in pairs:
        pattern = re.escape(before).replace(r"\{\}", r"(\d+)")
        if match := re.match(pattern, name):
            return after.replace("{}", match[1] if match.groups() else "") + name[match.end() :]
    return name


def preprocessing_of(weights: Path) -> Preprocessing | None:
    """Read the config.json next to a file of weights; None if there is none. Raises BadInput for another content."""
    path = weights.with_name(CONFIG_JSON)
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(read_file(path, MOST_BYTES), type=_Config).pretrained_cfg
    except (msgspec.DecodeError, ValueError) as error:
        raise BadInput(f"{path} does not have timm's pretrained_cfg with mean and std: {reason(error)}") from error
