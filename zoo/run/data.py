"""The data of a run, loaded and checked against the data that the run started with."""

from typing import Any

from omegaconf import OmegaConf

from zoo import distributed
from zoo.callbacks.resume import AtomicCheckpointIO
from zoo.checkpoint.product_file import Product, read_product
from zoo.data.module import ResidentData
from zoo.errors import BadInput, reason
from zoo.instantiate import build
from zoo.paths import PRODUCT
from zoo.run.directory import Run
from zoo.run.task import check_teacher, read_teachers


def build_data(run: Run) -> ResidentData:
    """Build and load the data first, so that a missing or wrong data set is reported before any other work.

    Sizes that the net needs and that only the data determine are written to the config.
    """
    settings = run.cfg.data
    teachers = read_teachers(run) if "teacher" in run.cfg.task else []
    if "mean" in settings:
        _normalise_as_before(run, teachers)
    wanted: Any = OmegaConf.to_container(settings, resolve=True)
    if settings.batch_size == "auto":  # until `fit` has found it
        wanted["batch_size"] = 2 * distributed.world_size()
    data: ResidentData = build(wanted, "data")
    if data.batch_size % distributed.world_size():
        raise BadInput(
            f"data.batch_size={data.batch_size} cannot be divided among {distributed.world_size()} processes"
        )
    with distributed.first_of_machine_first():
        facts = data.load()
    if run.last_checkpoint:
        _check_same_data(run, data)
    for name, number in data.sizes().items():
        if settings[name] is None:
            settings[name] = number
            if run.cfg.model.get(name, number) is None:
                run.cfg.model[name] = number
    for teacher in teachers:
        check_teacher(run, teacher, facts)
    return data


def _check_same_data(run: Run, data: ResidentData) -> None:
    """Refuse to resume with different data: the run could validate on samples it was trained on."""
    assert run.last_checkpoint is not None
    state = AtomicCheckpointIO().load_checkpoint(run.last_checkpoint).get(type(data).__qualname__)
    before, product = state.get("facts") if isinstance(state, dict) else None, run.folder / PRODUCT
    if before is None and product.exists():  # a checkpoint of an earlier version
        before = read_product(product).facts["data"]
    if before is not None:
        try:
            data.check_same(before, "the run began with")
        except BadInput as error:
            raise BadInput(f"resume={run.folder}: {error}; restore them, or start a new run") from error
        except (AttributeError, LookupError, TypeError) as error:  # facts from another writer
            raise BadInput(f"{run.last_checkpoint} does not describe the data of this run ({reason(error)})") from error


def _normalise_as_before(run: Run, teachers: list[Product]) -> None:
    """Unless the config sets mean and std, normalise images as the initial weights expect.

    The statistics are those of the published weights, of the file in `init_from`, or else of the teacher.
    """
    settings = run.cfg.data
    if settings.mean is None and settings.std is None:
        if run.cfg.model.pretrained:
            from zoo.checkpoint.pretrained import published_normalisation

            settings.mean, settings.std = published_normalisation(run.cfg.choices.model, settings.in_channels)
        elif run.cfg.init_from:
            theirs = read_product(run.cfg.init_from).facts["config"]["data"]
            both = [theirs.get(key) for key in ("mean", "std")]
            if all(isinstance(one, list) and len(one) == settings.in_channels for one in both):
                settings.mean, settings.std = theirs["mean"], theirs["std"]
        elif teachers:
            seen = teachers[0].facts["data"]
            if len(seen["mean"]) == settings.in_channels:
                settings.mean, settings.std = seen["mean"], seen["std"]
