"""Verify a net that comes with the zoo, or train it again.

python scripts/reproduce.py zoo:lenet5_mnist_5k                test the file again
python scripts/reproduce.py zoo:lenet5_mnist_5k train=true     train it again from its own config
"""

from omegaconf import DictConfig

from zoo.cli.command import command, first_word_as
from zoo.paths import OF_ZOO


@command("reproduce", reword=first_word_as("checkpoint"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import file_of
    from zoo.errors import BadInput
    from zoo.inference import cards
    from zoo.run import train_again

    if not cfg.checkpoint.startswith(OF_ZOO):
        raise BadInput(f"checkpoint: expected zoo:NAME, a net that comes with the zoo, got {cfg.checkpoint[:80]}")
    file = file_of(cfg.checkpoint)
    print(cards.verify(file.stem, file, cfg))
    if cfg.train:
        print(cards.compare_with(file.stem, train_again.train_again(file, cfg)))


if __name__ == "__main__":
    main()
