"""The last stage of compression: write a product to a packed file, read it back, and report each stage's size."""

from collections.abc import Mapping
from typing import Any, get_args

from zoo.checkpoint.product_file import Product, read_product
from zoo.compress.context import Context
from zoo.compress.pruning import by_layer
from zoo.compress.sharing import Init, bits_by_budget, check_settings, share
from zoo.errors import BadInput, choices
from zoo.files import replacing
from zoo.packed.packed_file import Half, save_packed
from zoo.packed.paper_sizes import huffman_bytes, pruned_bytes, shared_bytes
from zoo.packed.size_report import draw_size_report, show_size_report
from zoo.paths import PACKED


def pack(product: Product, context: Context, half: Half = True) -> tuple[Product, dict[str, Any]]:
    """Write model.zoo next to a product and return the decoded product, so that exactly this is tested.

    Shared values and unshared numbers such as biases are rounded to float16, or according to `half` (save_packed).
    Reported are the file's report, also as curves and as ledger.png, and the sizes of the stages: pruning (P), sharing
    (P+Q) and Huffman coding by the formulas of the paper, and the file itself (P+Q+coding).
    """
    path = product.path.with_name(PACKED)
    report = save_packed(path, product.weights, product.facts, half)
    show_size_report(report, str(path))
    with replacing(path.with_name("ledger.png")) as file:
        draw_size_report(report, path.parent.parent.name).savefig(file, format="png", dpi=150)
    weights = product.weights
    stages = {
        "dense": sum(row.dense for row in report.rows),
        "P by the paper's formula": pruned_bytes(weights),
        "P+Q by the paper's formula": shared_bytes(weights),
        "P+Q+Huffman by the paper's formula": huffman_bytes(weights),
        "P+Q+coding": path.stat().st_size,
    }
    return read_product(path), {"stages": stages, "ledger": report.plain(), "scalars": report.scalars()}


def share_at_once(
    product: Product, bits: int | Mapping[str, int], mean_bits: float | None, init: Init, rate: float
) -> Product:
    """Share the weights of a product according to `compress.share`, without training them."""
    check_settings(bits, mean_bits, rate)
    if init not in get_args(Init):
        raise BadInput(f"compress.share.init={init} is not an initialisation; {choices(str(init), get_args(Init))}")
    weights = {name: weight.clone() for name, weight in product.weights.items()}
    large = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    of_each = by_layer(bits, large, "compress.share.bits") if mean_bits is None else bits_by_budget(large, mean_bits)
    for name, num in of_each.items():
        share(weights[name], num, init, rate)
    return Product(product.path, weights, product.facts)
