"""A search as an Optuna study in runs/<name>/study.db, which always has the current state.

Trials are independent of the processes that train them: if a process was killed, its trial is continued by a new one,
and the number of trials in the study does not change.
"""

import functools
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from zoo import distributed
from zoo.errors import BadInput, ZooError, reason
from zoo.files import check_no_links, locked
from zoo.paths import LOCK, STUDY
from zoo.records.schema import CHECKSUM
from zoo.report.viewers import logger_names
from zoo.search.checks import PRUNERS, SAMPLERS, check, check_choices
from zoo.search.database import check_database
from zoo.search.front import front_of, mark_in_board, store
from zoo.search.objectives import Objectives
from zoo.search.space import OWN, contains, distributions, draw
from zoo.search.study_table import console, format_params, show_study
from zoo.search.trials import TrialRun, name_of

SECONDS_BETWEEN_LOOKS = 0.2


def search(cfg: DictConfig) -> None:
    """Run the remaining trials of a study, and print the results."""
    check(cfg)
    space, place, objectives = distributions(cfg.space), Path(cfg.runs) / str(cfg.name), Objectives.of(cfg)
    drawn = {*OWN, *(key.lstrip("+") for key in space)}
    fixed = [o for o in HydraConfig.get().overrides.task if o.split("=")[0].lstrip("+") not in drawn]
    check_choices(cfg, space, fixed)
    if cfg.cost and cfg.pruner != "none":
        console.print(f"pruner={cfg.pruner} is off with two objectives: every trial is trained to its end.")
    try:
        with _opened(place, cfg, fixed, space) as study:
            _run(study, cfg, place, fixed, space)
            show_study(study, place, objectives)
            if cfg.cost:
                front = front_of(study)
                store(front, len(study.get_trials(deepcopy=False)), place, objectives)
                if "tensorboard" in logger_names(cfg):
                    mark_in_board(front, place)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        first = _first(error)
        if not isinstance(first, sqlite3.OperationalError) and type(first) is not sqlite3.DatabaseError:
            raise
        raise ZooError(f"{place / STUDY}: {first}; once this is fixed, run the same command to continue") from error


def _first(error: BaseException) -> BaseException:
    """Return the original cause of an error."""
    return _first(error.__cause__) if error.__cause__ else error


def _run(
    study: optuna.Study, cfg: DictConfig, place: Path, fixed: list[str], space: Mapping[str, BaseDistribution]
) -> None:
    """Run `jobs` trials in parallel, unfinished ones first, until `cfg.trials` have started."""
    slots = [_environment(cfg, slot) for slot in range(cfg.jobs)]
    running: dict[int, _Running] = {}
    objectives = Objectives.of(cfg)
    unfinished = study.get_trials(states=[TrialState.RUNNING])
    try:
        while True:
            for slot in sorted(set(range(cfg.jobs)) - running.keys()):
                before = unfinished.pop(0) if unfinished else None
                if before or len(study.get_trials(deepcopy=False)) < cfg.trials:
                    trial = begun(study, cfg.sampler, cfg.seed, before)
                    line = [*fixed, *draw(trial, space)]
                    run = TrialRun(place / name_of(trial.number), line, slots[slot])
                    reported = before.intermediate_values if before else ()
                    running[slot] = _Running(trial, run, trial.user_attrs.get("judged", 0), reported)
            if not running:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for slot, one in list(running.items()):
                if one.ended(study, objectives):
                    del running[slot]
    finally:
        for one in running.values():
            one.run.stop()
        for one in running.values():
            one.run.wait()


