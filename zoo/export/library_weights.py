"""State dicts for other libraries: torchvision's and timm's nets of the same name load them strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from zoo.checkpoint.presets import crop_pct_of
from zoo.checkpoint.pretrained import LEAST_PX, THEIR_NAMES, has_published_stem
from zoo.checkpoint.timm_weights import ARCHITECTURES, CONFIG_JSON, MOST_PX_OF_VGG, timm_name, to_timm
from zoo.data.reading import resizing_of
from zoo.errors import BadInput
from zoo.export.export_format import Job
from zoo.files import replacing, write_json
from zoo.ranges import height_width

TIMM_VITS = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_base_32": "vit_base_patch32_224",
}


def save_for_torchvision(path: Path, job: Job) -> None:
    """Write the weights of a net under torchvision's names, with the arguments of its constructor as metadata."""
    model, data = _checked(job)
    if data["in_channels"] != 3:
        raise BadInput(f"torchvision's nets take 3 channels, and this one takes {data['in_channels']}")
    arguments: dict[str, Any] = {"num_classes": len(job.facts["data"]["classes"])}
    if model.startswith("vit"):
        if not isinstance(data["image_size"], int):
            raise BadInput(
                f"its ViTs are for square images, and this one is for {data['image_size']} px; use format=timm"
            )
        arguments["image_size"] = data["image_size"]
    if model in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": any(name.startswith(("aux", "Aux")) for name in job.product.weights)}
        arguments["init_weights"] = False
    _save(path, job.product.weights, "torchvision", THEIR_NAMES.get(model, model), arguments)


def save_for_timm(path: Path, job: Job) -> None:
    """Write the weights of a net in timm's layout, and next to it the config.json that timm builds the net from."""
    model, data = _checked(job)
    classes, facts = job.facts["data"]["classes"], job.facts["data"]
    name, is_vit = TIMM_VITS.get(model, model), model in TIMM_VITS
    if not ARCHITECTURES.fullmatch(name):
        raise BadInput(f"it has no {model}; expected a ResNet, VGG, Inception-v3 or ViT")
    if model.startswith("vgg") and max(height_width(data["image_size"])) > MOST_PX_OF_VGG:
        raise BadInput(
            f"for images of more than {MOST_PX_OF_VGG} px its VGG averages over several places, and this one, for "
            f"{data['image_size']} px, pools to one"
        )
    arguments: dict[str, Any] = {"num_classes": len(classes), "in_chans": data["in_channels"]}
    if is_vit:
        arguments["img_size"] = data["image_size"]
    weights = {key: weight for key, weight in job.product.weights.items() if not key.startswith("AuxLogits.")}
    _save(path, to_timm(weights), "timm", name, arguments)
    resize, interpolation = resizing_of(data)
    preprocessing = {
        "input_size": [data["in_channels"], *height_width(data["image_size"])],
        "fixed_input_size": is_vit,
        "mean": [one / 255 for one in facts["mean"]],
        "std": [one / 255 for one in facts["std"]],
        "crop_pct": crop_pct_of(min(height_width(data["image_size"])), resize),
        "crop_mode": "center",
        "interpolation": interpolation,
        "num_classes": len(classes),
        **_ends(job.net),
    }
    config = {
        "architecture": name,
        "num_classes": len(classes),
        "global_pool": "token" if is_vit else "avg",
        "label_names": classes,
        "model_args": arguments,
    }
    write_json(path.with_name(CONFIG_JSON), {**config, "pretrained_cfg": preprocessing})


def _ends(net: nn.Module) -> dict[str, str]:
    """Return timm's names of a net's first convolution and of its head, which it replaces for other sizes."""
    first = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    heads: Any = net.head_names
    found = {"first_conv": first, "classifier": heads[0]}
    return {key: timm_name(f"{name}.weight").removesuffix(".weight") for key, name in found.items()}


def _checked(job: Job) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a net and the settings of its data; raise BadInput for one that other libraries lack."""
    config = job.facts["config"]
    if "classes" not in job.facts["data"]:
        raise BadInput("this net reads sequences, and the library has nets for images")
    if not has_published_stem(config["model"], config["data"]["image_size"]):
        raise BadInput(
            f"this net is for images of {config['data']['image_size']} px, for which it has another stem than the "
            f"library's; expected at least {LEAST_PX} px, or model.stem=large in training"
        )
    return config["choices"]["model"], config["data"]


def _save(path: Path, weights: Mapping[str, Tensor], library: str, name: str, arguments: Mapping[str, Any]) -> None:
    metadata = {"format": "pt", "library": library, "architecture": name, "arguments": json.dumps(arguments)}
    with replacing(path) as file:
        file.write(safetensors.torch.save({key: weight.contiguous() for key, weight in weights.items()}, metadata))
