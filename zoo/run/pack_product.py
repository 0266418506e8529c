"""The last stage of compression: write a product to a packed file, read it back, and report each stage's size."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from torch import Tensor, nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product
from zoo.compress.context import Context
from zoo.compress.fold_norms import STEP, folded, with_short_vectors
from zoo.compress.pruning import by_layer
from zoo.compress.remove_unread import remove_unread as without_unread
from zoo.compress.sharing import Init, bits_by_budget, check_settings, share
from zoo.errors import BadInput, choices
from zoo.files import replacing
from zoo.packed.packed_file import Half, rounded
from zoo.packed.packed_file import pack as pack_file
from zoo.packed.paper_sizes import huffman_bytes, pruned_bytes, shared_bytes
from zoo.packed.size_report import draw_size_report, show_size_report
from zoo.paths import PACKED
from zoo.ranges import Range

LEAST_SAVED = 0.05  # share of the multiply-accumulates for which channels are removed
BiasBits = Annotated[int, Range(1, 23)]


def pack(
    product: Product,
    context: Context,
    half: Half = True,
    fold_norms: bool = False,
    bias_bits: BiasBits | None = None,
    remove_unread: bool = False,
) -> tuple[Product, dict[str, Any]]:
    """Write model.zoo next to a product and return the decoded product, so that exactly this is tested.

    Shared values and unshared numbers such as biases are rounded to float16, or according to `half` (save_packed). For
    `fold_norms` and `bias_bits`, see `as_packed`. With `remove_unread`, channels that no weight reads are removed if
    that saves a twentieth of the multiply-accumulates and does not enlarge the file. Reported are the file's report,
    also as curves and as ledger.png, and the sizes of the stages: pruning (P), sharing (P+Q) and Huffman coding by the
    formulas of the paper, and the file itself (P+Q+coding).
    """
    path = product.path.with_name(PACKED)
    products = [product]
    if remove_unread and (smaller := _without_unread(product, context)):
        products.insert(0, smaller)
    forms = [as_packed(load_model(one), one.weights, one.facts, half, fold_norms, bias_bits) for one in products]
    (content, report), weights = min(((pack_file(*form), form[0]) for form in forms), key=lambda one: len(one[0][0]))
    with replacing(path) as file:
        file.write(content)
    show_size_report(report, str(path))
    with replacing(path.with_name("ledger.png")) as file:
        draw_size_report(report, path.parent.parent.name).savefig(file, format="png", dpi=150)
    stages = {
        "dense": sum(row.dense for row in report.rows),
        "P by the paper's formula": pruned_bytes(weights),
        "P+Q by the paper's formula": shared_bytes(weights),
        "P+Q+Huffman by the paper's formula": huffman_bytes(weights),
        "P+Q+coding": path.stat().st_size,
    }
    return read_product(path), {"stages": stages, "ledger": report.plain(), "scalars": report.scalars()}


def _without_unread(product: Product, context: Context) -> Product | None:
    """Return a product without its unread channels, or None if that saves too little."""
    net = load_model(product)
    step = without_unread(net, context.example)
    if step is None or step["macs"] > (1 - LEAST_SAVED) * step["macs_before"]:
        return None
    return Product(product.path, net.state_dict(), {**product.facts, "recipe": [*product.facts["recipe"], step]})


def as_packed(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    half: Half = True,
    fold_norms: bool = False,
    bias_bits: int | None = None,
) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Return a net's weights and facts as `pack` writes them.

    With `fold_norms`, the statistics of batch norms are folded into their weights, and the recipe says so. Biases and
    norms keep `bias_bits` bits of mantissa, or with null as many as `half` leaves.
    """
    if fold_norms and (found := folded(net, weights)):
        weights, facts = {**weights, **found}, {**facts, "recipe": [*facts["recipe"], STEP]}
    if bias_bits is not None:
        weights = with_short_vectors(weights, bias_bits)
    return rounded(dict(sorted(weights.items())), half), facts


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
