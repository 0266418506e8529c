"""The teachers of a run: files, or runs of another experiment, which is trained first if it has not been."""

import glob
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
from hydra import compose
from omegaconf import OmegaConf

from zoo import distributed
from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import Product, read_product
from zoo.data.images import ImageFacts
from zoo.data.sequences import SequenceFacts
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.paths import CONFIG, CONFIGS, LAST, PRODUCT, RESULT, commands
from zoo.ranges import written
from zoo.records.config_file import read_config
from zoo.run.directory import Run
from zoo.run.start_from_file import as_word
from zoo.run.teacher_pairs import check_words

log = logging.getLogger("zoo")
OF_NO_INFLUENCE = ("name", "runs", "data_root", "resume", "trusted", "choices")  # on what a teacher learns
FILLED_IN = ("mean", "std", "batch_size")  # null or auto until a run has its data; and the numbers of classes or tokens
SPLIT = ("num_validation", "folds", "fold", "split")  # settings of the data that determine what a run validates on


class Trained(msgspec.Struct, forbid_unknown_fields=True):
    """Teachers by the experiment that trains them, once per seed, on the same split of the data."""

    experiment: str
    seeds: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1)] = (1,)


def with_teachers(run: Run, before_training: Callable[[], object]) -> tuple[Run, list[Product]]:
    """Return a run whose `task.teacher` is a list of whole paths, and these teachers; train those that are missing.

    `before_training` is called before the first of them is trained, which may take hours.
    """
    named: Any = OmegaConf.to_container(run.cfg.task, resolve=True)
    if "teacher" not in named:
        return run, []
    if named.get("words") is not None:
        check_words(named["words"], named["beam"])
    teacher = named["teacher"]
    if isinstance(teacher, dict):
        teacher = [str(file) for file in _trained(run, teacher, before_training)]
    teachers = read_teachers(teacher)
    # As whole paths, so that the run can be resumed from another folder.
    return run.with_values(task={"teacher": [str(one.path) for one in teachers]}), teachers


def read_teachers(named: Any) -> list[Product]:
    """Read the product files that `task.teacher` names, by a path, a pattern, or a list of them."""
    patterns = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    if not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise BadInput(
            "task.teacher: expected the model.safetensors of a net trained on these data, or {experiment: NAME}, "
            f"got {written(named)}"
        )
    files = [str(file_of(file).resolve()) for one in patterns for file in sorted(glob.glob(one)) or [one]]
    return [read_product(file) for file in files]


def check_teacher(run: Run, teacher: Product, facts: ImageFacts | SequenceFacts) -> None:
    """Raise BadInput unless the teacher was trained on data of the same kind.

    For images, that is with the same classes, image size and normalisation; for sequences, with the same symbols, and
    no shorter sequences.
    """
    theirs, own = teacher.facts["data"], asdict(facts)
    if ("classes" in theirs) != ("classes" in own):
        other, needed = ("sequences", "classify images") if "classes" in own else ("images", "be one for sequences")
        raise BadInput(f"task.teacher={teacher.path} is a net for {other}; a teacher must {needed}")
    same = {"classes": "classes", "mean": "mean of images", "std": "deviation of images"}
    same |= {"source_symbols": "symbols of sources", "target_symbols": "symbols of targets"}
    differs = [what for key, what in same.items() if theirs.get(key) != own.get(key)]
    if teacher.facts["config"]["data"].get("image_size") != run.cfg.data.get("image_size"):
        differs.append("image size")
    if theirs.get("max_length", 0) < own.get("max_length", 0):
        differs.append("data.max_length")
    if differs:
        raise BadInput(
            f"task.teacher={teacher.path} was trained with other {differs[0]} than data={run.cfg.choices.data} has"
        )
    if theirs["split_hash"] != own["split_hash"]:
        log.warning("The teacher was trained on another split, and may have seen samples that this run validates on.")


def _trained(run: Run, teacher: dict[str, Any], before_training: Callable[[], object]) -> Iterator[Path]:
    """Yield the product of each teacher's run: a finished one, or one that is resumed or trained now."""
    try:
        settings = msgspec.convert(teacher, Trained)
    except msgspec.ValidationError as error:
        raise BadInput(f"task.teacher: expected an experiment and a list of seeds ({reason(error)})") from error
    known = [file.stem for file in CONFIGS.glob("experiment/*.yaml")]
    if settings.experiment not in known:
        raise BadInput(f"task.teacher.experiment: {choices(settings.experiment, known)}")
    for seed in settings.seeds:
        split = {key: run.cfg.data.get(key) for key in SPLIT}
        arguments = [f"experiment={settings.experiment}", f"seed={seed}"]
        arguments += [f"data.{key}={as_word(value)}" for key, value in split.items() if value is not None]
        if (chosen := run.cfg.choices.trainer) != "auto":
            arguments.append(f"trainer={chosen}")
        found = _runs_of(run, arguments)
        finished = [folder for folder in found if (folder / RESULT).exists()]
        if not finished:
            before_training()
            _train(run, arguments, [folder for folder in found if (folder / LAST).exists()])
            finished = [folder for folder in _runs_of(run, arguments) if (folder / RESULT).exists()]
        if not finished:
            raise ZooError(f"task.teacher: the run of {' '.join(arguments)} has no result in {run.cfg.runs}")
        yield finished[-1] / PRODUCT


def _runs_of(run: Run, arguments: list[str]) -> list[Path]:
    """Return the run folders with the settings that these arguments compose, oldest first, wherever their data are."""
    try:
        composed = compose("train", arguments)
    except Exception as error:  # Hydra raises many types
        raise BadInput(f"task.teacher: {' '.join(arguments)} is not a run ({reason(error)})") from error
    found = []
    for config in Path(run.cfg.runs).glob(f"*/*/{CONFIG}"):
        try:
            saved = read_config(config)
        except BadInput:  # damaged, or of another version
            continue
        composed.data_root = saved["data_root"]
        expected: Any = OmegaConf.to_container(composed, resolve=True)
        if _fits({key: value for key, value in expected.items() if key not in OF_NO_INFLUENCE}, saved):
            found.append(config.parent)
    return sorted(found, key=lambda folder: (folder / CONFIG).stat().st_mtime)


def _fits(expected: Any, found: Any, name: str = "") -> bool:
    """Return whether found settings are the expected ones, some of which a run has filled in."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_fits(value, found.get(key), key) for key, value in expected.items())
    is_open = expected in (None, "auto") and (name in FILLED_IN or name.startswith("num_"))
    return is_open or bool(expected == found)


def _train(run: Run, arguments: list[str], unfinished: list[Path]) -> None:
    """Train a teacher in a process of its own, or resume the latest of its unfinished runs."""
    if distributed.world_size() > 1:
        raise BadInput(f"task.teacher: train it first, on one device: python train.py {' '.join(arguments)}")
    places = [f"runs={run.cfg.runs}", f"data_root={run.cfg.data_root}"]
    line = [f"resume={unfinished[-1]}"] if unfinished else [*arguments, *places]
    log.info("Training a teacher: python train.py %s", " ".join(line))
    code = subprocess.run([sys.executable, str(commands()["train"]), *line], check=False).returncode
    if code:
        raise ZooError(f"task.teacher: its training ended with exit code {code}: python train.py {' '.join(line)}")
