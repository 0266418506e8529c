"""Ask a trained net: `python scripts/predict.py FILE picture.jpg folder/ '*.png'`, or one that writes, `FILE "a text"`.

FILE is a model.safetensors, a packed or an exported file; `checkpoint=FILE` says the same.
"""

from omegaconf import DictConfig, OmegaConf

from zoo.cli import command, words_as

ENDINGS = (".safetensors", ".zoo", ".onnx", ".pt2")


@command("predict", reword=words_as("inputs"))
def main(cfg: DictConfig) -> None:
    from zoo import evaluation, prediction, report
    from zoo.errors import BadInput

    inputs = [str(one) for one in cfg.inputs]
    if OmegaConf.is_missing(cfg, "checkpoint") and inputs and inputs[0].endswith(ENDINGS):
        cfg.checkpoint = inputs.pop(0)
    if not inputs:
        raise BadInput("there is nothing to predict of; name files of images, or texts for a net that writes")
    file = evaluation.read(cfg.checkpoint)
    net = evaluation.rebuild_net(file, cfg)
    device = evaluation.put_on(net, cfg.accelerator)
    report.show_predictions(prediction.predict(net, file.facts, inputs, cfg.top, device))


if __name__ == "__main__":
    main()
