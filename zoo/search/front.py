"""The Pareto front of a search with two objectives: the trials that no other beats in both."""

import shutil
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from zoo.files import check_no_links
from zoo.paths import FRONT, FRONT_BOARDS, RESULT
from zoo.records.json_files import read_result, write_sealed
from zoo.report import settings_row
from zoo.search.objectives import Objectives
from zoo.search.trials import name_of, run_folder


def front_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that no other is at least as good as in both objectives and better in one.

    The cheapest is first, and the best in the metric last.
    """
    return sorted(study.best_trials, key=lambda trial: (trial.values[1], trial.number))


def store(front: list[FrozenTrial], num_trials: int, place: Path, objectives: Objectives) -> None:
    """Write front.json: the objectives, the number of trials, and of each trial on the front values and settings."""
    rows: list[dict[str, Any]] = []
    for trial in front:
        folder = run_folder(place / name_of(trial.number))
        run = str(folder.relative_to(place)) if folder else None
        figures = dict(zip(objectives.columns, trial.values, strict=True))
        rows.append({"trial": trial.number, "run": run, **figures, "settings": trial.params})
    record = {"objectives": objectives.columns, "directions": objectives.directions, "trials": num_trials}
    write_sealed(place / FRONT, {**record, "front": rows})


def mark_in_board(front: list[FrozenTrial], place: Path) -> None:
    """Add a second row for each trial on the front to TensorBoard's HParams table, with the format `on the front`.

    TensorBoard shows each folder in front/ as a run; those of an earlier front are replaced.
    """
    from zoo.callbacks.loggers import TensorBoard

    boards = place / FRONT_BOARDS
    if boards.exists():
        check_no_links(boards)
        shutil.rmtree(boards)
    for trial in front:
        folder = run_folder(place / name_of(trial.number))
        if folder is None or not (folder / RESULT).exists():  # removed by the user
            continue
        result = read_result(folder / RESULT)
        board = TensorBoard(boards / name_of(trial.number))
        board.log_hyperparams(settings_row.row(result, "on the front"), settings_row.metrics(result))
        board.experiment.close()
