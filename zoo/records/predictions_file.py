"""Read predictions.safetensors: which test samples a product predicts correctly."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from zoo.files import open_file
from zoo.records.schema import CHECKSUM, damaged

PREDICTIONS_BYTES = 1 << 30  # at most


@dataclass(frozen=True)
class Predictions:
    """Which samples of the test set a product predicts correctly, in order, and the hash of the split.

    For images also their labels, the predicted ones, and the confidence (NaN without a prediction).
    """

    split_hash: str | None
    right: np.ndarray
    labels: np.ndarray | None = None
    predicted: np.ndarray | None = None
    confidence: np.ndarray | None = None

    @classmethod
    def of_images(
        cls, split_hash: str | None, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
    ) -> "Predictions":
        right = (labels == predicted) & ~np.isnan(confidence.astype(np.float32))
        return cls(split_hash, right, labels, predicted, confidence)


def predictions_digest(tensors: Mapping[str, Any], split_hash: str | None) -> str:
    """Return the checksum of predictions, given as tensors or arrays."""
    digest = hashlib.sha256(str(split_hash).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_predictions(path: Path) -> Predictions:
    """Read a predictions.safetensors, with true and predicted labels for images, or correctness for sequences."""
    os.close(open_file(path))
    try:
        if path.stat().st_size > PREDICTIONS_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
        if metadata.keys() - {"split_hash", CHECKSUM}:
            raise ValueError("its metadata have unknown keys")
        split_hash = metadata.get("split_hash")
        if CHECKSUM in metadata and metadata[CHECKSUM] != predictions_digest(tensors, split_hash):
            raise ValueError("its checksum does not match")
        if tensors.keys() not in ({"correct"}, {"labels", "predicted", "confidence"}):
            raise ValueError("its tensors have unknown names")
        if any(one.ndim != 1 or one.shape != next(iter(tensors.values())).shape for one in tensors.values()):
            raise ValueError("its tensors do not have one entry per sample")
        if any(one.dtype.kind not in "biu" for name, one in tensors.items() if name != "confidence"):
            raise ValueError("its tensors are not integers")
    except (SafetensorError, AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    if "correct" in tensors:
        return Predictions(split_hash, tensors["correct"].astype(bool))
    return Predictions.of_images(split_hash, **tensors)
