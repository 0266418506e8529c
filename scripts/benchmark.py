"""Benchmark the zoo: training, inference, loading, startup.

  python scripts/benchmark.py suite=train
  python scripts/benchmark.py suite=inference model=resnet18 out=inference.json

The contenders of a suite run in turn, round after round, so that a drift in the machine's speed affects all equally.
The table shows medians over the rounds, and ratios to the first contender, the baseline.
"""

from typing import Any

from omegaconf import DictConfig

from zoo.cli.command import command

COLUMNS = (
    ("seconds", "median_seconds", "{:.3g}"),
    ("ratio", "ratio", "{:.2f}"),
    ("from, to", "ratio_range", "{0[0]:.2f}, {0[1]:.2f}"),
    ("samples/s", "samples_per_second", "{:,.0f}"),
    ("TFLOPS", "tflops", "{:.2f}"),
    ("bytes", "bytes", "{:,}"),
    ("flash", "flash_bytes", "{:,}"),
    ("RAM", "ram_bytes", "{:,}"),
    ("M instructions", "million_instructions", "{:,.2f}"),
    ("test accuracy", "test_accuracy", "{:.2%}"),
    ("s to write", "write_seconds", "{:.2g}"),
    ("s to read", "read_seconds", "{:.2g}"),
    ("setting", "setting", "{}"),
    ("failed", "failed", "{}"),
)


def show(title: str, figures: dict[str, dict[str, Any]]) -> None:
    """Print one row per contender, one column per quantity that was measured, and the verdict below."""
    from rich.table import Table

    from zoo import escape

    table = Table(title=title, title_justify="left")
    table.add_column("")
    columns = [column for column in COLUMNS if any(column[1] in row for row in figures.values())]
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, *(form.format(row[key]) if key in row else "" for _, key, form in columns))
    escape.console().print(table)
    for row in figures.values():
        for sentence in row.get("verdict", ()):
            print(sentence)


@command("benchmark")
def main(cfg: DictConfig) -> None:
    import logging
    import warnings

    import lightning  # noqa: F401  imported first, since it sets the log levels that are changed below
    import torch

    from zoo.benchmarks import ON_CPU, rounds
    from zoo.checkpoint.product_file import provenance
    from zoo.errors import counted
    from zoo.files import write_json
    from zoo.measure.device import device_name

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
    on_gpu = torch.cuda.is_available() and cfg.suite not in ON_CPU
    device = device_name(torch.device("cuda" if on_gpu else "cpu"))
    header = {"suite": cfg.suite, "rounds": cfg.rounds, "device": device, "rivals": rounds.versions_of_rivals()}
    figures: dict[str, dict[str, Any]] = {}
    for part in rounds.measured(cfg):
        threads = torch.get_num_threads()  # some suites set it
        show(f"suite={cfg.suite}, medians of {cfg.rounds} rounds, {counted(threads, 'thread')}", part)
        figures |= part
        if cfg.out:
            write_json(cfg.out, {**header, "threads": threads, **provenance(), "figures": figures})


if __name__ == "__main__":
    main()
