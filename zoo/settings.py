"""The settings of no group that each command has, by its config; what came is held against them before all else."""

from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf

from zoo.errors import BadInput
from zoo.ranges import Count, NotEmpty, PlainName, Range, Text, expected, takes

Group = dict[str, Any]


class Train:
    model: Group
    data: Group
    task: Group
    optim: Group
    schedule: Group
    trainer: Group
    callbacks: Group
    compress: Group
    name: Annotated[Any, PlainName()]
    seed: Annotated[int, Range(0, 2**32 - 1)]
    runs: Text
    data_root: Text
    resume: Text | None
    init_from: Text | None
    trusted: list[Text]
    channels_last: bool
    tf32: bool
    preflight: bool
    compile: bool | Literal["reduce-overhead", "max-autotune"]


class Search(Train):
    trials: Count
    sampler: Text
    pruner: Text
    jobs: Count
    space: list[str]


class Benchmark(Train):
    suite: Text
    rounds: Count
    only: list[str] | None
    reference: Text | None
    checkpoint: Text | list[Text] | None
    out: Text | None


class Summary(Train):
    checkpoint: Text | None
    all_layers: bool
    slide_over: Count | None
    zoo: bool


class Evaluate:
    checkpoint: Text
    split: Literal["test", "val"]
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    sparse: bool
    batch_size: Count
    beam: Count
    data_root: Text | None
    download: bool
    out: Text | None


class Export:
    compress: Group
    checkpoint: Text
    format: Text | Annotated[list[Text], NotEmpty()]
    half: bool | Literal["bfloat16"]
    bake: bool
    calibration_batches: Count
    max_drop: Annotated[float, Range(0, 100)]
    batch_size: Count
    data_root: Text | None
    download: bool
    out: Text | None


class Predict:
    checkpoint: Text
    inputs: list[Any]
    top: Count
    accelerator: Literal["auto", "cpu", "cuda", "mps"]


class Compare:
    paths: list[Any]
    out: Text


class Results:
    add: Text | None


OF_CONFIG: dict[str, type] = {
    "train": Train,
    "search": Search,
    "benchmark": Benchmark,
    "summary": Summary,
    "evaluate": Evaluate,
    "sensitivity": Evaluate,
    "export": Export,
    "predict": Predict,
    "compare": Compare,
    "results": Results,
}


def check(config_name: str, cfg: DictConfig) -> None:
    """Raise BadInput for the first setting whose value does not fit, or that was taken out."""
    for key, hint in get_type_hints(OF_CONFIG[config_name], include_extras=True).items():
        if key not in cfg and not OmegaConf.is_missing(cfg, key):
            raise BadInput(f"{key}: is needed, and ~{key} has taken it out")
        value = OmegaConf.to_container(cfg[key], resolve=False) if OmegaConf.is_config(cfg[key]) else cfg[key]
        if not takes(hint, value):
            raise BadInput(expected(key, hint, value))
