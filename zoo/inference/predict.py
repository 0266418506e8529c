"""Predict classes of image files, or sequences for texts, with a trained net."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo import escape
from zoo.checkpoint.temperature import temperature_of
from zoo.checkpoint.thresholds import thresholds_of
from zoo.data.folders import pictures_in
from zoo.data.picture_data import check_colour
from zoo.data.read_image import picture_of, read_picture
from zoo.data.reading import Reading, covered, resizing_of
from zoo.data.sequences import SequenceFacts, encode_source
from zoo.errors import BadInput, ZooError, reason
from zoo.measure.number_scores import Scale, in_units
from zoo.measure.several_labels import predicted
from zoo.tasks.transcribe import write_for

BATCH = 16  # images per batch
LONGEST_PATH = 400  # characters of a path in an error
MOST_TOLD = 5  # unusable inputs listed in the error
NAN = "the net returns NaN logits; train it again, or with trainer.precision=32-true"
Prediction = tuple[str, list[tuple[str, float]]]
Seen = Callable[[str, Tensor, Tensor], None]  # called with the path, the picture and the net's input


class Unusable(BadInput):
    """Some of the inputs cannot be used; there were predictions for all others."""


def predict(
    net: nn.Module,
    facts: Mapping[str, Any],
    inputs: Sequence[str],
    top: int,
    device: torch.device,
    seen: Seen | None = None,
) -> Iterator[Prediction]:
    """Yield the `top` most probable classes, or sequences, for each input, each with its probability, best first.

    A net that gives several labels yields those above their thresholds, which may be none. One that gives numbers
    yields the name of each with its value, in the units of the labels, whatever `top`.

    Inputs are texts, or image files, folders of them, and patterns such as `*.jpg`. Only the facts of a product file or
    an exported one are needed. `seen` is called with the path, the picture (3, height, width), uint8, and the net's
    input (C, H, W) of each picture. Raises BadInput immediately for missing files, and, after all others,
    Unusable for files that cannot be read as images, and for texts with symbols that the net has never seen.
    """
    if "source_symbols" in facts["data"]:
        return _of_texts(net, SequenceFacts(**facts["data"]), inputs, top, device)
    return _of_images(net, facts, files_of(inputs), top, device, seen)


def _of_texts(
    net: nn.Module, symbols: SequenceFacts, texts: Sequence[str], top: int, device: torch.device
) -> Iterator[Prediction]:
    unusable = []
    for text in texts:
        try:
            encode_source(text, symbols)
        except BadInput as error:
            unusable.append(error)
        else:
            yield text, write_for(net, text, symbols, device, top)
    _report_unusable(unusable, "")


def _of_images(
    net: nn.Module, facts: Mapping[str, Any], paths: Sequence[str], top: int, device: torch.device, seen: Seen | None
) -> Iterator[Prediction]:
    settings, unreadable = facts["config"]["data"], []
    for start in range(0, len(paths), BATCH):
        images = {}
        for path in paths[start : start + BATCH]:
            try:
                images[path] = read_image(path, settings, facts["data"], seen)
            except BadInput as error:
                unreadable.append(error)
        if not images:
            continue
        batch = torch.cat(list(images.values())).to(device)
        yield from zip(images, answers(net, batch, facts, top), strict=True)
    _report_unusable(unreadable, "; use JPEG, PNG or another image format")


def _report_unusable(errors: Sequence[BadInput], advice: str) -> None:
    if errors:
        more = f"; and {len(errors) - MOST_TOLD:,} more" if len(errors) > MOST_TOLD else ""
        raise Unusable(f"{'; '.join(map(str, errors[:MOST_TOLD]))}{more}{advice}")


def answers(net: nn.Module, images: Tensor, facts: Mapping[str, Any], top: int) -> list[list[tuple[str, float]]]:
    """Return the classes, labels or numbers of each image, according to the facts of a file.

    See `classify`, `labels_of` and `numbers_of`.
    """
    if scale := facts["data"].get("number_scale"):
        return numbers_of(net, images, facts["data"]["classes"], scale)
    classes, thresholds = facts["data"]["classes"], thresholds_of(facts)
    if thresholds is not None:
        return labels_of(net, images, classes, top, thresholds)
    return classify(net, images, classes, top, temperature_of(facts))


@torch.inference_mode()
def labels_of(
    net: nn.Module, images: Tensor, classes: Sequence[str], top: int, thresholds: Tensor
) -> list[list[tuple[str, float]]]:
    """Return the labels of each image with a probability above their threshold (C,), at most `top`, likely ones first.

    There may be none. Raises ZooError if the net returns NaN.
    """
    logits = net(images)
    if logits.isnan().any():
        raise ZooError(NAN)
    shares, chosen = logits.double().sigmoid().cpu(), predicted(logits, thresholds).cpu()
    found = []
    for row, is_chosen in zip(shares, chosen, strict=True):
        pairs = [(classes[i], float(row[i])) for i in is_chosen.nonzero().flatten().tolist()]
        found.append(sorted(pairs, key=lambda pair: -pair[1])[:top])
    return found


@torch.inference_mode()
def numbers_of(net: nn.Module, images: Tensor, names: Sequence[str], scale: Scale) -> list[list[tuple[str, float]]]:
    """Return the name and the value of each number of each image, in the units of the labels.

    Raises ZooError if the net returns NaN.
    """
    numbers = in_units(net(images).cpu(), scale)
    if numbers.isnan().any():
        raise ZooError(NAN)
    return [list(zip(names, row, strict=True)) for row in numbers.tolist()]


@torch.inference_mode()
def classify(
    net: nn.Module, images: Tensor, classes: Sequence[str], top: int, temperature: float = 1.0
) -> list[list[tuple[str, float]]]:
    """Return the `top` most probable classes of each image (N, C, H, W), each with its probability, best first.

    Logits are divided by `temperature`. Raises ZooError if the net returns NaN.
    """
    shares, best = (net(images) / temperature).softmax(1).topk(min(top, len(classes)))
    if shares.isnan().any():
        raise ZooError(NAN)
    rows = zip(best.tolist(), shares.tolist(), strict=True)
    return [[(classes[i], share) for i, share in zip(named, likely, strict=True)] for named, likely in rows]


def files_of(inputs: Sequence[str]) -> list[str]:
    """Return the files that are named, contained in folders at any depth, or matched by patterns, each once.

    From a folder, only files with image suffixes are taken, and no hidden ones.
    """
    files: dict[str, None] = {}
    for one in inputs:
        found = [one] if os.path.exists(one) else _matches(one)
        there = [file for path in found for file in (pictures_in(path) if os.path.isdir(path) else [path])]
        if not there:
            what = "no image in the folder" if found else "no such file"
            raise BadInput(f"'{one}': {what}; expected files that can be read as images, folders of them, or patterns")
        files |= dict.fromkeys(there)
    return list(files)


def _matches(pattern: str) -> list[str]:
    """Return the files and folders that a pattern matches; one reached through several links only once."""
    found = {os.path.realpath(path): path for path in sorted(glob.glob(pattern, recursive=True), reverse=True)}
    return sorted(path for path in found.values() if os.path.isfile(path) or os.path.isdir(path))


def read_image(picture: Any, settings: Mapping[str, Any], facts: Mapping[str, Any], seen: Seen | None = None) -> Tensor:
    """Return a picture as (1, C, H, W), float32, preprocessed as in training: resized, cropped, gray, normalised.

    `picture` is the path of a file, or a picture in memory, as `picture_of` takes it. Raises BadInput for others. For
    `seen`, see `predict`.
    """
    size, background = settings["image_size"], settings.get("background", "white")
    resize, interpolation = resizing_of(settings)
    reading = Reading(size, covered(size, resize), interpolation)
    check_colour(background)
    is_file = isinstance(picture, str | os.PathLike)
    try:
        whole = read_picture(os.fspath(picture), background) if is_file else picture_of(picture, background)
        image = reading.cropped(whole)[None]
    except Exception as error:  # bytes that are not an image can raise anything
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        path = escape.shortened(str(picture), LONGEST_PATH)
        raise BadInput(f"'{path}' cannot be read as an image ({why})" if is_file else f"a picture: {why}") from error
    if settings["in_channels"] == 1:  # by ITU-R BT.601, rounded, so that gray stays unchanged
        image = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).round()
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    image = (image.float() - mean) / std
    if seen is not None:
        seen(str(picture), whole, image[0])
    return image


def pixels_of(images: Tensor, facts: Mapping[str, Any]) -> Tensor:
    """Return the pixels, uint8, of normalised images (..., C, H, W)."""
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("mean", "std"))
    return (images * std + mean).round().clamp(0, 255).to(torch.uint8)
