"""Predict new inputs with a trained network.

  python scripts/predict.py FILE picture.jpg folder/ '*.png'
  python scripts/predict.py FILE folder/ out=predictions.csv grid=predictions.png
  python scripts/predict.py FILE "a text" words=more.txt         for a sequence network

FILE is a model.safetensors, a run folder, a packed or exported file, or zoo:NAME; checkpoint=FILE is the same.
"""

import os

from omegaconf import DictConfig

from zoo.cli.command import command, first_word_as, words_as
from zoo.paths import OF_ZOO

ENDINGS = (".safetensors", ".zoo", ".onnx", ".pt2")


def _reworded(arguments: list[str]) -> list[str]:
    """Use the first word as the checkpoint if it is such a file or a folder, and no checkpoint= is given."""
    is_given = any(argument.startswith("checkpoint=") for argument in arguments)
    first = arguments[0] if arguments and not is_given else ""
    if first.endswith(ENDINGS) or first.startswith(OF_ZOO) or os.path.isdir(first):
        arguments = first_word_as("checkpoint")(arguments)
    return words_as("inputs")(arguments)


@command("predict", reword=_reworded)
def main(cfg: DictConfig) -> None:
    from zoo.export.read_export import read_net
    from zoo.inference.predict_files import predict_files, words_in

    inputs = [str(one) for one in cfg.inputs] + ([] if cfg.words is None else words_in(cfg.words))
    predict_files(read_net(cfg.checkpoint), inputs, cfg)


if __name__ == "__main__":
    main()
