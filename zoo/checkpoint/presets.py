"""How pictures are resized for published weights, in torchvision's presets and in timm's config.json."""

import math
from pathlib import Path
from typing import Any

from torchvision.models import get_model_weights, list_models

from zoo.checkpoint.pretrained import THEIR_NAMES
from zoo.checkpoint.timm_weights import read_config
from zoo.ranges import ImageSize, height_width


def published_resizing(model: str, image_size: ImageSize, source: bool | str = True) -> tuple[int, str] | None:
    """Return `resize` in px, and the interpolation, with which published weights are evaluated; None: unknown.

    `source` is as in `load_published`. They are those of torchvision's preset or, for a file, of timm's config.json
    next to it; a file without one is known by the name under which torchvision publishes it. For images of another size
    than the preset's, it keeps its ratio to the shorter side.
    """
    file, shorter = Path(str(source)), min(height_width(image_size))
    if source is not True and file.is_file() and (config := read_config(file)):
        found = config.pretrained_cfg
        return math.floor(shorter / found.crop_pct), found.interpolation  # rounded as timm does
    if (preset := _preset_of(THEIR_NAMES.get(model, model), source)) is None:
        return None
    (resize,), (crop,) = preset.resize_size, preset.crop_size
    return round(shorter * resize / crop), preset.interpolation.value


def _preset_of(their_name: str, source: bool | str) -> Any:
    """Return torchvision's transforms for its weights `source`: true, an entry's name or a file; None if unknown."""
    if their_name not in list_models():
        return None
    entries: Any = get_model_weights(their_name)
    if source is True:
        return entries.DEFAULT.transforms()
    name = Path(str(source)).name
    entry = next((one for one in entries if one.name == source or one.url.endswith(f"/{name}")), None)
    return entry and entry.transforms()


def crop_pct_of(image_size: int, resize: int) -> float:
    """Return timm's crop_pct, from which it computes the same shorter side."""
    exact = image_size / resize
    return exact if math.floor(image_size / exact) == resize else image_size / (resize + 0.5)
