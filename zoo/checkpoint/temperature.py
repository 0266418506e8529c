"""The temperature of a product: its logits are divided by it before the softmax."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.packed.packed_file import is_packed, save_packed

KEY = "temperature"


def temperature_of(facts: Mapping[str, Any]) -> float:
    """Return the temperature stored in a file's facts, or 1."""
    return float(facts.get(KEY, 1.0))


def store_temperature(product: Product, temperature: float, path: Path) -> Product:
    """Write a product with a temperature to `path`, in the format of its own file, and read it back.

    Weights and all other facts stay as they are.
    """
    return store_fact(product, KEY, temperature, path)


def store_fact(product: Product, key: str, value: Any, path: Path) -> Product:
    """Write a product with one more fact to `path`, in the format of its own file, and read it back."""
    save = save_packed if is_packed(product.path) else save_product
    save(path, product.weights, {**product.facts, key: value})
    return read_product(path)


def without_temperature(product: Product) -> Product:
    """Return a product without its temperature, which is that of other weights after a change of these."""
    return replace(product, facts={key: value for key, value in product.facts.items() if key != KEY})
