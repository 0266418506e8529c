"""What several nets make of the same test images: those whose answer flipped, and explanations of the same ones."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.checkpoint.product_file import Product
from zoo.compare.file_pictures import Flip, MapRow
from zoo.data.images import ImageData
from zoo.errors import BadInput
from zoo.export.read_export import Exported
from zoo.inference.attribution import deletion_and_insertion, explanations
from zoo.inference.explain import has_gradients, mean_scores, random_scores

NUM_SCORED = 100  # images of the deletion and insertion scores
BATCH = 50  # of them
NUM_SHOWN = 3  # images with maps: so many that all nets have right, and so many whose answer flipped
Scores = dict[str, dict[str, float]]


class Compared(Protocol):
    """A file's source, its net in eval mode on a device, its data and its temperature."""

    @property
    def source(self) -> Product | Exported: ...
    @property
    def net(self) -> nn.Module: ...
    @property
    def data(self) -> ImageData: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def temperature(self) -> float: ...


def pixels_of(data: ImageData, index: Tensor) -> Tensor:
    """Return test images as uint8 (N, C, H, W)."""
    data.load()
    images = data.splits["test"].images
    return images[index] if isinstance(images, Tensor) else images[index].decoded()[0]


def flipped(data: ImageData, labels: Tensor, first: Tensor, answers: Tensor, shares: Tensor, most: int) -> list[Flip]:
    """Return the test images that only one of two nets has right, the most confident answers of the other net first.

    `first` and `answers` are (N,); `shares` (N, classes) are the other net's probabilities. At most `most` images that
    the other net lost are followed by at most `most` that it won.
    """
    classes, confidence = data.load().classes, shares.amax(1).nan_to_num()
    right, also = first == labels, answers == labels
    found: list[Flip] = []
    for which in (right & ~also, also & ~right):
        places = which.nonzero()[:, 0]
        chosen = places[confidence[places].argsort(descending=True, stable=True)[:most]]
        for i, pixels in zip(chosen.tolist(), pixels_of(data, chosen), strict=True):
            label, before, after = (_name(classes, int(one[i])) for one in (labels, first, answers))
            found.append(Flip(pixels, label, before, after, float(confidence[i])))
    return found


def _name(classes: Sequence[str], answer: int) -> str:
    return classes[answer] if answer >= 0 else "no answer"


def explain(
    files: Sequence[Compared], labels: Tensor, answers: Sequence[Tensor]
) -> tuple[list[dict[str, Any]], list[MapRow]]:
    """Return the mean scores of maps for each file, and maps of a few images for all files.

    Scored are up to 100 images that all files have right, by the probability of the true class: the file's own maps as
    `own` (None without gradients), those of the first file as `of_first`, and `random` orders of the pixels.
    """
    right = torch.stack([own == labels for own in answers])
    common = right.all(0).nonzero()[:, 0]
    if not len(common):
        raise BadInput("explain=true: there is no test image that all of these files answer correctly")
    index = common[torch.linspace(0, len(common) - 1, min(NUM_SCORED, len(common))).round().long()]
    pixels = pixels_of(files[0].data, index)
    rows: list[dict[str, Any]] = []
    first_maps: dict[str, Tensor] = {}
    for file in files:
        images, targets = _normalised(file, pixels), labels[index].to(file.device)
        maps = _maps(file, images, targets)
        first_maps = first_maps or maps
        own = _scores(file, images, targets, maps) if maps else None
        of_first = own if maps is first_maps else _scores(file, images, targets, first_maps)
        random = random_scores(file.net, images, targets, file.temperature)
        rows.append({"num_images": len(index), "own": own, "of_first": of_first, "random": random})
    method = min(rows[0]["own"], key=lambda name: rows[0]["own"][name]["deletion"])
    return rows, _shown(files, labels, answers, right, method)


def _normalised(file: Compared, pixels: Tensor) -> Tensor:
    facts = file.data.load()
    mean, std = (torch.tensor(one)[:, None, None] for one in (facts.mean, facts.std))
    return ((pixels.float() - mean) / std).to(file.device)


def _maps(file: Compared, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return maps (N, H, W) by method; none for a net without gradients."""
    if not has_gradients(file.source):
        return {}
    pairs = list(zip(images.split(BATCH), targets.split(BATCH), strict=True))
    methods = explanations(file.net, images)
    return {name: torch.cat([function(file.net, *pair) for pair in pairs]) for name, function in methods.items()}


def _scores(file: Compared, images: Tensor, targets: Tensor, maps: Mapping[str, Tensor]) -> Scores:
    found = {}
    for name, of_method in maps.items():
        parts = zip(images.split(BATCH), targets.split(BATCH), of_method.to(file.device).split(BATCH), strict=True)
        scores = [deletion_and_insertion(file.net, *part, file.temperature) for part in parts]
        deletion, insertion = (torch.cat(one) for one in zip(*scores, strict=True))
        found[name] = mean_scores(deletion, insertion)
    return found


def _shown(
    files: Sequence[Compared], labels: Tensor, answers: Sequence[Tensor], right: Tensor, method: str
) -> list[MapRow]:
    """Return maps of each file's own answer: for images that most files flip, and for images that all have right."""
    flips = (right != right[0]).sum(0)
    flipped_most = flips.argsort(descending=True, stable=True)[: min(NUM_SHOWN, int((flips > 0).sum()))]
    common = right.all(0).nonzero()[:, 0]
    spread = torch.linspace(0, len(common) - 1, min(NUM_SHOWN, len(common))).round().long()
    index = torch.cat([flipped_most, common[spread]])
    pixels, classes = pixels_of(files[0].data, index), files[0].data.load().classes
    rows = [MapRow(one, _name(classes, int(label)), method) for one, label in zip(pixels, labels[index], strict=True)]
    for file, own in zip(files, answers, strict=True):
        images, targets = _normalised(file, pixels), own[index].clamp_min(0).to(file.device)
        maps = _maps(file, images, targets).get(method)
        with torch.inference_mode():
            shares = (file.net(images) / file.temperature).softmax(1)
        for i, row in enumerate(rows):
            answer, share = _name(classes, int(own[index[i]])), float(shares[i].max())
            row.cells.append((None if maps is None else maps[i].cpu(), answer, share))
    return rows
