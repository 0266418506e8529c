"""Runs as they are compared: read from their folders, and put together where they differ in seed or fold only."""

import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import BadInput
from zoo.paths import CONFIG, METRICS, RESULT
from zoo.records.config_file import read_config
from zoo.records.json_files import read_result
from zoo.records.metrics_file import read_metrics

REPEATS = ("seed", "data.seed", "data.fold")  # settings in which runs of the same thing may differ
NAMING = ("classification", "distill", "transduction", "ImageClassification", "Distillation", "Transduction")
OWN_METRICS = ("accuracy", "loss", "top5", "token_accuracy", "wer", "per", "num_samples")
MOST_NAMED = 8  # settings in the label of a run
LARGEST = 1e30  # of a metric in a curve
NAMES = ("name", "runs", "data_root", "resume", "experiment")  # settings that change no number
LIMITS = ("limit_train_batches", "limit_val_batches", "overfit_batches")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A run that came to its result, and its config as flat keys, the option of a group under the group's name."""

    folder: Path
    result: dict[str, Any]
    settings: Settings

    @property
    def accuracy(self) -> float:
        return self.result["test"]["accuracy"]

    @property
    def size_bytes(self) -> int:
        return self.result.get("product_bytes", self.result["bytes"]["model.safetensors"])

    @property
    def exports(self) -> list[dict[str, Any]]:
        """Return the rows that scripts/export.py added for the run's product, in their order."""
        return list(self.result.get("exports", {}).values())


