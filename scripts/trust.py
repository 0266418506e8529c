"""Measure how far nets can be trusted, for the tables of docs/trust.md.

  python scripts/trust.py zoo:lenet5_caffe_fashion_mnist         the net and its compressed forms, which are made first
  python scripts/trust.py zoo:lenet5_mnist_5k alone=true         the net alone
  python scripts/results.py                                      writes the tables

Results are docs/results/trust_NAME.json. Forms that are in runs=FOLDER already are not made again.
"""

import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command, words_as


@command("trust", reword=words_as("names"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import file_of, is_shipped
    from zoo.errors import BadInput
    from zoo.files import write_json
    from zoo.inference import trust
    from zoo.paths import RESULTS

    for name in map(str, cfg.names):
        if not is_shipped(file := file_of(name)):
            raise BadInput(f"names: expected nets that come with the zoo, such as zoo:lenet5_mnist_5k, got {name}")
        folder = Path(cfg.runs) / file.stem
        if not cfg.alone:
            make_forms(name, folder, cfg)
        found = trust.measure_alone(name, cfg) if cfg.alone else trust.compare_forms(name, folder, cfg)
        target = RESULTS / f"trust_{'of_' * cfg.alone}{file.stem}.json"
        write_json(target, found)
        print(f"Wrote docs/results/{target.name}")


def make_forms(name: str, folder: Path, cfg: DictConfig) -> None:
    """Run train.py for each form that has no run yet."""
    from zoo.inference.trust import FORMS, TRAINING
    from zoo.paths import commands

    data = [f"data_root={cfg.data_root}"] if cfg.data_root else []
    for form, (line, _) in FORMS.items():
        if not (folder / form).exists():
            settings = [f"init_from={name}", f"runs={folder}", f"name={form}", *line, *TRAINING, *data]
            subprocess.run([sys.executable, str(commands()["train"]), *settings], check=False)


if __name__ == "__main__":
    main()
