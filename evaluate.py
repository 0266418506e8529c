"""Evaluate a trained network on its test data.

python evaluate.py checkpoint=runs/first                 the newest run in this folder
python evaluate.py checkpoint=zoo:lenet5_mnist_5k        a net that comes with the zoo
python evaluate.py checkpoint=model.onnx split=val out=here
python evaluate.py checkpoint=runs/first corruptions=true shift=true out_of_distribution=fashion_mnist
"""

from omegaconf import DictConfig

from zoo.cli.command import command, first_word_as


@command("evaluate", reword=first_word_as("checkpoint"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import folder_for
    from zoo.checkpoint.temperature import temperature_of
    from zoo.checkpoint.thresholds import thresholds_of
    from zoo.export.read_export import read_net
    from zoo.files import sha256_of
    from zoo.inference import evaluate, robustness
    from zoo.report import robustness_tables, tables, written_files

    file = read_net(cfg.checkpoint)
    net, data = evaluate.rebuild(file, cfg)
    robustness.check(data, cfg)
    source = {"checkpoint": str(file.path), "sha256": sha256_of(file.path)}
    source |= {"net": file.facts["config"]["choices"]["model"], "split": cfg.split}
    folder, ending = folder_for(file.path, cfg.out), evaluate.ending_of(file.path, cfg)
    if folder != file.path.parent:
        written_files.check_free(folder, source, ending)
    temperature, device = temperature_of(file.facts), evaluate.to_device(net, cfg.accelerator)
    found = source | evaluate.evaluate(net, data, cfg, temperature, thresholds_of(file.facts))
    found |= robustness.evaluate(net, data, cfg, device, temperature)

    tables.show_evaluation(found)
    robustness_tables.show(found)
    written_files.write_evaluation(folder, found, ending)


if __name__ == "__main__":
    main()
