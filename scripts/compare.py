"""Compare runs: tables, curves and significance tests.

  python scripts/compare.py                                      all runs below runs/
  python scripts/compare.py runs/a runs/b out=folder             also writes an HTML page and Markdown
  python scripts/compare.py last=10 data=fashion_mnist optim.lr='0.0*'    the newest ten runs with these settings

Runs that differ only in seed or fold share one row, with mean and spread. Any setting of the runs selects them.
"""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command, others_as, words_as


def reword(arguments: list[str]) -> list[str]:
    """Collect paths in `paths`, and settings of runs in `where`."""
    return others_as("where", ("paths", "out", "last", "markdown", "where"))(words_as("paths")(arguments))


@command("compare", reword=reword)
def main(cfg: DictConfig) -> None:
    from zoo.compare import page, runs, terminal

    finished, unfinished = runs.read([Path(path) for path in cfg.paths])
    where = dict(setting.partition("=")[::2] for setting in cfg.where)
    comparisons = runs.comparisons(runs.selected(finished, where, cfg.last))
    if cfg.markdown:
        print(page.readme_tables(comparisons))
        return
    terminal.show(comparisons, unfinished, by_time=cfg.last is not None)
    page.write(Path(cfg.out), comparisons, unfinished)


if __name__ == "__main__":
    main()
