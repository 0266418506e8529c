"""Train the net of a file again, from the config that the file holds."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from zoo.checkpoint.data_places import placed
from zoo.checkpoint.product_file import read_product
from zoo.errors import BadInput, ZooError
from zoo.paths import CONFIG, RESULT, commands
from zoo.records.config_file import write_config
from zoo.records.json_files import read_result


def train_again(file: Path, cfg: DictConfig) -> dict[str, Any]:
    """Train a net from the config in its file, in a new run in `cfg.runs`, and return the result of this run.

    Data are looked up in `cfg.data_root`. Teachers that the experiment trains are trained first, as in the original.
    Raises BadInput for a net that began with the weights of a file, and ZooError if the run fails.
    """
    config = read_product(file).facts["config"]
    if config["init_from"]:
        raise BadInput(f"train=true: {file.stem} began with the weights of {config['init_from']}, which are not here")
    old_root = config["data_root"]
    config |= {"name": f"reproduce_{file.stem}", "runs": cfg.runs, "data_root": cfg.data_root or old_root}
    config["data"] = placed(config["data"], old_root, cfg)
    if "teacher" in config["task"] and (experiment := config["choices"].get("experiment")):
        config["task"]["teacher"] = OmegaConf.to_container(compose("train", [f"experiment={experiment}"]).task.teacher)
    if config["task"].get("words"):
        raise BadInput(
            f"train=true: {file.stem} was also trained on words in {config['task']['words']}, which are not here"
        )
    if table := _latency_table(config):
        raise BadInput(f"train=true: {file.stem} was pruned by the times in {table}, which is not here")
    folder = Path(cfg.runs) / config["name"] / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    write_config(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    code = subprocess.run([sys.executable, str(commands()["train"]), f"resume={folder}"], check=False).returncode
    if code:
        goes_on = f"python train.py resume={shlex.quote(str(folder))}"
        raise ZooError(f"train=true: the run ended with exit code {code}; {goes_on} continues it")
    return read_result(folder / RESULT)


def _latency_table(config: Mapping[str, Any]) -> Any:
    """Return the file of times that a pass before training reads, if a config names one."""
    compress = config.get("compress")
    passes = compress.get("before_fit") if isinstance(compress, dict) else None
    nodes = passes.values() if isinstance(passes, dict) else ()
    return next((table for node in nodes if isinstance(node, dict) and (table := node.get("latency_table"))), None)
