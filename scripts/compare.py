"""Compare runs, or files of nets on the same test images: tables, plots and significance tests.

  python scripts/compare.py                                      all runs below runs/
  python scripts/compare.py runs/a runs/b out=folder             also writes an HTML page and Markdown
  python scripts/compare.py last=10 data=fashion_mnist optim.lr='0.0*'    the newest ten runs with these settings
  python scripts/compare.py runs/a runs/b latency=true           measures their latencies again, in turn
  python scripts/compare.py a/model.safetensors b/model.zoo zoo:lenet5_fashion_mnist out=page.html    files

Runs that differ only in seed or fold share one row, with mean and spread. Any setting of the runs selects them. Files
are tested again, each against the first; corruptions=true and explain=true measure more.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command, others_as, words_as

OF_RUNS = ("where", "last", "latency")  # settings that are for runs only
OF_COMMAND = ("paths", "out", "last", "markdown", "where", "latency", "accelerator", "trusted")  # do not select runs


def are_files(paths: Sequence[str]) -> bool:
    """Return whether paths name files, of which one has a suffix, or nets that come with the zoo and no run."""
    from zoo.paths import OF_ZOO

    is_shipped = [path.startswith(OF_ZOO) for path in paths]
    has_file = any(Path(path).suffix and not os.path.isdir(path) for path in paths if not path.startswith(OF_ZOO))
    return has_file or (len(paths) > 1 and all(is_shipped))


def reword(arguments: list[str]) -> list[str]:
    """Collect paths in `paths`, and settings of runs in `where`, unless the paths are files."""
    worded = words_as("paths")(arguments)
    words = [one for one in arguments if one not in worded]
    return worded if are_files(words) else others_as("where", OF_COMMAND)(worded)


@command("compare", reword=reword)
def main(cfg: DictConfig) -> None:
    from zoo import escape
    from zoo.compare import page, runs, terminal
    from zoo.errors import BadInput

    paths = [str(path) for path in cfg.paths]
    if are_files(paths):
        of_files(paths, cfg)
        return
    finished, unfinished = runs.read([Path(path) for path in paths])
    where = dict(setting.partition("=")[::2] for setting in cfg.where)
    selected = runs.selected(finished, where, cfg.last)
    if not cfg.latency and (cfg.accelerator != "auto" or cfg.trusted):
        raise BadInput("accelerator and trusted are for files and, with latency=true, for runs; leave them out")
    if cfg.latency:
        from zoo.compare.new_latencies import with_new_latencies

        selected = with_new_latencies(selected, cfg.accelerator)
    comparisons = runs.comparisons(selected)
    if cfg.markdown:
        print(page.readme_tables(comparisons))
        return
    try:
        terminal.show(comparisons, unfinished, by_time=cfg.last is not None)
    finally:  # also if a reader such as head has closed the pipe
        written = page.write(Path(cfg.out), comparisons, unfinished)
    print(escape.line(written))


def of_files(paths: Sequence[str], cfg: DictConfig) -> None:
    from zoo import escape
    from zoo.compare import file_page
    from zoo.errors import BadInput
    from zoo.inference.compare_files import compare_files, open_files

    for key in OF_RUNS:
        if cfg[key]:
            raise BadInput(f"{key}={cfg[key]} is for runs, and {paths[0]} is a file; leave it out")
    page = file_page.page_for(cfg.out)
    found = compare_files(open_files(paths, cfg), cfg)
    if cfg.markdown:
        print(file_page.markdown(found.figures))
        return
    try:
        file_page.show(found.figures)
    finally:
        written = file_page.write(page, found.figures, found.flips, found.maps)
    print(escape.line(written))


if __name__ == "__main__":
    main()
