"""The thresholds of a product with several labels per image: the probability above which each label is predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoint.product_file import Product
from zoo.checkpoint.temperature import store_fact
from zoo.data.table_labels import has_several_labels
from zoo.measure.several_labels import EVEN

KEY = "thresholds"
DIGITS = 6  # of a probability in a file


def thresholds_of(facts: Mapping[str, Any]) -> Tensor | None:
    """Return the thresholds (C,) in a file's facts, or 0.5 for each label; None for nets with one label per image."""
    if not has_several_labels(facts["config"]["data"]):
        return None
    found: Sequence[float] = facts.get(KEY, [EVEN] * len(facts["data"]["classes"]))
    return torch.tensor(found, dtype=torch.float64)


def store_thresholds(product: Product, thresholds: Tensor) -> Product:
    """Write a product with these thresholds (C,), rounded to six digits, to its own file, and read it back."""
    return store_fact(product, KEY, [round(one, DIGITS) for one in thresholds.tolist()], product.path)
