"""Measure the loss of accuracy from pruning or sharing each layer.

  python scripts/sensitivity.py checkpoint=runs/first

Layers are changed one at a time, without retraining. Writes sensitivity.json and a plot next to the checkpoint.
"""

from omegaconf import DictConfig

from zoo.cli.command import command, first_word_as


@command("sensitivity", reword=first_word_as("checkpoint"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import folder_for
    from zoo.checkpoint.product_file import read_product
    from zoo.compress import sensitivity
    from zoo.compress.pruning import prunable
    from zoo.errors import BadInput
    from zoo.inference import evaluate
    from zoo.measure.number_scores import share_right
    from zoo.report import written_files

    product = read_product(cfg.checkpoint)
    net, data = evaluate.rebuild(product, cfg)
    if not prunable(net):
        raise BadInput(f"checkpoint={cfg.checkpoint} is quantized already; use the float net that it was made from")
    if "classes" not in product.facts["data"]:
        raise BadInput(f"checkpoint={cfg.checkpoint} reads sequences; the scan is for image nets")
    device = evaluate.to_device(net, cfg.accelerator)

    def accuracy() -> float:
        logits, labels = evaluate.predict(net, data, cfg.split, device)
        return share_right(logits, labels, data.number_scale)

    scans = (
        ("sparsity", sensitivity.SPARSITIES, sensitivity.prune_one),
        ("bits", sensitivity.BITS, sensitivity.share_one),
    )
    curves = {what: sensitivity.sensitivity_scan(prunable(net), accuracy, *how) for what, *how in scans}
    written_files.write_sensitivity(folder_for(product.path, cfg.out), accuracy(), curves)


if __name__ == "__main__":
    main()
