"""Published weights: torchvision's for ImageNet, downloaded by its own API, or a file in its or timm's layout."""

import inspect
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from zoo.catalogue import model_names
from zoo.checkpoint.positions import fitted
from zoo.checkpoint.product_file import load_state
from zoo.checkpoint.stored_config import STARTS
from zoo.checkpoint.timm_weights import (
    CONFIG_JSON,
    MOST_PX_OF_VGG,
    OF_VGG,
    OF_VIT,
    check_computation,
    from_timm,
    map_size_of,
    read_config,
)
from zoo.errors import BadInput, choices, counted, reason
from zoo.instantiate import build
from zoo.packed.packed_file import is_packed
from zoo.paths import CONFIGS, OF_ZOO
from zoo.quantize.operators import DTYPES
from zoo.ranges import ImageSize, height_width, plain_size
from zoo.tasks.transfer import describe_rows, matched_by_name

log = logging.getLogger("zoo")
THEIR_NAMES = {"vit_base": "vit_b_16", "vit_base_32": "vit_b_32"}  # where ours differ
FAMILIES = ("alexnet", "googlenet", "inception_v3", "resnet", "vgg", "vit_b")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
LEAST_PX = 75  # for smaller images, some nets have another stem by default
# Settings that leave what a net computes in eval mode, other than by the shapes of its weights.
OF_DATA = ("in_channels", "num_classes", "image_size", "stem")
IN_TRAINING = ("dropout", "aux_dropout", "stochastic_depth")


