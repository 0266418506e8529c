"""Show what each layer's pruning and sharing costs: `python scripts/sensitivity.py checkpoint=.../model.safetensors`.

One layer at a time is changed, without retraining; sensitivity.json and a picture lie beside the checkpoint afterwards.
"""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli import command


@command("sensitivity")
def main(cfg: DictConfig) -> None:
    from zoo import evaluation, report
    from zoo.checkpoint import read_product
    from zoo.compress import sensitivity
    from zoo.compress.pruning import prunable
    from zoo.errors import BadInput
    from zoo.measure.accuracy import is_right

    product = read_product(cfg.checkpoint)
    net, data = evaluation.rebuild(product, cfg)
    if not prunable(net):
        raise BadInput(f"checkpoint={cfg.checkpoint} is quantized already; give the float net that it was made of")
    device = evaluation.put_on(net, cfg.accelerator)

    def accuracy() -> float:
        logits, labels = evaluation.predict(net, data, cfg.split, device)
        return float(is_right(logits, labels).float().mean())

    scans = (
        ("sparsity", sensitivity.SPARSITIES, sensitivity.prune_one),
        ("bits", sensitivity.BITS, sensitivity.share_one),
    )
    curves = {what: sensitivity.scan(prunable(net), accuracy, *how) for what, *how in scans}
    report.write_sensitivity(Path(cfg.out or product.path.parent), accuracy(), curves)


if __name__ == "__main__":
    main()
