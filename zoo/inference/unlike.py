"""Hints that pictures are unlike those that a net was trained on, which makes its answers unreliable."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.ranges import height_width

FAR = 1.0  # in standard deviations of a pixel: exceeded by 1 in 10,000 digits of MNIST, and 1 in 150 of Fashion-MNIST
COLOURED = 8.0  # mean difference of a pixel's channels, in levels of 255; JPEG makes less of grey
OBLONG = 1.5  # ratio of a picture's shape to that of the net's images, above which more than a third is cropped


class Unlike:
    """Count pictures that are unlike the training data, by kind of difference, with the first of each as an example.

    Kinds are: mean brightness, size, shape (only the centre is used), and colour for a net of grey pictures.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        settings, data = facts["config"]["data"], facts["data"]
        self.sides, self.is_grey = height_width(settings["image_size"]), settings["in_channels"] == 1
        self.has_any_size = "num_workers" in settings  # trained on files, which are enlarged or reduced
        self.level = sum(data["mean"]) / len(data["mean"])
        self.std = sum(data["std"]) / len(data["std"])
        self.total = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def note(self, path: str, picture: Tensor, image: Tensor) -> None:
        """Compare a picture (3, height, width), uint8, and the net's input that was made of it, normalised."""
        self.total += 1
        for kind, example in self._differences(picture, image).items():
            self.counts[kind] += 1
            self.examples.setdefault(kind, f"such as '{path}', {example}")

    def sentences(self) -> list[str]:
        """Return one sentence per kind of difference that was found."""
        return [f"{kind} ({num:,} of {self.total:,}), {self.examples[kind]}." for kind, num in self.counts.items()]

    def _differences(self, picture: Tensor, image: Tensor) -> dict[str, str]:
        height, width = picture.shape[1:]
        times = [one / of_net for one, of_net in zip((height, width), self.sides, strict=True)]
        size, (down, across) = f"of {width} × {height} px", self.sides
        of_net = f"{down} px" if down == across else f"{across} × {down} px"
        found = {}
        if abs(off := float(image.mean())) > FAR:
            kind = f"Pictures much {'brighter' if off > 0 else 'darker'} than the training data"
            found[kind] = f"of mean level {self.level + off * self.std:.0f}; in training it was {self.level:.0f}"
            if abs((255 - 2 * self.level) / self.std - off) < FAR:
                found[kind] += ". Light and dark may have to be exchanged"
        if min(times) != 1 and not self.has_any_size:
            found["Pictures of another size than the training data"] = f"{size}; resized to {of_net}"
        elif min(times) < 1:
            found[f"Pictures smaller than {of_net}, the net's input"] = f"{size}; enlarged"
        if max(times) > OBLONG * min(times):
            found["Pictures of another shape than the training data"] = f"{size}; only the centre is used"
        channels = picture.to(torch.float32)
        if self.is_grey and float((channels.amax(0) - channels.amin(0)).mean()) > COLOURED:
            found["Coloured pictures"] = "where the training data are grey; colours are ignored"
        return found
