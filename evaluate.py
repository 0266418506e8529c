"""Evaluate a trained network on its test data.

python evaluate.py checkpoint=runs/first/<stamp>/model.safetensors
python evaluate.py checkpoint=model.onnx split=val out=here
"""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from zoo.files import sha256_of
    from zoo.inference import evaluate
    from zoo.report import tables, written_files

    file = evaluate.read(cfg.checkpoint)
    net, data = evaluate.rebuild(file, cfg)
    source = {"checkpoint": str(file.path), "sha256": sha256_of(file.path)}
    source |= {"net": file.facts["config"]["choices"]["model"], "split": cfg.split}
    folder, ending = Path(cfg.out or file.path.parent), evaluate.ending_of(file.path, cfg)
    if cfg.out:
        written_files.check_free(folder, source, ending)
    found = source | evaluate.evaluate(net, data, cfg)

    tables.show_evaluation(found)
    written_files.write_evaluation(folder, found, ending)


if __name__ == "__main__":
    main()
