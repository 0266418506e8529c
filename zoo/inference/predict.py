"""What a trained net says of new things: files of images, or texts."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.folders import MARGIN, check_colour, pictures_in
from zoo.data.image_files import ImageFiles
from zoo.data.loader import centre
from zoo.data.sequences import SequenceFacts, encode_source
from zoo.errors import BadInput, ZooError, reason
from zoo.tasks.transcribe import write_for

BATCH = 16  # pictures at once
MOST_TOLD = 5  # files that cannot be read
Prediction = tuple[str, list[tuple[str, float]]]


def predict(
    net: nn.Module, facts: Mapping[str, Any], inputs: Sequence[str], top: int, device: torch.device
) -> Iterator[Prediction]:
    """Yield for each input the `top` likeliest classes, or sequences to write, each with its probability, best first.

    Inputs are texts, or files of images, folders of them, and patterns such as `*.jpg`. What a product file or an
    exported one says (`facts`) is all that is needed. Raises BadInput for texts with symbols that the net has never
    seen and for what names no file at once, and for files that cannot be read as images after all others.
    """
    if "source_symbols" in facts["data"]:
        symbols = SequenceFacts(**facts["data"])
        for text in inputs:
            encode_source(text, symbols)
        return ((text, write_for(net, text, symbols, device, top)) for text in inputs)
    return _of_images(net, facts, files_of(inputs), top, device)


@torch.inference_mode()
def _of_images(
    net: nn.Module, facts: Mapping[str, Any], paths: Sequence[str], top: int, device: torch.device
) -> Iterator[Prediction]:
    classes, unreadable = facts["data"]["classes"], []
    for start in range(0, len(paths), BATCH):
        images = {}
        for path in paths[start : start + BATCH]:
            try:
                images[path] = read_image(path, facts["config"]["data"], facts["data"])
            except BadInput as error:
                unreadable.append(error)
        if not images:
            continue
        shares, best = net(torch.cat(list(images.values())).to(device)).softmax(1).topk(min(top, len(classes)))
        if shares.isnan().any():
            raise ZooError("the net gives logits that are NaN; train it again, or in trainer.precision=32-true")
        for path, named, likely in zip(images, best.tolist(), shares.tolist(), strict=True):
            yield path, [(classes[i], share) for i, share in zip(named, likely, strict=True)]
    if unreadable:
        more = f"; and {len(unreadable) - MOST_TOLD:,} more" if len(unreadable) > MOST_TOLD else ""
        raise BadInput(f"{'; '.join(map(str, unreadable[:MOST_TOLD]))}{more}; JPEG, PNG and others can be")


def files_of(inputs: Sequence[str]) -> list[str]:
    """Return the files that are named, that folders hold at any depth, and that patterns match, each once.

    Of a folder these are the pictures, by their names' endings, and nothing that is hidden.
    """
    files: dict[str, None] = {}
    for one in inputs:
        found = [one] if os.path.exists(one) else _matches(one)
        there = [file for path in found for file in (pictures_in(path) if os.path.isdir(path) else [path])]
        if not there:
            what = "no picture in the folder" if found else "no such file"
            raise BadInput(f"'{one}': {what}; expected files that can be read as images, folders of them, or patterns")
        files |= dict.fromkeys(there)
    return list(files)


def _matches(pattern: str) -> list[str]:
    """Return the files and folders that a pattern matches; one that links lead to in several ways once."""
    found = {os.path.realpath(path): path for path in sorted(glob.glob(pattern, recursive=True), reverse=True)}
    return sorted(path for path in found.values() if os.path.isfile(path) or os.path.isdir(path))


def read_image(path: str, settings: dict[str, Any], facts: dict[str, Any]) -> Tensor:
    """Read one image (1, C, size, size), float32, as the net's own data were: resized, cut, gray or not, normalised."""
    size = settings["image_size"]
    stored = round(size * MARGIN) if "num_workers" in settings else size
    check_colour(background := settings.get("background", "white"))
    files = ImageFiles([path], stored, background=background)
    try:
        image = files.read(0)[None]
    except Exception as error:  # bytes that are no image lead a decoder anywhere
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise BadInput(f"'{path}' cannot be read as an image ({why})") from error
    if settings["in_channels"] == 1:  # by ITU-R BT.601, rounded, so that what is gray stays as it is
        image = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).round()
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    return (centre(image, size).float() - mean) / std
