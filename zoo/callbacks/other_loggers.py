"""Weights & Biases, MLflow and trackio as boards; nothing leaves this machine unless their own variables ask for it.

Their packages are optional. By default, W&B is offline, MLflow writes into the run folder, and trackio into its own.
The variables WANDB_MODE, MLFLOW_TRACKING_URI and TRACKIO_SPACE_ID, which these libraries define, change that.
"""

import contextlib
import io
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers.logger import Logger

from zoo import escape
from zoo.callbacks.board import Board
from zoo.callbacks.loggers import MetricsCSV, TensorBoard
from zoo.errors import BadInput

PROJECT = "zoo"  # in which a library lists the runs
WANDB_FILE = re.compile(r"run-([a-z0-9]{1,64})\.wandb")
STEP = "step"  # the axis of W&B's curves
NOT_IN_MLFLOW = re.compile(r"[^/\w.\- ]")  # characters that names of metrics and settings cannot have
Settings = Mapping[str, str | float]


class Wandb(Board):
    """A run of Weights & Biases, in wandb/ of the run folder; offline unless WANDB_MODE=online.

    A resumed run has the same id, so that `wandb sync` joins its parts. Points after the checkpoint are in both parts.
    """

    def __init__(self, folder: Path, settings: Settings, from_step: int | None) -> None:
        super().__init__()
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        earlier = sorted(folder.glob("wandb/*/run-*.wandb"))
        found = WANDB_FILE.fullmatch(earlier[-1].name) if earlier and from_step is not None else None
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(folder),
            id=found[1] if found else None,
            resume="allow" if found and os.environ.get("WANDB_MODE") == "online" else None,
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=str(folder.resolve()),  # its process may have been started in another folder
            config=dict(settings),
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, symlink=False),
        )
        for path in Path(self.run.dir).parent.rglob("*"):
            if path.is_symlink():  # to W&B's own log; a run folder with links cannot be resumed
                path.unlink()
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP)

    def add_settings(self, settings: Settings, metrics: Mapping[str, float]) -> None:
        self.run.config.update(dict(settings), allow_val_change=True)

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        self.run.log({**scalars, STEP: step})

    def add_pixels(self, name: str, pixels: np.ndarray, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels), STEP: step})

    def add_text(self, name: str, text: str, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Html(f"<pre>{escape.text(text)}</pre>"), STEP: step})

    def close(self) -> None:
        self.run.finish()


class MLflow(Board):
    """A run of MLflow, in mlruns/ of the run folder unless MLFLOW_TRACKING_URI is set.

    Pictures and texts are artifacts, pictures with the step in their names. Names of scalars lose characters that
    MLflow does not allow, such as commas. A resumed run is continued.
    """

    def __init__(self, folder: Path, settings: Settings, from_step: int | None) -> None:
        super().__init__()
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        local = (folder / "mlruns").resolve().as_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        self.client, name = MlflowClient(uri), run_name(folder)
        experiment = self.client.get_experiment_by_name(PROJECT)
        place = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        runs = self.client.search_runs([place]) if from_step is not None else []
        earlier = [run for run in runs if run.info.run_name == name]
        run = earlier[0] if earlier else self.client.create_run(place, run_name=name)
        self.id, self.known = run.info.run_id, set(run.data.params)
        if uri == local and run.info.artifact_uri != f"{uri}/{place}/{self.id}/artifacts":  # a path in a file
            raise BadInput(f"{folder / 'mlruns'} was written in another folder; move it away to resume without it")
        self.client.update_run(self.id, "RUNNING")
        self.add_settings(settings, {})

    def add_settings(self, settings: Settings, metrics: Mapping[str, float]) -> None:
        """Write settings that have no value yet, since MLflow does not change one."""
        from mlflow.entities import Param

        named = {mlflow_name(name): str(value) for name, value in settings.items()}
        new = {name: value for name, value in named.items() if name not in self.known}
        self.known |= set(new)
        self.client.log_batch(self.id, params=[Param(name, value) for name, value in new.items()])

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(mlflow_name(name), value, now, step) for name, value in scalars.items()]
        self.client.log_batch(self.id, metrics=points)

    def add_pixels(self, name: str, pixels: np.ndarray, step: int) -> None:
        from PIL import Image

        folder, _, file = mlflow_name(name).rpartition("/")
        with tempfile.TemporaryDirectory(prefix="zoo_") as place:
            path = Path(place) / f"{file} {step:08}.png"
            Image.fromarray(pixels).save(path)
            self.client.log_artifact(self.id, str(path), folder or None)

    def add_text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.id, text, f"{mlflow_name(name)}.md")

    def close(self) -> None:
        self.client.set_terminated(self.id)


class Trackio(Board):
    """A run of trackio, in its own folder (TRACKIO_DIR); on this machine unless TRACKIO_SPACE_ID is set.

    It keeps the settings that a run starts with; those of the result are in its text. A resumed run is continued.
    """

    def __init__(self, folder: Path, settings: Settings, from_step: int | None) -> None:
        super().__init__()
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # how to open its dashboard, which zoo.report.tables says
            self.run = trackio.init(
                project=PROJECT,
                name=run_name(folder),
                config=dict(settings),
                resume="never" if from_step is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def add_settings(self, settings: Settings, metrics: Mapping[str, float]) -> None:
        """Do nothing: trackio stores no settings later than at the start."""

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        self.run.log(dict(scalars), step=step)

    def add_pixels(self, name: str, pixels: np.ndarray, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Image(pixels)}, step=step)

    def add_text(self, name: str, text: str, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Markdown(text)}, step=step)

    def close(self) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


OTHERS: dict[str, type[Wandb | MLflow | Trackio]] = {"wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}


def build_loggers(names: Sequence[str], folder: Path, settings: Settings, from_step: int | None) -> list[Logger]:
    """Open the named loggers of a run, and metrics.csv, which every run has; `from_step` is None for a new run."""
    others = [OTHERS[name](folder, settings, from_step) for name in names if name in OTHERS]
    board = [TensorBoard(folder, from_step)] if "tensorboard" in names else []
    return [*board, MetricsCSV(folder, from_step), *others]


def run_name(folder: Path) -> str:
    return f"{folder.parent.name} {folder.name}"


def mlflow_name(name: str) -> str:
    """Return a name with only the characters that MLflow allows, and no part that would be another folder."""
    return "/".join(part.strip(". ") or "_" for part in NOT_IN_MLFLOW.sub("", name).split("/"))
