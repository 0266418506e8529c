"""Compare runs: tables, curves and significance tests.

  python scripts/compare.py                                      all runs below runs/
  python scripts/compare.py runs/a runs/b out=folder             also writes an HTML page and Markdown

Runs that differ only in seed or fold share one row, with mean and spread.
"""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command, words_as


@command("compare", reword=words_as("paths"))
def main(cfg: DictConfig) -> None:
    from zoo.compare import page, runs

    finished, unfinished = runs.read([Path(path) for path in cfg.paths])
    comparisons = runs.comparisons(finished)
    page.show(comparisons, unfinished)
    page.write(Path(cfg.out), comparisons, unfinished)


if __name__ == "__main__":
    main()
