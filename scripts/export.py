"""Write a net in another format: `python scripts/export.py checkpoint=<run folder>/model.safetensors format=zoo`."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from zoo.cli import command

if TYPE_CHECKING:
    from zoo.checkpoint import Product


def to_zoo(product: "Product", folder: Path, cfg: DictConfig) -> None:
    """Write model.zoo, small on the disk, and a picture of where its bytes go."""
    from zoo.files import replacing
    from zoo.ledger import draw_ledger, show_ledger
    from zoo.packed import PACKED, save_packed

    path, net = folder / PACKED, product.facts["config"]["choices"]["model"]
    ledger = save_packed(path, product.weights, product.facts, cfg.half)
    show_ledger(ledger, f"{net} in {path}")
    with replacing(folder / "ledger.png") as file:
        draw_ledger(ledger, net).savefig(file, format="png", dpi=150)
    print(f"Written     {path} and ledger.png\nEvaluate    python evaluate.py checkpoint={path}")


FORMATS = {"zoo": to_zoo}


@command("export")
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint import read_product
    from zoo.errors import BadInput, choices
    from zoo.packing import share_at_once

    names = list(cfg.format) if OmegaConf.is_list(cfg.format) else [cfg.format]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise BadInput(f"format={unknown[0]} is no format to export to; {choices(str(unknown[0]), FORMATS)}")
    if {*cfg.compress} - {"before_fit", "after_fit", "share"} or cfg.compress.before_fit:
        raise BadInput("of compress, export knows share and share_5bit; all else trains: python train.py init_from=...")
    product = read_product(cfg.checkpoint)
    if "share" in cfg.compress:
        product = share_at_once(product, *(cfg.compress.share[key] for key in ("bits", "mean_bits", "init")))
    folder = Path(cfg.out or product.path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        FORMATS[name](product, folder, cfg)


if __name__ == "__main__":
    main()
