"""The best trials of a study as a table, and the command that trains with them."""

import shlex
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.table import Table

from zoo import escape
from zoo.errors import ZooError
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


def show_study(study: optuna.Study, place: Path) -> None:
    """Print the best trials and the command to train with the best settings; ZooError if none is complete."""
    metric = study.user_attrs["metric"]
    trials = study.get_trials(deepcopy=False)
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not whole:
        raise ZooError(f"no trial has a result; see {place}/trial_*/{OUTPUT}")
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    whole.sort(key=lambda trial: sign * trial.values[0])
    counts = {state: sum(trial.state == state for trial in trials) for state in (TrialState.PRUNED, TrialState.FAIL)}
    table = Table(title=f"The best of {len(trials)} trials", title_justify="left")
    for column in ("trial", metric, *study.best_params):
        table.add_column(column, justify="right")
    for trial in whole[:MOST_SHOWN]:
        table.add_row(
            str(trial.number), f"{trial.value:.4f}", *(format_value(value) for value in trial.params.values())
        )
    console.print(table)
    console.print(
        f"{len(whole)} completed, {counts[TrialState.PRUNED]} were pruned or diverged, "
        f"{counts[TrialState.FAIL]} failed. Trials are ranked by {metric}; the test set was not used.",
        soft_wrap=True,
    )
    if len(whole) >= FEWEST_FOR_IMPORTANCE:
        importances = optuna.importance.get_param_importances(study)
        console.print("Importance  " + ", ".join(f"{key} {share:.0%}" for key, share in importances.items()))
    line = [*study.user_attrs["overrides"], *overrides(study.best_params)]
    console.print(f"Best        python train.py {shlex.join(line)}", soft_wrap=True)
    console.print(f"Compare     python scripts/compare.py {shlex.quote(str(place))}", soft_wrap=True)
