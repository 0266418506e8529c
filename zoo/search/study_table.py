"""The best trials of a study as a table, or those on its front, and the command that trains with the best."""

import shlex
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from zoo import escape
from zoo.errors import ZooError, counted
from zoo.search.front import front_of
from zoo.search.objectives import Objectives
from zoo.search.space import overrides
from zoo.search.trials import OUTPUT

MOST_SHOWN = 10
FEWEST_FOR_IMPORTANCE = 10
console = escape.console()


def format_params(params: dict[str, Any]) -> str:
    """Format parameters for display."""
    return " ".join(f"{key}={format_value(value)}" for key, value in params.items())


def format_value(value: Any) -> str:
    """Format a float with three digits, and other values unchanged."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_study(study: optuna.Study, place: Path, objectives: Objectives) -> None:
    """Print the best trials and the command to train with the best settings; ZooError if none is complete."""
    trials = study.get_trials(deepcopy=False)
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not whole:
        raise ZooError(f"no trial has a result; see {place}/trial_*/{OUTPUT}")
    sign = -1 if objectives.mode == "max" else 1
    whole.sort(key=lambda trial: [sign * trial.values[0], *trial.values[1:]])
    counts = {state: sum(trial.state == state for trial in trials) for state in (TrialState.PRUNED, TrialState.FAIL)}
    if objectives.cost:
        front = front_of(study)
        title = f"The front: {len(front)} of {counted(len(trials), 'trial')}, which no other beats in both"
        console.print(table_of_front(front, title, objectives))
    else:
        console.print(_table_of_best(whole[:MOST_SHOWN], f"The best of {len(trials)} trials", objectives))
    console.print(
        f"{len(whole)} completed, {counts[TrialState.PRUNED]} were pruned or diverged, "
        f"{counts[TrialState.FAIL]} failed. Trials are ranked by {' and '.join(objectives.columns)}; the test set was "
        "not used.",
        soft_wrap=True,
    )
    if len(whole) >= FEWEST_FOR_IMPORTANCE and not objectives.cost:
        importances = optuna.importance.get_param_importances(study)
        console.print("Importance  " + ", ".join(f"{key} {share:.0%}" for key, share in importances.items()))
    line = [*study.user_attrs["overrides"], *overrides(whole[0].params)]
    console.print(f"Best        python train.py {shlex.join(line)}", soft_wrap=True)
    console.print(f"Compare     python scripts/compare.py {shlex.quote(str(place))}", soft_wrap=True)


def _table_of_best(trials: list[FrozenTrial], title: str, objectives: Objectives) -> Table:
    """Return the table of trials with one column per setting."""
    table = Table(title=title, title_justify="left")
    for column in ("trial", *objectives.columns, *trials[0].params):
        table.add_column(column, justify="right")
    for trial in trials:
        settings = (format_value(value) for value in trial.params.values())
        table.add_row(str(trial.number), *objectives.formatted(trial.values), *settings)
    return table


def table_of_front(front: list[FrozenTrial], title: str, objectives: Objectives) -> Table:
    """Return the table of a front, which can be read in a terminal of 80 columns however many settings there are."""
    table = Table(title=title, title_justify="left")
    for column in ("trial", *objectives.columns):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in front:
        table.add_row(str(trial.number), *objectives.formatted(trial.values), format_params(trial.params))
    return table
