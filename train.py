"""Train a net: `python train.py model=lenet5 data=mnist_5k`; `python train.py --help` lists every choice."""

from omegaconf import DictConfig

from zoo.cli import command


@command("train")
def main(cfg: DictConfig) -> None:
    from zoo import folder, report, run  # here and not above: torch takes seconds to import, and --help should not

    with folder.open_run(cfg) as this:  # runs/<name>/<stamp>, new or resumed, with its config and its log
        data = run.build_data(this)
        net = run.build_net(this)
        task = run.build_task(this, net)
        trainer = run.build_trainer(this)
        report.announce(this.folder, this.cfg, net)

        run.fit(this, trainer, task, data)
        result = run.measure_product(this, trainer, task, data)
        report.show_result(result)


if __name__ == "__main__":
    main()
