"""Measure how far nets can be trusted, for the tables of docs/trust.md.

  python scripts/trust.py zoo:lenet5_caffe_fashion_mnist         the net and its compressed forms, which are made first
  python scripts/trust.py zoo:lenet5_mnist_5k alone=true         the net alone
  python scripts/trust.py runs/dense name=vgg16_fashion_mnist    a net that does not come with the zoo
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
    from zoo.checkpoint.named_files import file_of
    from zoo.files import write_json
    from zoo.inference import trust
    from zoo.paths import RESULTS

    for named in map(str, cfg.names):
        name = trust.name_of(file_of(named), cfg)
        folder = Path(cfg.runs) / name
        if not cfg.alone:
            make_forms(named, folder, cfg)
        found = trust.measure_alone(named, cfg) if cfg.alone else trust.compare_forms(named, folder, cfg)
        target = RESULTS / f"trust_{'of_' * cfg.alone}{name}.json"
        write_json(target, found)
        print(f"Wrote docs/results/{target.name}")


def make_forms(named: str, folder: Path, cfg: DictConfig) -> None:
    """Run train.py for each form that has no run yet; raise ZooError if a run fails."""
    from zoo.errors import ZooError
    from zoo.inference.trust import FORMS, TRAINING
    from zoo.paths import commands

    data = [f"data_root={cfg.data_root}"] if cfg.data_root else []
    for form, (line, _) in FORMS.items():
        if not (folder / form).exists():
            run = [f"init_from={named}", f"runs={folder}", f"name={form}", f"trainer.max_epochs={cfg.epochs}"]
            settings = [*run, *line, *TRAINING, *cfg.settings, *data]
            if subprocess.run([sys.executable, str(commands()["train"]), *settings], check=False).returncode:
                raise ZooError(f"the run of the form '{form}' failed, for the reason above")


if __name__ == "__main__":
    main()