@contextmanager
def _opened(
    place: Path, cfg: DictConfig, fixed: list[str], space: Mapping[str, BaseDistribution]
) -> Iterator[optuna.Study]:
    """Open a new or existing study and lock it; raise BadInput if its settings differ."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place.mkdir(parents=True, exist_ok=True)
    check_no_links(place)
    with locked(place / LOCK, f"the search in {place}"):
        file = place / STUDY
        was_there = file.exists()
        asked = {
            "overrides": fixed,
            "space": list(cfg.space),
            "metric": cfg.callbacks.product.metric,
            "cost": cfg.cost,
            "sampler": cfg.sampler,
            "pruner": cfg.pruner,
        }
        try:
            study = _study(file, cfg, asked, space)
        except Exception as error:  # a damaged database may raise anything
            if isinstance(error, ZooError) or isinstance(_first(error), sqlite3.OperationalError) or not was_there:
                raise  # a database that cannot be written is not damaged
            raise BadInput(f"{file} is damaged ({reason(error)[:100]}); replace it with a backup") from error
        try:
            yield study
        finally:
            _close(study)


def _study(
    file: Path, cfg: DictConfig, asked: Mapping[str, Any], space: Mapping[str, BaseDistribution]
) -> optuna.Study:
    """Open or create the study in a database, and check all of its trials."""
    objectives, is_new = Objectives.of(cfg), not file.exists()
    if not is_new:
        check_database(file)
    study = optuna.create_study(
        storage=_storage(file),
        study_name=str(cfg.name),
        directions=objectives.directions,
        pruner=PRUNERS["none" if cfg.cost else cfg.pruner](),
        load_if_exists=True,
    )
    try:
        of_directions = {"cost": None} if len(study.directions) == 1 else {}  # earlier versions stored no cost
        known = {**asked, **of_directions, **study.user_attrs}
        for key, value in asked.items():
            if known[key] != value:
                raise BadInput(
                    f"{file.parent} is a search with {key} {known[key]}, not {value}; another name= begins a new one"
                )
            study.set_user_attr(key, value)
        if len(study.get_trials(deepcopy=False)) == 0 and not is_new and list(file.parent.glob("trial_*")):
            raise ValueError("it has lost its trials")
        if [direction.name.lower() for direction in study.directions] != objectives.directions:
            raise ValueError("it has another direction")
        for number, trial in enumerate(study.get_trials(deepcopy=False)):
            _check_trial(trial, number, space, len(objectives.directions))
    except BaseException:
        _close(study)
        raise
    return study


def _close(study: optuna.Study) -> None:
    storage: Any = study._storage
    backend = getattr(storage, "_backend", storage)  # wrapped in a cache by Optuna
    backend.remove_session()
    backend.engine.dispose()


def _check_trial(trial: FrozenTrial, number: int, space: Mapping[str, BaseDistribution], num_values: int) -> None:
    """Raise ValueError unless a trial belongs to this search, with valid and unchanged values."""
    if trial.number != number or any(space.get(key) != kind for key, kind in trial.distributions.items()):
        raise ValueError(f"trial {number} belongs to another search")
    if not all(contains(space[key], value) for key, value in trial.params.items()):
        raise ValueError(f"trial {number} was not drawn from its space")
    figures = [*trial.intermediate_values.values(), *(trial.values or [])]
    is_whole = trial.state != TrialState.COMPLETE or len(trial.values or []) == num_values
    if not all(map(math.isfinite, figures)) or not is_whole:
        raise ValueError(f"trial {number} has invalid values")
    if type(trial.user_attrs.get("judged", 0)) is not int:
        raise ValueError(f"trial {number} has an invalid epoch")
    if trial.state.is_finished() and trial.user_attrs.get(CHECKSUM, "") not in ("", _checksum(trial, trial.state)):
        raise ValueError(f"the checksum of trial {number} does not match")


def _checksum(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None = None) -> str:
    """Return the checksum of the result of a trial, which is stored with it."""
    found = (values or trial.values or []) if state == TrialState.COMPLETE else [None]
    value = found[0] if len(found) == 1 else list(found)
    figures = [trial.number, state.name, value, trial.params, sorted(trial.intermediate_values.items())]
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """Open a database without putting its path into a URL, where ?, % and braces have a meaning."""
    settings = {"creator": functools.partial(sqlite3.connect, path), "poolclass": sqlalchemy.QueuePool}
    return optuna.storages.RDBStorage("sqlite://", settings)


def _environment(cfg: DictConfig, slot: int) -> dict[str, str]:
    """Return the environment for the trials of a slot: a GPU, if there are any, and a share of the cores."""
    import torch

    # zoo.cli.command has set HYDRA_FULL_ERROR for this process alone
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, distributed.num_cores() // cfg.jobs)))
    if cfg.trainer.accelerator != "cpu" and (num := torch.cuda.device_count()):
        visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % num]
    return environment


def begun(study: optuna.Study, sampler: str, seed: int, before: FrozenTrial | None = None) -> Trial:
    """Start or resume a trial; each has its own random generator, so that interruptions do not change the draws."""
    number = before.number if before else len(study.get_trials(deepcopy=False))
    own = np.random.SeedSequence([seed, number]).generate_state(1)
    study.sampler = SAMPLERS[sampler](seed=int(own[0]))
    return Trial(study, before._trial_id) if before else study.ask()


@dataclass
class _Running:
    """A trial with its process, and the last epoch judged by the pruner."""

    trial: Trial
    run: TrialRun
    epoch: int
    reported: Container[int] = ()  # before an interruption
    pruned: bool = False

    def ended(self, study: optuna.Study, objectives: Objectives) -> bool:
        """Report progress to the study, stop the run if the pruner decides so, and return whether it has ended."""
        over = self.run.process.poll() is not None  # checked first, so that the curves read next are complete
        is_judged = not self.pruned and not objectives.cost  # Optuna judges no epochs by two objectives
        for epoch, value in self.run.epochs(objectives.metric) if is_judged else []:
            if epoch > self.epoch and math.isfinite(value):
                self.epoch = epoch
                if epoch not in self.reported:  # unless interrupted between report and judgement
                    self.trial.report(value, epoch)
                if epoch < self.run.max_epochs and self.trial.should_prune():
                    self.pruned = True
                    self._tell(study, None, TrialState.PRUNED, f"pruned after epoch {epoch}")
                    self.run.stop()
                    break
                self.trial.set_user_attr("judged", epoch)
        if over and not self.pruned:
            values = self.run.values(objectives)
            if values is not None:
                self._tell(study, values, TrialState.COMPLETE, objectives.described(values))
            elif self.run.diverged:  # reported as pruned, since samplers ignore failures
                self._tell(study, None, TrialState.PRUNED, f"diverged: {self.run.last_words}")
            else:
                self._tell(study, None, TrialState.FAIL, f"failed: {self.run.last_words}")
        return over

    def _tell(self, study: optuna.Study, values: Sequence[float] | None, state: TrialState, how: str) -> None:
        self.trial.set_user_attr("ended", how)
        frozen = study.get_trials(deepcopy=False)[self.trial.number]
        self.trial.set_user_attr(CHECKSUM, _checksum(frozen, state, values))
        study.tell(self.trial, values, state)
        console.print(f"trial {self.trial.number:3}   {format_params(self.trial.params)}   {how}", soft_wrap=True)
