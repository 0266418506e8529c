"""What a trained net says of new things: files of images, or texts."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint import Product
from zoo.data.decoding import ImageFiles
from zoo.data.folders import MARGIN
from zoo.data.loader import centre
from zoo.data.sequences import SequenceFacts
from zoo.errors import BadInput, ZooError, reason
from zoo.writing import write_for


def predict(net: nn.Module, product: Product, inputs: list[str], top: int) -> dict[str, list[tuple[str, float]]]:
    """Give for each input the `top` likeliest classes, or sequences to write, each with its probability, best first.

    Nothing but the product file is wanted: it knows its classes, or symbols, and how its images were normalised.
    Raises BadInput for what is no image, and for symbols that the net has never seen.
    """
    facts, device = product.facts["data"], next(net.parameters()).device
    if "source_symbols" in facts:
        symbols = SequenceFacts(**facts)
        return {text: write_for(net, text, symbols, device, top) for text in inputs}
    images = torch.cat([read_image(path, product.facts["config"]["data"], facts) for path in inputs])
    with torch.inference_mode():
        shares, classes = net(images.to(device)).softmax(1).topk(min(top, len(facts["classes"])))
    if shares.isnan().any():
        raise ZooError(f"{product.path} gives logits that are NaN; train it again, or in trainer.precision=32-true")
    return {
        path: [(facts["classes"][i], share) for i, share in zip(named, likely, strict=True)]
        for path, named, likely in zip(inputs, classes.tolist(), shares.tolist(), strict=True)
    }


def read_image(path: str, settings: dict[str, Any], facts: dict[str, Any]) -> Tensor:
    """Read one image (1, C, size, size), float32, as the net's own data were: resized, cut, gray or not, normalised."""
    size = settings["image_size"]
    files = ImageFiles([path], round(size * MARGIN) if "num_workers" in settings else size)
    try:
        image = files.read(0)[None]
    except Exception as error:  # bytes that are no image lead a decoder anywhere
        raise BadInput(f"'{path}' cannot be read as an image ({reason(error)}); JPEG, PNG and others can") from error
    if settings["in_channels"] == 1:  # by ITU-R BT.601, rounded, so that what is gray stays as it is
        image = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).round()
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    return (centre(image, size).float() - mean) / std
