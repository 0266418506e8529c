"""Search for good settings with Optuna, one process per trial.

  python scripts/search.py 'optim.lr=tag(log, interval(1e-4, 1e-1))' trials=20

Any override may be a sweep, in the syntax of Hydra's -m. Trials are ranked by the validation metric of
callbacks.product. To continue a search that was stopped or killed, run the same command again.
"""

from omegaconf import DictConfig

from zoo.cli.command import command
from zoo.search.space import with_space


@command("search", reword=with_space)
def main(cfg: DictConfig) -> None:
    from zoo.search import study

    study.search(cfg)


if __name__ == "__main__":
    main()
