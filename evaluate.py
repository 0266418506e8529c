"""Evaluate a trained net: `python evaluate.py checkpoint=runs/<name>/<stamp>/model.safetensors`."""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from zoo import evaluation, report
    from zoo.checkpoint import read_product

    product = read_product(cfg.checkpoint)
    net, data = evaluation.rebuild(product, cfg)
    source = {"checkpoint": str(product.path), "net": product.facts["config"]["choices"]["model"], "split": cfg.split}
    found = source | evaluation.evaluate(net, data, cfg)

    report.show_evaluation(found)
    report.write_evaluation(Path(cfg.out or product.path.parent), found)


if __name__ == "__main__":
    main()
