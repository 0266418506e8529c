"""A trained net with its classes, preprocessing and metadata, for use from Python."""

from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint.named_files import is_shipped
from zoo.data.sequences import SequenceFacts
from zoo.errors import BadInput, as_value_error, require
from zoo.export.read_export import net_of, read_net
from zoo.inference import predict
from zoo.instantiate import trusting
from zoo.paths import CARDS
from zoo.tasks.transcribe import write_for

Predicted = list[tuple[str, float]]


class TrainedNet:
    """A trained net that was read from a file.

    Attributes:
        net: the network, in eval mode on the CPU. Takes normalised images (N, C, size, size), float32, and returns
            logits (N, classes); a sequence net is used through `predict`. `predict` divides the logits by the file's
            temperature, metadata["temperature"], if it has one.
        classes: the names of the classes, or of the numbers, in the order of the logits; empty for sequence nets.
        metadata: all that the file says about the net: config, recipe, data, versions, commit.
        path: the file.
    """

    def __init__(self, path: Path, net: nn.Module, metadata: dict[str, Any]) -> None:
        self.path, self.net, self.metadata = path, net.eval(), metadata
        self.classes: list[str] = list(metadata["data"].get("classes", ()))

    def __repr__(self) -> str:
        chosen = self.metadata["config"]["choices"]
        return f"<{type(self).__name__} {self.path.name}: {chosen['model']}, trained on {chosen['data']}>"

    @property
    def card(self) -> str:
        """The model card of a net that comes with the zoo, in Markdown; empty for other files."""
        return (CARDS / f"{self.path.stem}.md").read_text() if is_shipped(self.path) else ""

    @as_value_error()
    def preprocess(self, picture: Any) -> Tensor:
        """Return a picture as the net takes it: (1, C, height, width), float32, prepared as in training.

        `picture` is a path, a PIL image, a uint8 array (height, width) or (height, width, channels), or a uint8 tensor
        (channels, height, width); its centre is used, in the shape of the net's images. A PIL image that Pillow has
        opened and not decoded is read as its file is, at the frame it is at; all others by their pixels, turned by the
        orientation in their EXIF, with 0 to 65,535 for mode I;16 and 0 to 1 for mode F. Raises ValueError for anything
        else, for a file that is not a picture, and for more than 178,956,970 pixels or a side of more than 100 times
        the other.
        """
        if not self.classes:
            raise BadInput(f"{self!r} is for sequences, which need no preprocessing; pass a text to predict()")
        return predict.read_image(picture, self.metadata["config"]["data"], self.metadata["data"])

    @as_value_error()
    def predict(self, inputs: Any, top: int = 5, batch_size: int = 64) -> Any:
        """Return the `top` most probable classes with their probabilities, best first: [(class, probability), ...].

        `inputs` is one picture, as `preprocess` takes it, or a list or tuple of them, for which a list of such lists is
        returned; pictures are computed in batches of `batch_size`. For a sequence net, it is a text, or a list or tuple
        of them, and the result has the most probable outputs of a beam search of width `top`. Raises ValueError for
        inputs of another kind; pass other collections and iterators as list(inputs). Puts the net in eval mode.

        A net that gives several labels returns those with a probability above their threshold, which may be none. One
        that gives numbers returns all of them: [(name, number), ...], in the units of its labels.
        """
        for key, value in (("top", top), ("batch_size", batch_size)):
            is_whole = isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's, too
            require(is_whole and value >= 1, key, "a whole number of at least 1", value)
        self.net.eval()
        several = isinstance(inputs, list | tuple)
        all_inputs = inputs if several else [inputs]
        rows = self._classify(all_inputs, top, batch_size) if self.classes else self._write(all_inputs, top)
        return list(rows) if several else next(rows)

    def _classify(self, pictures: Sequence[Any], top: int, batch_size: int) -> Iterator[Predicted]:
        for start in range(0, len(pictures), batch_size):
            images = torch.cat([self.preprocess(one) for one in pictures[start : start + batch_size]])
            yield from predict.answers(self.net, images.to(self._device), self.metadata, top)

    def _write(self, texts: Sequence[Any], top: int) -> Iterator[Predicted]:
        symbols = SequenceFacts(**self.metadata["data"])
        for text in texts:
            require(isinstance(text, str), "inputs", "a text, or a list or tuple of texts", text)
            yield write_for(self.net, text, symbols, self._device, top)

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))


def load(source: str | Path, trusted: Sequence[str] = ()) -> TrainedNet:
    """Read a file and build its net; see `zoo.load`."""
    with trusting(trusted):
        found = read_net(str(source))
        return TrainedNet(found.path, net_of(found), found.facts)
