"""Train a network.

python train.py                                                LeNet-5 on 5,000 real MNIST digits, no download
python train.py experiment=resnet20_fashion_mnist              a recipe with all its settings
python train.py model=vgg11_bn data=image_folder data.root=photos optim.lr=0.01 trainer.max_epochs=20
"""

from typing import Any

from omegaconf import DictConfig

from zoo.cli.command import command
from zoo.run.start_from_file import with_those_of_file


def compare(results: list[dict[str, Any]]) -> None:
    from zoo.compare import terminal

    terminal.show_sweep(results)


@command("train", after_sweep=compare, reword=with_those_of_file)
def main(cfg: DictConfig) -> dict[str, Any]:
    # Imported here because torch takes seconds to import, and --help must be fast.
    from zoo.report import final_tables, tables
    from zoo.run import directory, launch
    from zoo.run.data import build_data
    from zoo.run.fit import fit, with_batch_size
    from zoo.run.model import build_model
    from zoo.run.result import measure_product
    from zoo.run.task import build_task, check_before
    from zoo.run.trainer import build_trainer

    if launch.is_for_many(cfg):
        return launch.start(cfg)  # the same command, with one process for each of trainer.devices
    with directory.open_run(cfg) as opened:  # runs/<name>/<stamp>, new or resumed, with its config and its log
        run, data = build_data(opened)
        net = build_model(run, data)
        task = build_task(run, net, data)
        trainer = build_trainer(run)
        tables.announce(run.folder, run.cfg, net, data.load())

        check_before(run, trainer, task, data)
        run = with_batch_size(run, trainer, task, data)
        fit(run, trainer, task, data)
        result = measure_product(run, trainer, task, data)
        final_tables.show_result(result, run.cfg)
        return result


if __name__ == "__main__":
    main()
