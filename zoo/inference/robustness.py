"""Evaluate a net on corrupted and shifted images, and on images of other data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.catalogue import data_settings
from zoo.checkpoint.data_places import DATA_ROOT, placed
from zoo.data.corruptions import CHANNELS, KINDS, SEVERITIES, corrupt, generator
from zoo.data.images import ImageData
from zoo.data.module import ResidentData
from zoo.data.shifts import SHIFTS
from zoo.errors import BadInput, require
from zoo.instantiate import build
from zoo.measure import detection
from zoo.measure.accuracy import is_right
from zoo.measure.evaluation import predictions

Changed = Callable[[Tensor], list[Tensor]]  # of a batch of uint8 images, one or more versions of each
KEYS = ("corruptions", "shift", "out_of_distribution")


def check(data: ResidentData, cfg: DictConfig) -> None:
    """Raise BadInput if the settings of evaluate.py ask for what these data cannot have."""
    asked = [key for key in KEYS if cfg[key]]
    if asked and not isinstance(data, ImageData):
        value = "true" if cfg[asked[0]] is True else cfg[asked[0]]
        raise BadInput(f"{asked[0]}={value} is for nets that classify images, and this one reads sequences")
    if asked and data.number_scale is not None:
        raise BadInput(f"{asked[0]} is for nets that give each image one class, and this one gives numbers")
    if asked and isinstance(data, ImageData) and data.multilabel:
        raise BadInput(f"{asked[0]} is for nets that give each image one class, and this one gives several labels")
    if isinstance(data, ImageData):
        check_corruptions(data, cfg.corruptions)


def check_corruptions(data: ImageData, asked: Any) -> None:
    """Raise BadInput unless `asked` is true, false or a number of images, and for channels that have no corruptions."""
    require(
        isinstance(asked, int) and (asked is False or asked >= 1),
        "corruptions",
        "true, false, or a number of test images from 1",
        asked,
    )
    if asked and data.in_channels not in CHANNELS:
        raise BadInput(f"corruptions=true is for gray and RGB images, and these have {data.in_channels} channels")


def evaluate(
    net: nn.Module, data: ResidentData, cfg: DictConfig, device: torch.device, temperature: float = 1.0
) -> dict[str, Any]:
    """Return what `corruptions`, `shift` and `out_of_distribution` of evaluate.py ask for, by these names."""
    if not isinstance(data, ImageData):
        return {}
    others = other_data(cfg.out_of_distribution, data, cfg) if cfg.out_of_distribution else None
    found: dict[str, Any] = {}
    if cfg.corruptions:
        found["corruptions"] = corruptions(net, data, cfg.split, device, cfg.seed, cfg.corruptions)
    if cfg.shift:
        found["shift"] = shifts(net, data, cfg.split, device)
    if others is not None:
        known = _logits(net, data, cfg.split, device)
        found["out_of_distribution"] = {
            "data": cfg.out_of_distribution,
            **separation(known, _logits(net, others, "test", device), temperature),
        }
    return found


def corruptions(
    net: nn.Module, data: ImageData, split: Any, device: torch.device, seed: int, most: int | bool = True
) -> dict[str, Any]:
    """Return the accuracy for each kind of corruption and severity from 1 to 5, and the mean of all of them.

    It is that of all images, or of `most` images, evenly spaced. Random numbers depend on the seed, the kind and the
    severity, and on the sizes of batches.
    """
    return corruptions_of_several([net], data, split, device, seed, most)[0]


def corruptions_of_several(
    nets: Sequence[nn.Module],
    data: ImageData,
    split: Any,
    device: torch.device,
    seed: int,
    most: int | bool = True,
) -> list[dict[str, Any]]:
    """Return what `corruptions` does for each of several nets, on images that are corrupted once for all of them."""
    changes: dict[tuple[str, int], Changed] = {}
    for kind in KINDS:
        for severity in range(1, SEVERITIES + 1):
            draw = generator(kind, severity, seed, device)

            def change(pixels: Tensor, k: str = kind, s: int = severity, d: torch.Generator = draw) -> list[Tensor]:
                return [corrupt(pixels, k, s, d)]

            changes[kind, severity] = change
    total, rows = data.load().num_samples[split], []
    num_images = total if most is True else min(most, total)
    for found in accuracies(nets, data, split, device, changes, num_images):
        kinds = {kind: [found[kind, severity] for severity in range(1, SEVERITIES + 1)] for kind in KINDS}
        mean = sum(found.values()) / len(found)
        rows.append({"seed": seed, "num_images": num_images, "mean_accuracy": mean, "kinds": kinds})
    return rows


def shifts(net: nn.Module, data: ImageData, split: Any, device: torch.device) -> dict[str, dict[str, float]]:
    """Return the accuracy for each amount of translation, rotation and brightness, over all directions."""
    changes: dict[tuple[str, float], Changed] = {}
    for kind, (function, amounts) in SHIFTS.items():
        for amount in amounts:

            def change(pixels: Tensor, f: Any = function, a: float = amount) -> list[Tensor]:
                versions: list[Tensor] = f(pixels, a)
                return versions

            changes[kind, amount] = change
    (found,) = accuracies([net], data, split, device, changes, data.load().num_samples[split])
    return {kind: {f"{amount:g}": found[kind, amount] for amount in amounts} for kind, (_, amounts) in SHIFTS.items()}


@torch.inference_mode()
def accuracies(
    nets: Sequence[nn.Module],
    data: ImageData,
    split: Any,
    device: torch.device,
    changes: Mapping[Any, Changed],
    num_images: int,
) -> list[dict[Any, float]]:
    """Return for each net the accuracy on each version of `num_images` evenly spaced images of a split.

    Images are read and changed once for all nets.
    """
    facts = data.load()
    mean, std = (torch.tensor(one, device=device)[:, None, None] for one in (facts.mean, facts.std))
    hits: list[dict[Any, list[Tensor]]] = [{key: [] for key in changes} for _ in nets]
    place = torch.arange(facts.num_samples[split]) * num_images // facts.num_samples[split]
    chosen = place.diff(prepend=torch.tensor([-1])).bool()
    for images, labels in _chosen(data.loader(split, device), chosen):
        pixels = (images * std + mean).round().clamp(0, 255).to(torch.uint8)
        for key, change in changes.items():
            for version in change(pixels):
                inputs = (version.float() - mean) / std
                for net, of_net in zip(nets, hits, strict=True):
                    of_net[key].append(is_right(net(inputs), labels))
    return [{key: float(torch.cat(one).double().mean()) for key, one in of_net.items()} for of_net in hits]


def _chosen(batches: Iterable[tuple[Tensor, Tensor]], chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the part of each batch (images, labels) that `chosen` (N,) has for it, and no empty ones."""
    start = 0
    for images, labels in batches:
        own = chosen[start : start + len(labels)].nonzero()[:, 0].to(images.device)
        start += len(labels)
        if len(own):
            yield images[own], labels[own]


