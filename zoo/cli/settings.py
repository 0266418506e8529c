"""The top-level settings of each command, by its config, and their validation."""

from collections.abc import Container
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf

from zoo.errors import BadInput, choices
from zoo.ranges import Count, NotEmpty, PlainName, Range, Text, expected, takes

Group = dict[str, Any]
Logger = Literal["tensorboard", "csv", "wandb", "mlflow", "trackio"]


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
    calibrate: bool
    preflight: bool
    logger: Logger | Annotated[list[Logger], NotEmpty()]
    compile: bool | Literal["reduce-overhead", "max-autotune"]


class Search(Train):
    trials: Count
    cost: Literal["bytes", "latency"] | None
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


class InspectData(Train):
    num_each: Count
    out: Text | None


class Evaluate:
    checkpoint: Text
    split: Literal["test", "val"]
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    sparse: bool
    batch_size: Count
    beam: Count
    corruptions: bool | Count
    shift: bool
    out_of_distribution: Text | None
    seed: Annotated[int, Range(0, 2**32 - 1)]
    data_root: Text | None
    download: bool
    out: Text | None
    trusted: list[Text]


class Calibrate:
    checkpoint: Text
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: Count
    data_root: Text | None
    download: bool
    out: Text | None
    trusted: list[Text]


class Export:
    compress: Group
    checkpoint: Text
    format: Text | Annotated[list[Text], NotEmpty()]
    half: bool | Literal["bfloat16"]
    bake: bool
    calibrated: bool
    calibration_batches: Count
    max_drop: Annotated[float, Range(0, 100)]
    fastest_at: Literal[1, 64]
    ram: Count | None
    batch_size: Count
    data_root: Text | None
    download: bool
    out: Text | None
    trusted: list[Text]


class Predict:
    checkpoint: Text
    inputs: list[Any]
    words: Text | None
    out: Text | None
    grid: Text | None
    top: Count
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    trusted: list[Text]


class Explain:
    checkpoint: Text
    inputs: list[Any]
    of_class: Text | int | None
    filters: Text | None
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    out: Text | None
    trusted: list[Text]


class Compare:
    paths: list[Any]
    where: list[Text]
    last: Count | None
    out: Text
    markdown: bool
    latency: bool
    corruptions: bool | Count
    explain: bool
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: Count
    data_root: Text | None
    download: bool
    trusted: list[Text]


class Trust:
    names: list[Text]
    name: Annotated[Any, PlainName()] | None
    alone: bool
    corruptions: bool | Count
    epochs: Count
    settings: list[Text]
    runs: Text
    data_root: Text | None
    download: bool


class Trained:
    add: Text | None
    name: Annotated[Any, PlainName()] | None
    data_root: Text | None
    download: bool


class Reproduce:
    checkpoint: Text
    train: bool
    runs: Text
    data_root: Text | None
    download: bool


class Results:
    add: Text | None


OF_CONFIG: dict[str, type] = {
    "train": Train,
    "search": Search,
    "benchmark": Benchmark,
    "summary": Summary,
    "inspect_data": InspectData,
    "evaluate": Evaluate,
    "sensitivity": Evaluate,
    "calibrate": Calibrate,
    "export": Export,
    "trained": Trained,
    "trust": Trust,
    "reproduce": Reproduce,
    "predict": Predict,
    "explain": Explain,
    "compare": Compare,
    "results": Results,
}


LATER = ("trusted", "calibrate", "preflight", "logger")  # settings that runs of earlier versions do not have


def check(config_name: str, cfg: DictConfig) -> None:
    """Raise BadInput for the first setting that is invalid, removed or unknown.

    An unknown setting would be saved with the run, and would make it impossible to resume.
    """
    kind = OF_CONFIG[config_name]
    if kind is Train:
        _check_known(cfg, get_type_hints(Train))
    for key, hint in get_type_hints(kind, include_extras=True).items():
        if key not in cfg and not OmegaConf.is_missing(cfg, key):
            raise BadInput(f"{key}: is needed, and ~{key} removed it")
        _hold(key, hint, cfg)


def check_saved(cfg: DictConfig) -> None:
    """Raise BadInput unless the saved config of a run has all settings of a run, each with a valid value.

    It also has the chosen options, as `choices`.
    """
    hints = get_type_hints(Train, include_extras=True)
    _check_known(cfg, {*hints, "choices"})
    for key, hint in hints.items():
        if key in cfg:
            _hold(key, hint, cfg)
        elif key not in LATER:
            raise BadInput(f"{key}: is needed, but missing in the config of this run; use the original config")


def _check_known(cfg: DictConfig, known: Container[str]) -> None:
    for key in map(str, cfg):
        if key not in known:
            raise BadInput(f"there is no setting '{key[:80]}' of a run; {choices(key[:80], get_type_hints(Train))}")


def _hold(key: str, hint: Any, cfg: DictConfig) -> None:
    value = OmegaConf.to_container(cfg[key], resolve=False) if OmegaConf.is_config(cfg[key]) else cfg[key]
    if not takes(hint, value):
        raise BadInput(expected(key, hint, value))
