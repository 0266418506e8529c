"""Evaluate a trained net: `python evaluate.py checkpoint=runs/<name>/<stamp>/model.safetensors`."""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from zoo import report, run

    product = run.read_product(cfg.checkpoint)
    net, data = run.rebuild(product, cfg)
    source = {"checkpoint": str(product.path), "net": product.facts["config"]["choices"]["model"], "split": cfg.split}
    evaluation = source | run.evaluate(net, data, cfg)

    report.show_evaluation(evaluation)
    report.write_evaluation(Path(cfg.out or product.path.parent), evaluation)


if __name__ == "__main__":
    main()
