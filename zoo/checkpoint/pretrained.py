"""Published weights: torchvision's for ImageNet, downloaded by its own API, or a file in its or timm's layout."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from zoo.checkpoint.product_file import load_state
from zoo.checkpoint.timm_weights import CONFIG_JSON, from_timm, preprocessing_of
from zoo.errors import BadInput, choices, reason
from zoo.tasks.transfer import describe_rows, matched_by_name

log = logging.getLogger("zoo")
THEIR_NAMES = {"vit_base": "vit_b_16", "vit_base_32": "vit_b_32"}  # where ours differ
FAMILIES = ("alexnet", "googlenet", "inception_v3", "resnet", "vgg", "vit_b")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
LEAST_PX = 75  # some nets have a different stem for smaller images


def load_published(
    net: nn.Module, model: str, source: bool | str, image_size: int, classes: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Load published weights into the net of the config `model`; return their name and the head weights not loaded.

    `source` is true for torchvision's best, the name of one of its entries, such as IMAGENET1K_V1, or a path. A head of
    another size is not loaded, and one for 1,000 other `classes` than ImageNet's is matched by name. For grayscale the
    first convolution's kernels are summed over the colours. Raises BadInput if the weights do not exist, cannot be
    downloaded or read, or belong to another net.
    """
    if image_size < LEAST_PX:
        raise BadInput(
            f"model.pretrained={source}: published weights are for images of about 224 px, and the small nets for "
            f"data.image_size={image_size} have another stem; use data of at least {LEAST_PX} px, or init_from"
        )
    file = Path(str(source))
    if source is not True and file.is_file():
        name, weights = str(source), from_timm(_read(file))
    else:
        entry = _entry_of(model, source)
        name, weights = f"torchvision's {entry}", _download(entry, model)
    own = net.state_dict()
    weights = {key: w for key, w in weights.items() if key in own or not key.startswith(AUXILIARY)}
    for key, w in own.items():
        if key not in weights and key.endswith("num_batches_tracked"):  # older files lack it
            weights[key] = w
        elif w.ndim == 4 and w.shape[1] == 1 and key in weights and weights[key].shape[1] == 3:
            weights[key] = weights[key].sum(1, keepdim=True)
    published: list[str] = get_model_weights("resnet18").DEFAULT.meta["categories"]  # in the order of their folders
    if len(classes) == len(published) and not all(re.fullmatch(r"n\d{8}", one) for one in classes):
        heads: Any = net.head_names
        theirs, ours = dict.fromkeys(heads, published), dict.fromkeys(heads, classes)
        weights = matched_by_name(net, weights, theirs, ours)
        for sentence in describe_rows(theirs, ours):
            log.info(sentence)
    return name, load_state(net, weights, name, replace_head=True)


def published_normalisation(model: str, in_channels: int, source: bool | str = True) -> tuple[list[float], list[float]]:
    """Return the mean and deviation (0…255) that a net's published weights were trained with; averages for grayscale.

    A file may have timm's config.json next to it, which has both. GoogLeNet's and Inception-v3's come from TensorFlow,
    with inputs in ±1; torchvision's nets convert to that range.
    """
    file = Path(str(source))
    found = preprocessing_of(file) if source is not True and file.is_file() else None
    if found:
        mean, std = found.mean, found.std
        log.info("Mean and std are those of %s.", file.with_name(CONFIG_JSON))
        if len(mean) != 3:
            raise BadInput(f"model.pretrained={source}: its config.json has {len(mean)} channels, expected 3")
    elif (their_name := _their_name(model)) in ("googlenet", "inception_v3"):
        mean, std = [0.5] * 3, [0.5] * 3
    else:
        transforms: Any = get_model_weights(their_name).DEFAULT.transforms()
        mean, std = transforms.mean, transforms.std
    if in_channels == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    return [255 * x for x in mean], [255 * x for x in std]


def _entry_of(model: str, source: bool | str) -> Any:
    """Return torchvision's entry that a source names; raise BadInput if there is none."""
    entries = get_model_weights(_their_name(model))
    if source is not True and source not in entries.__members__:
        names = ", ".join(entries.__members__)
        raise BadInput(f"model.pretrained={source} is not a file; use true, false, {names} or a path")
    return entries.DEFAULT if source is True else entries[str(source)]


def _their_name(model: str) -> str:
    name = THEIR_NAMES.get(model, model)
    published = [n for n in list_models(include=[f"{family}*" for family in FAMILIES]) if n.startswith(FAMILIES)]
    ours = {*published, *THEIR_NAMES}
    if name not in published:
        raise BadInput(
            f"model.pretrained: torchvision publishes no weights for {model}; {choices(model, ours)} Or use a file of "
            f"timm's, with its {CONFIG_JSON} next to it"
        )
    return name


def _download(entry: Any, model: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return weights
    except Exception as error:  # no network, a full disk, a bad checksum
        raise BadInput(
            f"the weights of {model} could not be downloaded ({reason(error)}): download {entry.url} elsewhere and set "
            "model.pretrained=FILE"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
            raise ValueError("it is not a state dict")
        return weights
    except Exception as error:  # bytes that are not weights can raise anything
        raise BadInput(f"model.pretrained={path} cannot be read as weights ({reason(error)[:100]})") from error
