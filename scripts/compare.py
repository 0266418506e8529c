"""Compare runs: `python scripts/compare.py runs/a runs/b/<stamp> out=folder`; without paths all below runs/.

Runs that differ in seed or fold only stand in one row, with mean and spread.
"""

import itertools
from pathlib import Path

from omegaconf import DictConfig

from zoo.cli import command


def with_paths(arguments: list[str]) -> list[str]:
    """Gather the words that are no settings, but paths, in `paths=[...]`."""
    from hydra.core.override_parser.types import Quote, QuotedString

    plain, paths = [], []
    for before, argument in itertools.pairwise(["", *arguments]):
        setting = (
            argument.startswith("-") or before.startswith("-") or ("=" in argument and not Path(argument).exists())
        )
        (plain if setting else paths).append(argument)
    quoted = ",".join(QuotedString(path, Quote.single).with_quotes() for path in paths)
    return [*plain, f"paths=[{quoted}]"] if paths else plain


@command("compare", reword=with_paths)
def main(cfg: DictConfig) -> None:
    from zoo.compare import page, runs

    finished, unfinished = runs.read([Path(path) for path in cfg.paths])
    comparisons = runs.comparisons(finished)
    page.show(comparisons, unfinished)
    page.write(Path(cfg.out), comparisons, unfinished)


if __name__ == "__main__":
    main()