def separation(known: Tensor, others: Tensor, temperature: float = 1.0) -> dict[str, Any]:
    """Return how well confidence and energy of logits (N, C) tell known images from others (M, C).

    `auroc` is the area under the ROC curve, and `fpr95` the fraction of others that are taken for known where 95 % of
    the known are. Confidence is the largest probability of logits / temperature. NaN logits get the lowest score.
    """
    scores: dict[str, Callable[[Tensor], Tensor]] = {
        "confidence": lambda logits: detection.confidence(logits, temperature),
        "energy": detection.energy,
    }
    found: dict[str, Any] = {"num_samples": len(others)}
    for name, score in scores.items():
        ours, theirs = (score(one).nan_to_num(-torch.inf) for one in (known, others))
        found[name] = {"auroc": detection.auroc(ours, theirs), "fpr95": detection.false_positive_rate(ours, theirs)}
    return found


def _logits(net: nn.Module, data: ResidentData, split: Any, device: torch.device) -> Tensor:
    return torch.cat([logits for logits, _ in predictions(net, data.loader(split, device))])


def other_data(name: str, data: ImageData, cfg: DictConfig) -> ImageData:
    """Build other data, normalised as the net's own; raise BadInput if they do not exist or have another shape."""
    try:
        settings = data_settings(name)
    except BadInput as error:
        raise BadInput(f"out_of_distribution: {error}") from error
    facts = data.load()
    shape = {"in_channels": data.in_channels, "image_size": data.image_size}
    if different := [key for key, value in shape.items() if settings.get(key) != value]:
        key = different[0]
        raise BadInput(
            f"out_of_distribution={name}: expected data of {key}={shape[key]}, which the net takes, got "
            f"{settings.get(key, 'sequences')}"
        )
    settings = placed(settings, str(DATA_ROOT), cfg)
    settings |= {"mean": facts.mean, "std": facts.std, "augment": None, "eval_batch_size": cfg.batch_size}
    built: ImageData = build(settings, "data")
    if built.load().split_hash == facts.split_hash:
        raise BadInput(f"out_of_distribution={name}: these are the data that the net was trained on; name others")
    return built
