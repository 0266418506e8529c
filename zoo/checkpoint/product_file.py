"""The product file, model.safetensors: weights and everything needed to use them, as plain data with a checksum.

The header's metadata has two entries: `zoo`, a JSON text of facts (format, config, recipe, data, metrics, versions,
commit), and `zoo_sha256`, a digest of that text and of every tensor.
"""

import hashlib
import importlib.metadata
import logging
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.checkpoint.named_files import file_of, trained_files
from zoo.checkpoint.shapes import check_kinds, check_numbers, check_promised, check_shapes
from zoo.errors import BadInput, nearest
from zoo.files import replacing
from zoo.packed.header import facts_text
from zoo.packed.packed_file import is_packed, open_packed
from zoo.paths import OF_ZOO
from zoo.quantize.operators import DTYPES
from zoo.records.metadata import parse_metadata

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Product:
    """The content of a product file: weights by name, and facts as plain data."""

    path: Path
    weights: dict[str, Tensor]
    facts: dict[str, Any]


def save_product(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a net's weights (its state dict) and the facts, atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    text = facts_text(facts)
    content = safetensors.torch.save(weights, {"zoo": text, "zoo_sha256": _digest(text, weights)})
    with replacing(path) as file:
        file.write(content)


def read_product(path: str | Path) -> Product:
    """Read a product or packed file onto the CPU; raise BadInput if it is missing, truncated, foreign or changed.

    Its first bytes determine the format. `file_of` resolves folders and names such as zoo:lenet5_mnist_5k.
    """
    path = file_of(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; {_what_would_do(path)}")
    if path.suffix in (".onnx", ".pt2"):
        raise BadInput(
            f"{path} is an exported file, which evaluate.py and scripts/predict.py read; expected the "
            "model.safetensors or model.zoo that it was made from"
        )
    if path.suffix in (".pte", ".c"):
        raise BadInput(
            f"{path} is an exported file, which is only run when it is written; expected the model.safetensors or "
            "model.zoo that it was made from"
        )
    if is_packed(path):
        packed = open_packed(path)
        facts = parse_metadata(packed.facts, path)
        check_promised(facts, packed.shapes, str(path))
        return Product(path, packed.weights(), facts)
    weights, text = _read_safetensors(path)
    return Product(path, weights, parse_metadata(text, path))


def _what_would_do(path: Path) -> str:
    if close := nearest(path.name, trained_files()):
        return f"did you mean {' or '.join(OF_ZOO + name for name in close)}?"
    return f"pass a model.safetensors, a folder of runs to use the newest run, or {OF_ZOO}NAME for a net of the zoo"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(
            f"{path} is truncated or is neither a safetensors file nor a packed one ({error}); copy or train it again"
        ) from error
    if not {"zoo", "zoo_sha256"} <= metadata.keys():
        raise BadInput(f"{path} is a safetensors file, but not one that train.py wrote; only those can be read here")
    for name, weight in weights.items():
        if weight.dtype not in DTYPES.values():
            raise BadInput(f"{path}: '{name[:80]}' is of {weight.dtype}, which no net of the zoo uses")
    if _digest(metadata["zoo"], weights) != metadata["zoo_sha256"]:
        raise BadInput(f"{path} was changed after it was written: its checksum does not match; use the original")
    return weights, metadata["zoo"]


def load_weights(net: nn.Module, product: Product, replace_head: bool = False) -> list[str]:
    """Load the product's weights into the net with `load_state`."""
    return load_state(net, product.weights, str(product.path), replace_head)


def load_state(net: nn.Module, weights: Mapping[str, Tensor], source: str, replace_head: bool = False) -> list[str]:
    """Load weights into the net and return the names that were not loaded.

    With `replace_head`, weights of the net's heads (`net.head_names`) may differ in shape and are then skipped. Raises
    BadInput for weights of another net, naming their `source`.
    """
    check_numbers(weights, source)
    left, own = check_shapes(net, weights, source, replace_head), net.state_dict()
    check_kinds(net, weights, source)
    rounded = {
        w.dtype for name, w in weights.items() if torch.promote_types(own[name].dtype, w.dtype) != own[name].dtype
    }
    for dtype in rounded:
        log.warning("%s holds weights in %s, which are rounded here.", source, str(dtype).removeprefix("torch."))
    net.load_state_dict(own | {name: w for name, w in weights.items() if name not in left})
    return left


def provenance() -> dict[str, Any]:
    """Return the code that made a file: the versions of packages, and the git commit if there is one."""
    packages = ("torch", "torchvision", "lightning", "hydra-core", "zoo")
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the checkout's commit, with -dirty if files differ from it, or None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _digest(text: str, weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
