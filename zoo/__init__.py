"""A reference zoo of vision networks and the Transformer.

```python
import zoo

zoo.list_models("resnet*")
net = zoo.create_model("resnet20", num_classes=10, in_channels=3, image_size=32)
trained = zoo.load("lenet5_mnist_5k")  # or a file that train.py or scripts/export.py wrote
trained.predict("picture.png")
```

These four functions are the public interface; all else may change. Importing this package imports neither torch nor
anything else that takes long.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from zoo.inference.trained_net import TrainedNet

__all__ = ["create_model", "list_models", "list_trained", "load"]
__version__ = "0.1.0"
_PATTERN = "a text such as 'resnet*'"


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a pattern such as `resnet*`, sorted.

    Raises ValueError unless the pattern is a text.
    """
    from zoo.catalogue import model_names
    from zoo.errors import as_value_error, require

    with as_value_error():
        require(isinstance(pattern, str), "pattern", _PATTERN, pattern)
        return model_names(pattern)


def list_trained(pattern: str = "*") -> list[str]:
    """Return the names of the trained nets that come with the zoo and match a pattern, sorted; see `load`.

    Raises ValueError unless the pattern is a text.
    """
    import fnmatch

    from zoo.checkpoint.named_files import trained_files
    from zoo.errors import as_value_error, require

    with as_value_error():
        require(isinstance(pattern, str), "pattern", _PATTERN, pattern)
        return fnmatch.filter(trained_files(), pattern)


def create_model(name: str, *, pretrained: bool | str = False, **settings: Any) -> "nn.Module":
    """Build a network by its name, with the initial weights of its paper.

    Args:
        name: a file in configs/model; `list_models` returns all.
        pretrained: true for torchvision's best ImageNet weights, the name of one of its entries, such as
            IMAGENET1K_V1, or a file of weights from torchvision or timm, whose config.json next to it is compared with
            the net. A head of another size keeps its initial weights.
        settings: those of configs/model/<name>.yaml. `num_classes`, `in_channels` and `image_size` are by default
            those of the data that the net was made for, such as 1000, 3 and 224 for ImageNet; `image_size` may be a
            height and a width, (192, 320). Sequence nets need `num_source_tokens` and `num_target_tokens`.

    Returns:
        The network, in train mode. It takes normalised images (N, in_channels, height, width) and returns logits
        (N, num_classes). In train mode, networks with auxiliary heads return `zoo.models.logits.Logits`.

    Raises:
        ValueError: for an unknown name or setting, a missing one, a value out of range, and weights of another net.
    """
    from zoo.checkpoint.create_model import create_model as create
    from zoo.errors import as_value_error

    with as_value_error():
        return create(name, pretrained, **settings)


def load(source: str | Path, trusted: Sequence[str] = ()) -> "TrainedNet":
    """Load a trained network with its classes, preprocessing and metadata.

    Args:
        source: the name of a net that comes with the zoo, with or without `zoo:` (`list_trained` returns all), or a
            model.safetensors, a run folder, a packed file, or an exported .pt2 or .onnx file.
        trusted: a list of packages outside the zoo whose classes the file may name, as in `train.py trusted=[...]`.

    Raises:
        ValueError: for an unknown name, for a file that is missing, damaged or foreign, and for arguments of another
            type.
    """
    from zoo.catalogue import model_names
    from zoo.checkpoint.named_files import is_name_of_trained
    from zoo.errors import BadInput, as_value_error, require
    from zoo.inference.trained_net import load as read
    from zoo.paths import OF_ZOO

    with as_value_error():
        is_named = isinstance(source, str | Path) and source != ""
        require(is_named, "source", "the name of a trained net, or the path of a file or a run folder", source)
        are_packages = isinstance(trusted, list | tuple) and all(isinstance(one, str) for one in trusted)
        require(are_packages, "trusted", "a list of packages, such as ['my_package']", trusted)
        if str(source) in model_names() and not os.path.exists(source):
            raise BadInput(
                f"{source} is a network without weights: zoo.create_model('{source}', ...) builds it, and "
                "zoo.list_trained() lists the trained ones"
            )
        return read(f"{OF_ZOO}{source}" if is_name_of_trained(source) else source, trusted)
