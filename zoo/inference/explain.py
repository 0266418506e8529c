"""Explain a net's answers to pictures: by maps of the pixels that they depend on, and scores of these maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product
from zoo.checkpoint.temperature import temperature_of
from zoo.compress.recipe import in_integers
from zoo.data.table_labels import instead_of_class
from zoo.errors import BadInput, choices
from zoo.export.read_export import Exported
from zoo.inference.attribution import deletion_and_insertion, explanations
from zoo.inference.predict import pixels_of, read_image
from zoo.report.explanation_plot import Explained

MOST_PICTURES = 32  # in a grid that can be read
NUM_RANDOM = 5  # random maps whose mean scores are the reference
RANDOM = "random order"


def net_to_explain(source: Product | Exported) -> nn.Module:
    """Build the net of a file with its weights; raise BadInput for one without gradients, or one of sequences."""
    if "classes" not in source.facts["data"]:
        raise BadInput(f"{source.path} reads sequences; explanations are for nets that classify images")
    if what := instead_of_class(source.facts["config"]["data"]):
        raise BadInput(f"{source.path} gives {what}; explanations are for nets that give each image one class")
    if not isinstance(source, Product):
        raise BadInput(f"{source.path} is computed by a runtime that has no gradients; use the checkpoint it is of")
    if not has_gradients(source):
        raise BadInput(f"{source.path} is quantized and has no gradients; use the float net that it was made from")
    return load_model(source).eval()


def has_gradients(source: Product | Exported) -> bool:
    """Return whether the logits of a file's net have gradients: not if a runtime or integers compute them.

    Weights that are only stored as integers are read as floats, and so do not prevent it.
    """
    recipe = source.facts["recipe"]
    computes_in_int8 = any(
        in_integers([step]) and (step["pass"] != "weight_only" or step["dynamic"]) for step in recipe
    )
    return isinstance(source, Product) and not computes_in_int8


def explain(
    net: nn.Module, facts: dict[str, Any], paths: Sequence[str], device: torch.device, of_class: str | None = None
) -> tuple[list[Explained], dict[str, dict[str, float]]]:
    """Return the explanation of each picture, and by method the mean scores of all pictures.

    Explained is the most probable class, or `of_class`. The means include those of random orders of the pixels, which a
    map must beat to mean anything. Raises BadInput for no picture or too many, for one that cannot be read, and for an
    unknown class.
    """
    classes = facts["data"]["classes"]
    if not 0 < len(paths) <= MOST_PICTURES:
        raise BadInput(f"inputs: expected 1 to {MOST_PICTURES} pictures for one grid, got {len(paths):,}")
    if of_class is not None and of_class not in classes:
        raise BadInput(f"of_class={of_class[:80]} is not a class of this net; {choices(of_class[:80], classes)}")
    images = torch.cat([read_image(path, facts["config"]["data"], facts["data"]) for path in paths]).to(device)
    temperature = temperature_of(facts)
    with torch.no_grad():
        shares = (net(images) / temperature).softmax(1)
    targets = shares.argmax(1) if of_class is None else torch.full_like(shares.argmax(1), classes.index(of_class))
    pixels = pixels_of(images.cpu(), facts["data"])
    probabilities = shares.gather(1, targets[:, None])[:, 0].tolist()
    rows = [
        Explained(Path(path).name, picture, classes[target], share)
        for path, picture, target, share in zip(paths, pixels, targets.tolist(), probabilities, strict=True)
    ]
    found = scored_maps(net, images, targets, temperature)
    for method, (maps, *scores) in found.items():
        for row, one, *pair in zip(rows, maps.cpu(), *(score.tolist() for score in scores), strict=True):
            row.maps[method] = one
            row.scores[method] = (pair[0], pair[1])
    means = {method: mean_scores(*scores) for method, (_, *scores) in found.items()}
    return rows, {**means, RANDOM: random_scores(net, images, targets, temperature)}


def scored_maps(
    net: nn.Module, images: Tensor, targets: Tensor, temperature: float = 1.0
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return by method the maps (N, H, W) of classes `targets` (N,), and their deletion and insertion scores (N,)."""
    found = {}
    for method, function in explanations(net, images).items():
        maps = function(net, images, targets)
        found[method] = (maps, *deletion_and_insertion(net, images, targets, maps, temperature))
    return found


def random_scores(net: nn.Module, images: Tensor, targets: Tensor, temperature: float) -> dict[str, float]:
    """Return the mean scores of maps that are random orders of the pixels, which another map must beat."""
    draw = torch.Generator().manual_seed(0)
    shape = (len(images), *images.shape[-2:])
    maps = [torch.rand(shape, generator=draw).to(images.device) for _ in range(NUM_RANDOM)]
    scores = [deletion_and_insertion(net, images, targets, one, temperature) for one in maps]
    deletions, insertions = zip(*scores, strict=True)
    return mean_scores(torch.cat(deletions), torch.cat(insertions))


def mean_scores(deletion: Tensor, insertion: Tensor) -> dict[str, float]:
    """Return the mean of scores (N,), by name."""
    return {"deletion": float(deletion.mean()), "insertion": float(insertion.mean())}
