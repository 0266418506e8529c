"""Show which pixels a trained network's answers depend on.

  python scripts/explain.py checkpoint=runs/first picture.jpg folder/ '*.png'
  python scripts/explain.py checkpoint=runs/first filters=last

Writes explanation.png, with maps over each picture, and explanation.json, with scores of the maps; with filters=,
filters.png, the images that activate the filters of a convolution most. For other files than model.safetensors with
their names, as in explanation_model.zoo.png.
"""

from omegaconf import DictConfig

from zoo.cli.command import command, words_as


@command("explain", reword=words_as("inputs"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import folder_for
    from zoo.errors import BadInput
    from zoo.export.read_export import read_net
    from zoo.inference import evaluate, explain, filters
    from zoo.inference.predict import files_of
    from zoo.report.explanation_plot import write_explanations, write_filters

    if not cfg.inputs and cfg.filters is None:
        raise BadInput("inputs: expected image files, folders of them or patterns, got none; or set filters=last")
    file = read_net(cfg.checkpoint)
    net = explain.net_to_explain(file)
    device = evaluate.to_device(net, cfg.accelerator)
    folder = folder_for(file.path, cfg.out)
    if cfg.filters is not None:
        layer = filters.convolution(net, cfg.filters)
        images = filters.maximal_images(net, layer, file.facts["data"], file.facts["config"]["data"]["image_size"])
        write_filters(folder, images, layer, file.path.name)
    if not cfg.inputs:
        return
    paths, of_class = files_of([str(one) for one in cfg.inputs]), cfg.of_class
    named = None if of_class is None else str(of_class)  # of digits, which are numbers on the command line
    rows, means = explain.explain(net, file.facts, paths, device, named)
    write_explanations(folder, rows, means, file.path.name)


if __name__ == "__main__":
    main()
