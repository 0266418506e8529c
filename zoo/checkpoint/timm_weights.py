"""Weights in the layout of timm, and the config.json next to them: what the net computes, and its preprocessing.

timm's ResNets and its Inception-v3 have the names of torchvision's, which are ours. Its ViTs have other names, and its
VGGs have convolutions in place of the two hidden linear layers. Others of its nets have the same names and shapes and
compute something else, such as resnetblur50, so only those known to be the same are accepted.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from torch import Tensor, nn

from zoo.errors import BadInput, reason
from zoo.files import read_file
from zoo.models.attention import Attention
from zoo.ranges import ImageSize, height_width, takes

CONFIG_JSON = "config.json"  # as on the Hugging Face hub
MOST_BYTES = 1 << 20
OF_POOLED = 7  # px, side of the map that the first linear layer of a VGG reads
MOST_PX_OF_VGG = 32 * (OF_POOLED + 1) - 1  # of images whose map is not larger
ARCHITECTURES = re.compile(
    r"(resnet(18|34|50|101|152)|vgg(11|13|16|19)(_bn)?|inception_v3|(vit|deit)_(tiny|small|base|large)_patch\d+_\d+)(\..*)?"
)
# Arguments of timm's nets that shapes show or that change nothing in eval mode, like those that end with _rate. Of
# another size, position embeddings are interpolated.
HARMLESS = ("in_chans", "num_classes", "aux_logits", "weight_init", "fix_init", "zero_init_last", "dynamic_img_size")
OF_SIZE = "img_size"
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
# A channel of one shade has 1e-3 / 255 (zoo/data/image_statistics.py).
Deviations = Annotated[list[Annotated[float, Meta(ge=1e-6, le=4)]], Meta(min_length=1, max_length=4)]
Word = Annotated[str, Meta(max_length=80)]


class Preprocessing(msgspec.Struct, frozen=True):
    """The part of timm's config that says how images are prepared; mean and std are fractions of 255."""

    mean: Channels
    std: Deviations
    crop_pct: Annotated[float, Meta(gt=0, le=2)] = 0.875
    interpolation: Annotated[str, Meta(max_length=20)] = "bilinear"
    input_size: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std must have the same length")


class TimmConfig(msgspec.Struct, frozen=True):
    """The parts of timm's config.json that say what its net computes, and what of."""

    architecture: Word
    pretrained_cfg: Preprocessing
    global_pool: Word | None = None
    model_args: dict[str, Any] = {}
    label_names: list[str] | dict[str, str] | None = None  # a mapping if some have no name


def read_config(weights: Path) -> TimmConfig | None:
    """Read the config.json next to a file of weights; None if there is none.

    Raises BadInput for another content, and for a net that is not known to compute what one of ours does.
    """
    path = weights.with_name(CONFIG_JSON)
    if not path.is_file():
        return None
    try:
        config = msgspec.json.decode(read_file(path, MOST_BYTES), type=TimmConfig)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} does not have timm's architecture, and pretrained_cfg with mean and std: {reason(error)}"
        ) from error
    if not ARCHITECTURES.fullmatch(config.architecture):
        raise BadInput(
            f"{path} is of timm's {config.architecture}, which is not known to compute what a net of the zoo does; "
            "expected a ResNet, VGG, Inception-v3 or ViT without variations, such as resnet50"
        )
    return config


def check_computation(config: TimmConfig, net: nn.Module, source: str) -> None:
    """Raise BadInput unless timm's net, as configured, computes what ours does with the same weights."""
    heads = {module.num_heads for module in net.modules() if isinstance(module, Attention)}
    expected: dict[str, Any] = {"global_pool": "token" if heads else "avg", "act_layer": "gelu" if heads else "relu"}
    found = dict(config.model_args)
    if config.global_pool:  # of the net that was saved
        found["global_pool"] = config.global_pool
    if heads:
        expected["num_heads"] = heads.pop()
    for key, value in found.items():
        if key in (*HARMLESS, OF_SIZE) or key.endswith("_rate") or (key in expected and value == expected[key]):
            continue
        usual = f"only with {key}={expected[key]}" if key in expected else f"by default, without {key}"
        raise BadInput(
            f"{source}: its {CONFIG_JSON} has {key[:80]}={str(value)[:80]}, and timm's net is known to compute what "
            f"this {type(net).__name__} does {usual}"
        )


def map_size_of(config: TimmConfig, weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the rows and columns of patches of timm's ViT; None for other nets, and if its config does not say it."""
    size: Any = config.model_args.get(
        OF_SIZE, config.pretrained_cfg.input_size and config.pretrained_cfg.input_size[1:]
    )
    if OF_VIT not in weights or not takes(ImageSize, [*size] if isinstance(size, tuple) else size):
        return None
    patch = max([1, *weights[OF_VIT].shape[-1:]])
    height, width = height_width(size)
    return height // patch, width // patch


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with our names and shapes; those of other layouts are returned unchanged."""
    if OF_VIT not in weights and OF_VGG not in weights:
        return dict(weights)
    pairs = [(theirs, ours) for ours, theirs in NAMES if OF_VIT in weights or not ours.startswith("heads")]
    renamed = {_renamed(name, pairs): weight for name, weight in weights.items()}
    hidden = ("classifier.0.weight", "classifier.3.weight")
    return {
        name: weight.flatten(1) if name in hidden and weight.ndim == 4 else weight for name, weight in renamed.items()
    }


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ResNet, a VGG, an Inception-v3 without auxiliary heads or a ViT in timm's layout."""
    found = {}
    for name, weight in weights.items():
        if name == "classifier.0.weight":
            weight = weight.view(len(weight), -1, OF_POOLED, OF_POOLED)
        elif name == "classifier.3.weight":
            weight = weight[:, :, None, None]
        found[timm_name(name)] = weight
    return found


def timm_name(name: str) -> str:
    """Return timm's name of one of our weights."""
    return _renamed(name, NAMES)


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for before, after in pairs:
        pattern = re.escape(before).replace(r"\{\}", r"(\d+)")
        if match := re.match(pattern, name):
            return after.replace("{}", match[1] if match.groups() else "") + name[match.end() :]
    return name
