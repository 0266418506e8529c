"""The contents of a run's folder as plain data, a config and a result, for tests to change."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.errors import BadInput

CONFIG = {
    "name": "first",
    "seed": 1,
    "model": {"_target_": "zoo.models.lenet.LeNet5"},
    "data": {"seed": 1, "fold": 0, "batch_size": 32},
    "choices": {"model": "lenet5", "task": "classification", "data": "mnist_5k"},
}
RESULT = {
    "name": "first",
    "net": "lenet5",
    "data": "mnist_5k",
    "params": 61706,
    "macs": 416520,
    "seed": 1,
    "epochs": 2,
    "best_epoch": 2,
    "seconds": 60.0,
    "epoch_seconds": [30.0, 30.0],
    "images_per_second": 1000.0,
    "device": "cpu",
    "precision": "32-true",
    "validation": {"accuracy": 0.9, "loss": 0.3},
    "test": {"accuracy": 0.9, "loss": 0.3},
    "num_samples": {"train": 3500, "val": 500, "test": 1000},
    "split_hash": "one",
    "commit": "abc",
    "versions": {"torch": "2.14"},
    "bytes": {"model.safetensors": 250840},
    "settings": {"compress": "none"},
}


def damages(content: bytes, cuts: int, flips: int) -> Iterator[bytes]:
    """Yield a file's content truncated at evenly spaced lengths, and with one bit flipped at random places."""
    for i in range(cuts):
        yield content[: len(content) * i // cuts]
    draw = random.Random(0)
    for _ in range(flips):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def unseen(path: Path, read: Callable[[Path], Any], cuts: int = 200, flips: int = 1000) -> list[Any]:
    """Read a file with every damage, and return those that were neither read as the intact one nor refused.

    Refusing means raising BadInput with one sentence that names the file.
    """
    content, whole = path.read_bytes(), repr(read(path))
    found = []
    for damaged in damages(content, cuts, flips):
        path.write_bytes(damaged)
        try:
            if repr(read(path)) != whole:
                found.append(damaged)
        except BadInput as error:
            if str(path) not in str(error) or "\n" in str(error) or len(str(error)) > 600:
                found.append(damaged)
    path.write_bytes(content)
    return found