def load_published(
    net: nn.Module, model: str, source: bool | str, settings: Mapping[str, Any], classes: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Load published weights into the net of the config `model`; return their name and the head weights not loaded.

    `source` is true for torchvision's best, the name of one of its entries, such as IMAGENET1K_V1, or a path;
    `settings` are those that the net was built with. A head of another size is not loaded, and one for other `classes`
    is matched by name, if the file has names or they are 1,000 others than ImageNet's. For grayscale the first
    convolution's kernels are summed over the colours. Raises BadInput if the weights do not exist, cannot be downloaded
    or read, or belong to another net, also one with the same weights that computes something else.
    """
    if "image_size" not in settings:
        raise BadInput(f"model.pretrained={source}: there are no published weights for {model}")
    image_size: ImageSize = settings["image_size"]
    if not has_published_stem(settings, image_size):
        raise BadInput(
            f"model.pretrained={source}: published weights are for images of about 224 px, and with model.stem="
            f"{settings.get('stem', 'auto')} the net for data.image_size={plain_size(image_size)} has another stem; "
            f"use model.stem=large, data of at least {LEAST_PX} px, or init_from"
        )
    _check_settings(net, model, settings)
    if file := _file_of(source):
        name, weights, names = str(source), *_read_for(net, file, image_size)
    else:
        entry = _entry_of(model, source)
        name, names = f"torchvision's {entry}", list[str]()
        weights = fitted(net, _download(entry, model), None, name)
    weights = _adapted(net, weights, name)
    published: list[str] = get_model_weights("resnet18").DEFAULT.meta["categories"]  # in the order of their folders
    if len(classes) == len(published) and not all(re.fullmatch(r"n\d{8}", one) for one in classes):
        names = names or published
    if classes and names:
        heads: Any = net.head_names
        theirs, ours = dict.fromkeys(heads, names), dict.fromkeys(heads, classes)
        weights = matched_by_name(net, weights, theirs, ours)
        for sentence in describe_rows(theirs, ours):
            log.info(sentence)
    return name, load_state(net, weights, name, replace_head=True)


def has_published_stem(settings: Mapping[str, Any], image_size: ImageSize) -> bool:
    """Return whether a net with these settings has the stem of torchvision's and timm's nets, whatever the net."""
    stem = settings.get("stem", "auto")
    return stem == "large" or (stem == "auto" and min(height_width(image_size)) >= LEAST_PX)


def published_normalisation(model: str, in_channels: int, source: bool | str = True) -> tuple[list[float], list[float]]:
    """Return the mean and deviation (0…255) that a net's published weights were trained with; averages for grayscale.

    A file may have timm's config.json next to it, which has both; without it, they are torchvision's. GoogLeNet's and
    Inception-v3's come from TensorFlow, with inputs in ±1; torchvision's nets convert to that range.
    """
    file = _file_of(source)
    if file and (config := read_config(file)):
        found = config.pretrained_cfg
        mean, std = found.mean, found.std
        log.info("Mean and std are those of %s.", file.with_name(CONFIG_JSON))
        if len(mean) not in (in_channels, 3):
            raise BadInput(
                f"model.pretrained={source}: its {CONFIG_JSON} is for images of {counted(len(mean), 'channel')}, and "
                f"data.in_channels={in_channels}"
            )
    else:
        their_name = _their_name(model)
        if file:
            _check_normalisation(file, their_name)
            log.info("Mean and std are torchvision's, as there is no %s next to %s.", CONFIG_JSON, file)
        transforms: Any = get_model_weights(their_name).DEFAULT.transforms()
        of_tensorflow = their_name in ("googlenet", "inception_v3")
        mean, std = ([0.5] * 3, [0.5] * 3) if of_tensorflow else (transforms.mean, transforms.std)
    if in_channels == 1:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return [255 * x for x in mean], [255 * x for x in std]


def _check_settings(net: nn.Module, model: str, settings: Mapping[str, Any]) -> None:
    """Raise BadInput for a setting that changes what the net computes but not its weights, which would still load."""
    usual = {name: one.default for name, one in inspect.signature(type(net)).parameters.items()}
    if model in model_names():
        config: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{model}.yaml"))
        usual |= config
    own = {key: value for key, value in settings.items() if key not in STARTS}
    for key in own.keys() & usual.keys() - {*OF_DATA, *IN_TRAINING}:
        if usual[key] not in (own[key], inspect.Parameter.empty) and _has_shapes_of(net, {**own, key: usual[key]}):
            raise BadInput(f"model.{key}={own[key]}: the published weights are for {usual[key]}")


def _has_shapes_of(net: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Return whether the net with these settings has weights of the same names and shapes; not if there is none."""
    try:
        with torch.device("meta"):
            other: nn.Module = build(settings, "model")
    except BadInput:
        return False
    shapes, others = ({name: w.shape for name, w in one.state_dict().items()} for one in (net, other))
    return shapes == others


def _file_of(source: bool | str) -> Path | None:
    """Return the file that a source names, if it does; raise BadInput for a net of the zoo, which init_from takes."""
    if source is True or not (str(source).startswith(OF_ZOO) or os.path.exists(str(source))):
        return None
    file, is_named = Path(str(source)), str(source).startswith(OF_ZOO)
    if not is_named and not (file.is_file() and file.stat().st_size):
        raise BadInput(
            f"model.pretrained={source}: expected a file of weights, got a folder, an empty or a special file; for a "
            f"run use init_from={source}"
        )
    if is_named or is_packed(file) or "zoo" in _metadata(file):
        raise BadInput(
            f"model.pretrained={source} is a net of the zoo, with its own classes, mean and std; use "
            f"init_from={source}, or zoo.load in Python"
        )
    return file


def _metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; none for another file."""
    try:
        with safe_open(file, "pt") as content:
            return content.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _check_normalisation(file: Path, their_name: str) -> None:
    """Raise BadInput if a file without timm's config.json may expect other inputs than torchvision's net does."""
    if "library" in _metadata(file):
        why = "an export of the zoo has the mean and std of its own data"
    elif their_name.startswith("vit") and OF_VIT in _read(file):
        why = "timm's ViTs differ in mean and std: ImageNet's, or 0.5"
    else:
        return
    raise BadInput(
        f"model.pretrained={file}: there is no {CONFIG_JSON} next to it, and {why}; copy it there, or set data.mean "
        "and data.std (of 0 to 255)"
    )


def _read_for(net: nn.Module, file: Path, image_size: ImageSize) -> tuple[dict[str, Tensor], list[str]]:
    """Return a file's weights with our names, and its classes if they have names; BadInput for another computation."""
    weights, config = _read(file), read_config(file)
    if OF_VGG in weights and max(height_width(image_size)) > MOST_PX_OF_VGG:
        raise BadInput(
            f"{file}: for images of more than {MOST_PX_OF_VGG} px timm's VGG averages over several places, and the "
            f"zoo's pools to one as torchvision's; set data.image_size={MOST_PX_OF_VGG} or less, or use torchvision's"
        )
    if config:
        check_computation(config, net, str(file))
    else:
        log.info(
            "There is no %s next to %s, so it is assumed to be from torchvision's or timm's net of this name, with its "
            "default activation and pooling.",
            CONFIG_JSON,
            file,
        )
    named = config.label_names if config and isinstance(config.label_names, list) else []
    map_size = map_size_of(config, weights) if config else None
    return fitted(net, from_timm(weights), map_size, str(file)), named


def _adapted(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return weights without the auxiliary heads that the net lacks, with the counts that older files lack.

    For grayscale, kernels are summed over the colours.
    """
    own = net.state_dict()
    found = {name: w for name, w in weights.items() if name in own or not name.startswith(AUXILIARY)}
    for name, w in own.items():
        if name not in found and name.endswith("num_batches_tracked"):
            found[name] = w
        elif w.ndim == 4 and w.shape[1] == 1 and name in found and found[name].shape[1:2] == (3,):
            found[name] = found[name].sum(1, keepdim=True)
    missing = own.keys() - found.keys()
    if missing and all(name.startswith(AUXILIARY) for name in missing):
        raise BadInput(f"{source} has no weights of auxiliary heads; set model.aux_heads=false")
    return found


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
    """Read a state dict; raise BadInput unless all its tensors are plain ones that the file has in full."""
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
            raise ValueError("it is not a state dict")
        for name, w in weights.items():
            if not isinstance(name, str):
                raise ValueError("its tensors have no names")
            if w.dtype not in DTYPES.values() or w.layout != torch.strided or w.device.type != "cpu":
                raise ValueError(f"'{name[:40]}' is of {w.dtype}, {w.layout}")
            if w.numel() * w.element_size() > w.untyped_storage().nbytes():
                raise ValueError(f"'{name[:40]}' repeats its values")
        return weights
    except Exception as error:  # bytes that are not weights can raise anything
        raise BadInput(f"model.pretrained={path} cannot be read as weights ({reason(error)[:100]})") from error
