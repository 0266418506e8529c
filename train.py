"""Train a net: `python train.py model=lenet5 data=mnist_5k`; `python train.py --help` lists every choice."""

from typing import Any

from omegaconf import DictConfig

from zoo.cli import command
from zoo.starting import with_those_of_file


def compare(results: list[dict[str, Any]]) -> None:
    from zoo.compare import page

    page.show_sweep(results)


@command("train", after_sweep=compare, reword=with_those_of_file)
def main(cfg: DictConfig) -> dict[str, Any]:
    from zoo import folder, launch, nets, report, run  # not above: torch takes seconds to import, and --help should not
    from zoo.trainer import build_trainer

    if launch.is_for_many(cfg):
        return launch.start(cfg)  # this very command, a process for each of trainer.devices
    with folder.open_run(cfg) as this:  # runs/<name>/<stamp>, new or resumed, with its config and its log
        data = run.build_data(this)
        net = nets.build_net(this, data)
        task = run.build_task(this, net)
        trainer = build_trainer(this)
        report.announce(this.folder, this.cfg, net)

        run.check_before(this, trainer, task, data)
        run.fit(this, trainer, task, data)
        result = run.measure_product(this, trainer, task, data)
        report.show_result(result)
        return result


if __name__ == "__main__":
    main()
