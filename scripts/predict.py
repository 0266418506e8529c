"""Ask a trained net: `python scripts/predict.py checkpoint=FILE picture.jpg`, or of one that writes, `... "a text"`."""

from omegaconf import DictConfig

from zoo.cli import command, words_as


@command("predict", reword=words_as("inputs"))
def main(cfg: DictConfig) -> None:
    from zoo import evaluation, prediction, report
    from zoo.checkpoint import read_product
    from zoo.errors import BadInput
    from zoo.nets import net_of

    if not cfg.inputs:
        raise BadInput("there is nothing to predict of; name files of images, or texts for a net that writes")
    product = read_product(cfg.checkpoint)
    net = net_of(product)
    evaluation.put_on(net, cfg.accelerator)
    report.show_predictions(prediction.predict(net, product, [str(one) for one in cfg.inputs], cfg.top))


if __name__ == "__main__":
    main()
