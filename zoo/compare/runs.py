"""Read runs from their folders, and group those that differ only in seed or fold."""

import fnmatch
import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.checkpoint.named_files import claim_of, file_of
from zoo.compare.main_metric import NAMES as METRIC_NAMES
from zoo.compare.main_metric import main_metric, score_of
from zoo.compare.run_names import NAMES, REPEATS, as_typed, names_of, own_name, without_later_defaults
from zoo.errors import BadInput, counted, nearest
from zoo.measure.accuracy import accuracy_in
from zoo.packed.packed_file import open_packed
from zoo.paths import CONFIG, OF_ZOO, RESULT
from zoo.records.config_file import leaves, read_config
from zoo.records.json_files import read_result
from zoo.records.metadata import parse_metadata
from zoo.report.settings_row import simulates_int8

NAMING: tuple[str, ...] = ("classification", "distill", "transduction", "distill_sequences")
NAMING += ("ImageClassification", "Distillation", "Transduction", "SequenceDistillation")
OWN_METRICS = (
    *("accuracy", "loss", "top5", "balanced_accuracy", "macro_f1"),
    *("map", "micro_f1", "token_accuracy", "wer", "per", "mae", "rmse", "r2", "num_samples"),
)
MOST_NAMES = 3  # in the label of a group
LIMITS = ("limit_train_batches", "limit_val_batches", "overfit_batches")
OWN = {"paths", "out", "last", "markdown", "latency", "accelerator", "trusted"}  # of the command; others select runs
Settings = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run, and its config with flat keys; the option of a group is under the name of the group."""

    folder: Path
    result: dict[str, Any]
    settings: Settings
    timed_on: str = ""  # the device, if its latency was measured again for a comparison

    @property
    def accuracy(self) -> float:
        """The test accuracy or, where labels are numbers, R2."""
        return accuracy_in(self.result["test"])

    @property
    def score(self) -> float:
        """The number that runs are ranked by, of which more is better."""
        return score_of(self.result["test"])

    @property
    def time(self) -> str:
        """The time at which the run started, as in the name of its folder; empty for a net that comes with the zoo."""
        day, _, clock = self.folder.name.partition("_")
        return f"{day} {clock.replace('-', ':')}".strip() if day[:1].isdigit() else ""

    @property
    def size_bytes(self) -> int:
        found = self.result.get("product_bytes")
        return self.result["bytes"]["model.safetensors"] if found is None else found

    @property
    def exports(self) -> list[dict[str, Any]]:
        """Return the rows that scripts/export.py added for the checkpoint, in their order."""
        return list(self.result.get("exports", {}).values())


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but different seeds or folds."""

    label: str
    runs: list[Finished]

    @property
    def score(self) -> float:
        return statistics.fmean(run.score for run in self.runs)

    @property
    def size_bytes(self) -> float:
        return statistics.fmean(run.size_bytes for run in self.runs)

    def mean(self, key: str) -> float | None:
        """Return the mean of a number in the results, or None if one of them does not have it.

        The latency of int8 nets counts as unknown, since torch only simulates them.
        """
        if key == "latency_ms" and any(simulates_int8(run.result) for run in self.runs):
            return None
        values = [run.result.get(key) for run in self.runs]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    def mean_of_test(self, metric: str) -> float | None:
        """Return the mean of a test metric, or None if one of the runs does not have it."""
        values = [run.result["test"].get(metric) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    def name_of(self, run: Finished) -> str:
        """Return the name of a run, with its seed and fold if there are several runs."""
        differ = [k for k in ("seed", "data.fold") if len({repr(run.settings.get(k)) for run in self.runs}) > 1]
        name = own_name(run.settings) if len(names_in(self.runs)) > 1 else self.label
        return " ".join([name, *(f"{key}={run.settings.get(key)}" for key in differ)])


@dataclass(frozen=True)
class Comparison:
    """The groups of one task and data set, highest mean test score first."""

    title: str
    groups: list[Group]

    @property
    def metric(self) -> str:
        """Return the test metric to show: that of the task, otherwise accuracy."""
        return main_metric([run.result["test"] for group in self.groups for run in group.runs])

    @property
    def more_metrics(self) -> list[str]:
        """Return the test metrics that were added with task.metrics."""
        names = dict.fromkeys(name for group in self.groups for run in group.runs for name in run.result["test"])
        return [name for name in names if name not in OWN_METRICS]

    @property
    def metric_name(self) -> str:
        return METRIC_NAMES.get(self.metric, "accuracy")


def read(paths: Sequence[Path]) -> tuple[list[Finished], list[Path]]:
    """Return the runs with a result at and below some paths, oldest first, and the folders of those without.

    A path may be zoo:NAME, a net that comes with the zoo.
    """
    folders: dict[Path, None] = {}
    named = dict.fromkeys(file_of(str(path)) for path in paths if str(path).startswith(OF_ZOO))
    shipped = [run_of_shipped(file) for file in named]
    for path in paths:
        if str(path).startswith(OF_ZOO):
            continue
        found = sorted(Path(folder) for folder, _, files in os.walk(path) if CONFIG in files)
        if not found:
            raise BadInput(f"{path} has no run in or below it; a run folder has a {CONFIG}")
        folders |= dict.fromkeys(found)
    finished = [run_of(folder) for folder in folders if (folder / RESULT).exists()]
    if not finished and not shipped:
        raise BadInput(f"none of the {len(folders)} runs has a {RESULT} yet")
    unfinished = [folder for folder in folders if not (folder / RESULT).exists()]
    return sorted([*shipped, *finished], key=lambda run: run.folder.name), unfinished


def selected(runs: Sequence[Finished], where: Mapping[str, Any], last: int | None = None) -> list[Finished]:
    """Return the runs whose settings match all patterns, such as {"data": "mnist*"}; of these, the `last` newest.

    Raises BadInput for a setting that no run has, and if no run is left.
    """
    known = {key for run in runs for key in run.settings}
    for key in where:
        if key not in known:
            near = nearest(key, known | OWN)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise BadInput(f"there is no setting '{key[:80]}' of this command or of these runs{hint}")
    found = [run for run in runs if all(_matches(run.settings.get(key), value) for key, value in where.items())]
    if not found:
        raise BadInput(f"none of {counted(len(runs), 'run')} has {' '.join(f'{k}={v}' for k, v in where.items())}")
    return found[-last:] if last else found


def _matches(value: Any, pattern: Any) -> bool:
    return fnmatch.fnmatchcase(as_typed(value), as_typed(pattern))


def run_of(folder: Path) -> Finished:
    """Read a run with a result; raise BadInput if its files are damaged."""
    return Finished(folder, read_result(folder / RESULT), config_of(folder))


def run_of_shipped(file: Path) -> Finished:
    """Return the run of a net that comes with the zoo, with the figures of its packed file."""
    claim, config = claim_of(file.stem), parse_metadata(open_packed(file).facts, file)["config"]
    settings = {**config.pop("choices"), **dict(leaves(config)), "name": f"{OF_ZOO}{file.stem}"}
    of_file = {key: claim["evaluation"][key] for key in OWN_METRICS if key in claim["evaluation"]}
    figures = {"test": of_file, "product_bytes": file.stat().st_size, "latency_ms": claim["evaluation"]["latency_ms"]}
    return Finished(file.with_suffix(""), {"epoch_seconds": [], "bytes": {}, **claim["run"], **figures}, settings)


def config_of(folder: Path) -> Settings:
    """Read a run's config with flat keys; the option of a group is under the name of the group."""
    config = read_config(folder / CONFIG)
    return {**config.pop("choices"), **dict(leaves(config))}


def part_tested(result: Mapping[str, Any], settings: Settings) -> str:
    """Describe which part of the test set a run was tested on; empty for all of it."""
    if "split_sizes" in result:
        num, size = result["num_samples"]["test"], result["split_sizes"]["test"]
        return f"tested on {num:,} of {size:,}" if num < size else ""
    limit = settings.get("trainer.limit_test_batches")  # results of earlier versions have only this
    return "" if limit is None else f"tested with limit_test_batches={limit}"


def limits_of(settings: Settings) -> str:
    """Return the limits on the training and validation data of a run, as text."""
    found = {key: settings.get(f"trainer.{key}") for key in LIMITS}
    return " ".join(f"{key}={value}" for key, value in found.items() if value is not None)


def comparisons(runs: Sequence[Finished]) -> list[Comparison]:
    """Group comparable runs: one data set and one task, where distillation counts as classification.

    Runs tested on different samples are separate. Those trained or tested on only a part of the data, such as runs of
    trainer=smoke, are separate as well and come last.
    """
    kinds: dict[tuple[bool, str], list[Finished]] = defaultdict(list)
    for run in runs:
        task, kind = run.settings["task"], str(run.settings.get("task._target_")).rpartition(".")[2]
        of_task = "" if task in NAMING or kind in NAMING else f", task={task}"
        parts = part_tested(run.result, run.settings), limits_of(run.settings)
        part = ", ".join(part for part in parts if part)
        kinds[bool(part), f"{run.result['data']}{of_task}{part and f', {part}'}"].append(run)
    return [
        Comparison(f"{title}{of_set}", sorted(grouped(same), key=lambda group: (-group.score, group.size_bytes)))
        for (_, title), kind in sorted(kinds.items(), key=lambda item: item[0][0])
        for of_set, same in _by_test_set(kind).items()
    ]


def _by_test_set(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Split runs by the hash of their test set, with a name for each part.

    Results of earlier versions have only the hash of the whole split. It is mapped to the test set of a later run that
    has both hashes, or else treated as a separate test set; all folds of the same data share one.
    """
    known = {
        run.result["split_hash"]: f"test set {run.result['test_hash']}" for run in runs if run.result.get("test_hash")
    }
    folds: dict[str, str] = {}
    parts: dict[str, list[Finished]] = defaultdict(list)
    for run in runs:
        split = run.result["split_hash"]
        if run.settings.get("data.folds"):
            of_data = {k: v for k, v in run.settings.items() if k.startswith("data.") and k not in REPEATS}
            split = folds.setdefault(json.dumps(of_data, sort_keys=True), split)
        own = run.result.get("test_hash")
        parts[f"test set {own}" if own else known.get(split, f"unknown test set of split {split}")].append(run)
    for key in ("test_sample_hash", "test_content_hash"):
        parts = {n: part for title, several in parts.items() for n, part in _by_content(title, several, key).items()}
    if len(parts) == 1:
        return {"": list(runs)}
    return {f", {name}": part for name, part in parts.items()}


def _by_content(title: str, runs: Sequence[Finished], key: str) -> dict[str, list[Finished]]:
    """Split runs whose test files have the same names and sizes but different contents."""
    contents: dict[str | None, list[Finished]] = defaultdict(list)
    for run in runs:
        contents[run.result.get(key)].append(run)
    if len(contents.keys() - {None}) < 2:
        return {title: list(runs)}
    return {f"{title}, files {content or 'not compared'}": part for content, part in contents.items()}


def grouped(runs: Sequence[Finished]) -> list[Group]:
    """Group runs that differ only in seed or fold; a second run of the same seed and fold starts another group.

    A group is named after its first run or, if its runs have several names, by these.
    """
    groups: dict[tuple[str, int], list[Finished]] = defaultdict(list)
    times_seen: Counter[tuple[str, str]] = Counter()
    for run, settings in zip(runs, without_later_defaults([run.settings for run in runs]), strict=True):
        same = json.dumps({k: v for k, v in settings.items() if k not in (*REPEATS, *NAMES)}, sort_keys=True)
        which = json.dumps([run.settings.get(key) for key in REPEATS])
        groups[same, times_seen[same, which]].append(run)
        times_seen[same, which] += 1
    firsts = [group[0] for group in groups.values()]
    names = names_of([run.settings for run in firsts], [run.folder.name for run in firsts])
    labels = [_joined(names_in(group)) or name for name, group in zip(names, groups.values(), strict=True)]
    return [Group(label, group) for label, group in zip(labels, groups.values(), strict=True)]


def names_in(runs: Sequence[Finished]) -> list[str]:
    """Return the different names that runs were given, in their order."""
    return list(dict.fromkeys(own_name(run.settings) for run in runs))


def _joined(names: Sequence[str]) -> str:
    """Return several names as one text, the first of many; empty for a single name."""
    if len(names) < 2:
        return ""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
