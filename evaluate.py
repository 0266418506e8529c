"""Evaluate a trained net: `python evaluate.py checkpoint=runs/<name>/<stamp>/model.safetensors`."""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from zoo import evaluation, report
    from zoo.files import sha256_of

    file = evaluation.read(cfg.checkpoint)
    net, data = evaluation.rebuild(file, cfg)
    source = {"checkpoint": str(file.path), "sha256": sha256_of(file.path)}
    source |= {"net": file.facts["config"]["choices"]["model"], "split": cfg.split}
    found = source | evaluation.evaluate(net, data, cfg)

    report.show_evaluation(found)
    report.write_evaluation(Path(cfg.out or file.path.parent), found, evaluation.ending_of(file.path, cfg))


if __name__ == "__main__":
    main()
