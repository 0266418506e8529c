"""The data of a run, loaded and checked against the data that the run started with."""

import functools
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import OmegaConf

from zoo import distributed
from zoo.callbacks.resume import AtomicCheckpointIO
from zoo.checkpoint.product_file import Product, read_product
from zoo.data.module import ResidentData
from zoo.errors import BadInput, reason
from zoo.instantiate import build
from zoo.measure.compiler import check_compiler
from zoo.paths import PRODUCT
from zoo.ranges import height_width
from zoo.run.config_checks import needs_numbers
from zoo.run.directory import Run
from zoo.run.model import build_bare_model
from zoo.run.task import build_optimizer
from zoo.run.teachers import check_teacher, with_teachers
from zoo.run.trainer import build_callbacks


def build_data(run: Run) -> tuple[Run, ResidentData]:
    """Build and load the data, so that a missing or wrong set is reported before anything else is done.

    Returned with them is the run with what was left to them filled in: the sizes that a net is built by, mean and std,
    how pictures in files are resized, and that labels are numbers if the task needs them.
    """
    run, teachers = with_teachers(run, functools.cache(lambda: _check_settings(run)))
    run, data = _loaded(run, teachers)
    for teacher in teachers:
        check_teacher(run, teacher, data.load())
    return run, data


def _check_settings(run: Run) -> None:
    """Build parts of a run, so that most wrong settings are reported before its teachers are trained.

    They are the data, optimizer, schedule, callbacks and, without memory, the bare net.
    """
    accelerator = run.cfg.trainer.accelerator
    if run.cfg.compile and (accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())):
        check_compiler(f"compile={run.cfg.compile}")
    with isolate_rng(include_cuda=False):
        run, _ = _loaded(run, [])
        build_optimizer(run), build_callbacks(run)
        with torch.device("meta"):
            build_bare_model(run.cfg.model)


def _loaded(run: Run, teachers: list[Product]) -> tuple[Run, ResidentData]:
    if "numbers" in run.cfg.data and run.cfg.data.numbers is None and needs_numbers(run.cfg):
        run = run.with_values(data={"numbers": True})
    if "mean" in run.cfg.data and run.cfg.data.mean is None and run.cfg.data.std is None:
        run = run.with_values(data=_known_normalisation(run, teachers))
    if "resize" in run.cfg.data:
        run = run.with_values(data=_known_resizing(run, teachers))
    settings: Any = OmegaConf.to_container(run.cfg.data, resolve=True)
    if settings["batch_size"] == "auto":  # until `with_batch_size` has found it
        settings["batch_size"] = 2 * distributed.world_size()
    data: ResidentData = build(settings, "data")
    if data.batch_size % distributed.world_size():
        raise BadInput(
            f"data.batch_size={data.batch_size} cannot be divided among {distributed.world_size()} processes"
        )
    with distributed.local_rank_zero_first():
        data.load()
    if run.last_checkpoint:
        _check_same_data(run, data)
    sizes = {name: number for name, number in data.sizes().items() if run.cfg.data[name] is None}
    of_net = {name: number for name, number in sizes.items() if run.cfg.model.get(name, number) is None}
    return run.with_values(data=sizes, model=of_net), data


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


def _known_normalisation(run: Run, teachers: list[Product]) -> dict[str, Any]:
    """Return the mean and std that the weights expect which a run begins with, where there are any.

    Those are published weights, or those of `init_from`, or else the teacher's.
    """
    channels = run.cfg.data.in_channels
    if run.cfg.model.pretrained:
        from zoo.checkpoint.pretrained import published_normalisation

        mean, std = published_normalisation(run.cfg.choices.model, channels, run.cfg.model.pretrained)
        return {"mean": mean, "std": std}
    known = {}
    if run.cfg.init_from:
        known = read_product(run.cfg.init_from).facts["data"]
    elif teachers:
        known = teachers[0].facts["data"]
    both = {key: known.get(key) for key in ("mean", "std")}
    return both if all(isinstance(one, list) and len(one) == channels for one in both.values()) else {}


def _known_resizing(run: Run, teachers: list[Product]) -> dict[str, Any]:
    """Return data.resize and data.interpolation, if null, as the weights expect which a run begins with, if known.

    Those are published weights, or those of `init_from`, or else the teacher's.
    """
    shorter, known = min(height_width(run.cfg.data.image_size)), None
    if run.cfg.model.pretrained:
        from zoo.checkpoint.presets import published_resizing

        known = published_resizing(run.cfg.choices.model, run.cfg.data.image_size, run.cfg.model.pretrained)
    elif run.cfg.init_from or teachers:
        product = read_product(run.cfg.init_from) if run.cfg.init_from else teachers[0]
        theirs = product.facts["config"]["data"]
        if theirs.get("resize") is not None:
            before = min(height_width(theirs["image_size"]))
            known = round(shorter * theirs["resize"] / before), theirs.get("interpolation")
    both = zip(("resize", "interpolation"), known or (), strict=False)
    return {key: value for key, value in both if run.cfg.data[key] is None}