@dataclass(frozen=True)
class Group:
    """Runs of the same settings, each with a seed or a fold of its own."""

    label: str
    runs: list[Finished]

    @property
    def accuracy(self) -> float:
        return statistics.fmean(run.accuracy for run in self.runs)

    def mean(self, key: str) -> float | None:
        """Return the mean of a number in the results, or None where one of them lacks it."""
        values = [run.result.get(key) for run in self.runs]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    def mean_of_test(self, metric: str) -> float | None:
        """Return the mean of a test metric, or None where one of the runs lacks it."""
        values = [run.result["test"].get(metric) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    def name_of(self, run: Finished) -> str:
        """Name one of the runs, by its seed and fold where there are others."""
        differ = [key for key in differing([run.settings for run in self.runs]) if key in ("seed", "data.fold")]
        return " ".join([self.label, *(f"{key}={run.settings.get(key)}" for key in differ)])


@dataclass(frozen=True)
class Comparison:
    """What was trained for one task on one data set, best mean of test accuracies first."""

    title: str
    groups: list[Group]

    @property
    def metric(self) -> str:
        """Name the test metric that is shown: the share of wrong words of sequences, and accuracy else."""
        rates = [run.result["test"].get("wer") for group in self.groups for run in group.runs]
        return "accuracy" if None in rates else "wer"

    @property
    def more_metrics(self) -> list[str]:
        """Name the test metrics that are not the zoo's own, as task.metrics adds them."""
        names = dict.fromkeys(name for group in self.groups for run in group.runs for name in run.result["test"])
        return [name for name in names if name not in OWN_METRICS]

    @property
    def metric_name(self) -> str:
        return "WER" if self.metric == "wer" else "accuracy"


def read(paths: Sequence[Path]) -> tuple[list[Finished], list[Path]]:
    """Read the runs at and below some paths: those with a result, oldest first, and the folders of those without."""
    folders: dict[Path, None] = {}
    for path in paths:
        found = sorted(Path(folder) for folder, _, files in os.walk(path) if CONFIG in files)
        if not found:
            raise BadInput(f"{path} has no run in or below it; a run folder has a {CONFIG}")
        folders |= dict.fromkeys(found)
    finished = [run_of(folder) for folder in folders if (folder / RESULT).exists()]
    if not finished:
        raise BadInput(f"none of the {len(folders)} runs has come to its {RESULT} yet")
    return sorted(finished, key=lambda run: run.folder.name), [f for f in folders if not (f / RESULT).exists()]


def run_of(folder: Path) -> Finished:
    """Read a run with a result; BadInput where its files are damaged."""
    return Finished(folder, read_result(folder / RESULT), config_of(folder))


def config_of(folder: Path) -> Settings:
    """Read a run's config as flat keys, the option of a group under the group's name."""
    config = read_config(folder / CONFIG)
    return {**config.pop("choices"), **dict(_leaves(config))}


def part_tested(result: Mapping[str, Any], settings: Settings) -> str:
    """Say how much of the test set a run was tested on where that is not all of it."""
    if "split_sizes" in result:
        num, size = result["num_samples"]["test"], result["split_sizes"]["test"]
        return f"tested on {num:,} of {size:,}" if num < size else ""
    limit = settings.get("trainer.limit_test_batches")  # all that results of earlier versions have
    return "" if limit is None else f"tested with limit_test_batches={limit}"


def limits_of(settings: Settings) -> str:
    """Say with how much less than all training and validation data a run made do."""
    found = {key: settings.get(f"trainer.{key}") for key in LIMITS}
    return " ".join(f"{key}={value}" for key, value in found.items() if value is not None)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def comparisons(runs: Sequence[Finished]) -> list[Comparison]:
    """Put what can be compared together: runs of one data set and, but that distillation classifies, too, one task.

    Runs that were tested on other test samples are apart. Those tested on a part of the test set only come last.
    """
    kinds: dict[tuple[bool, str], list[Finished]] = defaultdict(list)
    for run in runs:
        task, kind = run.settings["task"], str(run.settings.get("task._target_")).rpartition(".")[2]
        of_task = "" if task in NAMING or kind in NAMING else f", task={task}"
        part = part_tested(run.result, run.settings)
        kinds[bool(part), f"{run.result['data']}{of_task}{part and f', {part}'}"].append(run)
    return [
        Comparison(f"{title}{of_set}", sorted(grouped(same), key=lambda group: -group.accuracy))
        for (_, title), kind in sorted(kinds.items(), key=lambda item: item[0][0])
        for of_set, same in _by_test_set(kind).items()
    ]


def _by_test_set(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Part runs by the hash of what they were tested on, and name the parts.

    Results of earlier versions have only the hash of the whole split, which stands for the test set of a later run that
    has both, or for one that may be of its own; all folds of the same data have the same.
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
    parts = {name: part for title, of_title in parts.items() for name, part in _by_content(title, of_title).items()}
    if len(parts) == 1:
        return {"": list(runs)}
    return {f", {name}": part for name, part in parts.items()}


def _by_content(title: str, runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Part runs whose test files have the same names and sizes by what is in the files, where several things are."""
    contents: dict[str | None, list[Finished]] = defaultdict(list)
    for run in runs:
        contents[run.result.get("test_content_hash")].append(run)
    if len(contents.keys() - {None}) < 2:
        return {title: list(runs)}
    return {f"{title}, files {content or 'not compared'}": part for content, part in contents.items()}


def grouped(runs: Sequence[Finished]) -> list[Group]:
    """Put runs together that differ in seed or fold only; the second of one seed and fold begins a group of its own.

    A group is named as its first run, and where several have a name, by what they differ in, or else by its time; and
    by limits on its training or validation data.
    """
    groups: dict[tuple[str, int], list[Finished]] = defaultdict(list)
    times_seen: Counter[tuple[str, str]] = Counter()
    for run in runs:
        same = json.dumps({k: v for k, v in run.settings.items() if k not in (*REPEATS, *NAMES)}, sort_keys=True)
        which = json.dumps([run.settings.get(key) for key in REPEATS])
        groups[same, times_seen[same, which]].append(run)
        times_seen[same, which] += 1
    firsts = [group[0] for group in groups.values()]
    labels = [str(run.settings["name"]) for run in firsts]
    for more in (_differences, lambda several: [run.folder.name for run in several]):
        for label in [label for label, count in Counter(labels).items() if count > 1]:
            places = [i for i, one in enumerate(labels) if one == label]
            for i, words in zip(places, more([firsts[i] for i in places]), strict=True):
                labels[i] = f"{label} {words}".strip()
    limits = [limits_of(run.settings) for run in firsts]
    labels = [label if limit in label else f"{label} {limit}" for label, limit in zip(labels, limits, strict=True)]
    return [Group(label, group) for label, group in zip(labels, groups.values(), strict=True)]


def _differences(runs: Sequence[Finished]) -> list[str]:
    """Say of each run in a few words what sets it apart: of another model or optimizer, only which."""
    differ = differing([run.settings for run in runs])
    keys = [key for key in differ if not any(key.startswith(f"{other}.") for other in differ)]
    named = [key for key in keys if key not in REPEATS]
    more = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    return [" ".join(f"{key}={run.settings.get(key)}" for key in named[:MOST_NAMED]) + more for run in runs]


def differing(several: Sequence[Settings]) -> list[str]:
    """Name the settings that some of several runs have and others have not, or have otherwise."""
    keys = dict.fromkeys(key for settings in several for key in settings if key not in NAMES)
    missing = object()
    return [key for key in keys if any(s.get(key, missing) != several[0].get(key, missing) for s in several)]


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return a metric of a run's metrics.csv as (epochs trained, value); of a loss while training, the epoch's mean."""
    file = folder / METRICS
    if not file.exists():
        return []
    points, since = [], []
    for row in read_metrics(file):
        if metric in row:
            since.append(min(max(row[metric], -LARGEST), LARGEST))  # of what nets give, nothing is so large
        if "epoch" in row and since:
            points.append((int(row["epoch"]) + 1, statistics.fmean(since)))
            since = []
    return points


def mean_and_spread(results: Sequence[dict[str, Any]], split: str, metric: str = "accuracy") -> str:
    """Say the mean of a metric of the runs and, of several, the standard deviation of a sample, in per cent."""
    values = [100 * result[split][metric] for result in results if metric in result[split]]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f} %{spread}"
