"""Fit the temperature of a trained network to its validation data, and store it in the file.

  python scripts/calibrate.py checkpoint=runs/first
  python scripts/calibrate.py checkpoint=zoo:lenet5_mnist_5k out=calibrated

The file is replaced by one that differs only in its temperature; with out=FOLDER, it is written there instead.
"""

from omegaconf import DictConfig

from zoo.cli.command import command


@command("calibrate")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from zoo import escape
    from zoo.checkpoint.named_files import is_shipped
    from zoo.checkpoint.product_file import read_product
    from zoo.data.table_labels import instead_of_class
    from zoo.errors import BadInput
    from zoo.inference import evaluate
    from zoo.run.calibrate_product import calibrate

    product = read_product(cfg.checkpoint)
    if "classes" not in product.facts["data"]:
        raise BadInput(f"checkpoint={cfg.checkpoint} reads sequences; a temperature is for nets that classify images")
    if what := instead_of_class(product.facts["config"]["data"]):
        raise BadInput(f"checkpoint={cfg.checkpoint} gives {what}; a temperature is for nets that give one class")
    if is_shipped(product.path) and not cfg.out:
        raise BadInput(f"checkpoint={cfg.checkpoint} comes with the zoo and is not changed; set out=FOLDER")
    path = Path(cfg.out or product.path.parent, product.path.name)
    if path.exists() and not path.samefile(product.path):
        raise BadInput(f"out={cfg.out}: {path} exists; set out=ANOTHER_FOLDER")
    net, data = evaluate.rebuild(product, cfg)
    device = evaluate.to_device(net, cfg.accelerator)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(escape.line(calibrate(product, net, data, device, path)))
    print(escape.line(f"Written     {path}"))


if __name__ == "__main__":
    main()
