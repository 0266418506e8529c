"""The one place that knows everyone: builds the objects of a run from its config, and takes it to its result."""

import contextlib
import copy
import glob
import logging
import math
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo import memory, preflight, ranks, report
from zoo.build import build, probe
from zoo.callbacks.compression import summaries
from zoo.callbacks.loggers import TensorBoard
from zoo.callbacks.monitor import TrainingMonitor
from zoo.callbacks.product import BestProduct
from zoo.callbacks.resume import AtomicCheckpointIO, ResumeCheckpoint
from zoo.checkpoint import PRODUCT, Product, file_of, load_weights, provenance, read_product
from zoo.compress.recipe import in_integers, replay
from zoo.data.images import ImageFacts
from zoo.data.module import SPLITS, ResidentData
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.folder import CONFIG, Run
from zoo.measure.accuracy import TOP
from zoo.measure.counts import count_macs_of, count_parameters
from zoo.measure.latency import latency_ms
from zoo.measure.throughput import TOO_FULL, fastest_batch_size, is_out_of_memory
from zoo.models.stochastic_depth import StochasticDepth
from zoo.nets import bare_net, laid_out, net_of
from zoo.passes import after_fit, read_recipe
from zoo.ranges import written
from zoo.records import write_config, write_result
from zoo.tasks.base import Task, parameter_groups
from zoo.tasks.transfer import hold_frozen_norms
from zoo.trainer import callback_of

log = logging.getLogger("zoo")


def build_data(run: Run) -> ResidentData:
    """Build and load the data, so that a missing or wrong set is told before anything else is done.

    What only the data themselves know of the sizes that a net wants is put into the config.
    """
    settings = run.cfg.data
    teachers = _teachers(run) if "teacher" in run.cfg.task else []
    if "mean" in settings:
        _normalise_as_before(run, teachers)
    wanted: Any = OmegaConf.to_container(settings, resolve=True)
    if settings.batch_size == "auto":  # until `fit` knows it
        wanted["batch_size"] = 2 * ranks.world_size()
    data: ResidentData = build(wanted, "data")
    if data.batch_size % ranks.world_size():
        raise BadInput(f"data.batch_size={data.batch_size} cannot be shared out to {ranks.world_size()} processes")
    with ranks.first_of_machine_first():
        facts = data.load()
    if run.last_checkpoint:
        _check_same_data(run, data)
    for name, number in data.sizes().items():
        if settings[name] is None:
            settings[name] = number
            if run.cfg.model.get(name, number) is None:
                run.cfg.model[name] = number
    for teacher in teachers:
        _check_teacher(run, teacher, facts)
    return data


def _check_same_data(run: Run, data: ResidentData) -> None:
    """Refuse to go on with other data than a run began with: it would validate on what it was trained on."""
    assert run.last_checkpoint is not None
    state = AtomicCheckpointIO().load_checkpoint(run.last_checkpoint).get(type(data).__qualname__)
    before, product = state.get("facts") if isinstance(state, dict) else None, run.folder / PRODUCT
    if before is None and product.exists():  # a checkpoint of an earlier version
        before = read_product(product).facts["data"]
    if before is not None:
        try:
            data.check_same(before, "the run began with")
        except BadInput as error:
            raise BadInput(f"resume={run.folder}: {error}; put them back, or begin a new run") from error
        except (AttributeError, LookupError, TypeError) as error:  # of facts that somebody else wrote
            raise BadInput(f"{run.last_checkpoint} does not tell of the data of this run ({reason(error)})") from error


def _normalise_as_before(run: Run, teachers: list[Product]) -> None:
    """Have images normalised, unless the config says how, as the weights expect that a run begins with.

    Those are published ones, or weights that `init_from` brings and that began so, or else the teacher's.
    """
    settings = run.cfg.data
    if settings.mean is None and settings.std is None:
        if run.cfg.model.pretrained:
            from zoo.pretrained import published_normalisation

            settings.mean, settings.std = published_normalisation(run.cfg.choices.model, settings.in_channels)
        elif run.cfg.init_from:
            theirs = read_product(run.cfg.init_from).facts["config"]["data"]
            if theirs.get("mean") and len(theirs["mean"]) == settings.in_channels:
                settings.mean, settings.std = theirs["mean"], theirs["std"]
        elif teachers:
            seen = teachers[0].facts["data"]
            if len(seen["mean"]) == settings.in_channels:
                settings.mean, settings.std = seen["mean"], seen["std"]


def _teachers(run: Run) -> list[Product]:
    named = run.cfg.task.teacher
    patterns = [named] if isinstance(named, str) else list(named) if OmegaConf.is_list(named) else []
    if not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise BadInput(
            f"task.teacher: expected the model.safetensors of a net trained on these data, got {written(named)}"
        )
    files = [str(file_of(file).resolve()) for one in patterns for file in sorted(glob.glob(one)) or [one]]
    run.cfg.task.teacher = files  # so that the run can be resumed from anywhere, with the same ones
    return [read_product(file) for file in files]


def _check_teacher(run: Run, teacher: Product, facts: ImageFacts) -> None:
    """Raise BadInput unless the teacher's product file knows the very images that this run's net will see."""
    theirs, size = teacher.facts, run.cfg.data.image_size
    for what, found, wanted in (
        ("classes", theirs["data"]["classes"], facts.classes),
        ("image size", theirs["config"]["data"]["image_size"], size),
        ("mean of images", theirs["data"]["mean"], facts.mean),
        ("deviation of images", theirs["data"]["std"], facts.std),
    ):
        if found != wanted:
            raise BadInput(
                f"task.teacher={teacher.path} was trained with other {what} than data={run.cfg.choices.data} has"
            )
    if theirs["data"]["split_hash"] != facts.split_hash:
        log.warning("The teacher was trained on another split, and may have seen images that this run validates on.")


def build_task(run: Run, net: nn.Module) -> Task:
    """Build the task around a net, with its optimizer and schedule.

    Lightning cannot clip gradients in mixed precision for fused optimizers, and FSDP2 knows not all of them, so that
    both take an ordinary one.
    """
    settings: Any = OmegaConf.to_container(run.cfg.optim, resolve=True)
    if run.cfg.trainer.gradient_clip_val is not None or run.cfg.trainer.strategy == "fsdp2":
        settings.pop("fused", None)
    optimizer, schedule = build(settings, "optim"), build(run.cfg.schedule, "schedule")
    probe("optim", optimizer, [torch.zeros(1, 1, 1, 1, requires_grad=True)])
    probe("schedule", schedule, 100)
    task: Any = OmegaConf.to_container(run.cfg.task, resolve=True)
    given = {"net": net, "optimizer": optimizer, "schedule": schedule}
    if "teacher" in task:
        given["teacher"] = [laid_out(net_of(read_product(file)), run.cfg) for file in task.pop("teacher")]
    built: Task = build(task, "task", **given)
    name = "num_classes" if "num_classes" in run.cfg.model else "num_target_tokens"
    wanted = built.num_outputs or run.cfg.data[name]
    if wanted < 2:
        raise BadInput(f"data.{name}: expected at least 2, got {wanted}: with one class there is nothing to tell apart")
    if run.cfg.model[name] != wanted:
        raise BadInput(f"model.{name}={run.cfg.model[name]} does not fit these data and task: {wanted} does")
    return built


def check_before(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> None:
    """Make the checks of zoo.preflight where the config asks for them, and leave all else as it was.

    They get a task and a net of their own, eager, in fp32 and without what regularises. BadInput where one fails.
    """
    if not run.cfg.get("preflight") or run.last_checkpoint:
        return
    plain = Run(run.folder, copy.deepcopy(run.cfg))
    for key, off in (("label_smoothing", 0.0), ("l1", 0.0), ("l2", 0.0), ("max_norm", None), ("alpha", 0.0)):
        if key in plain.cfg.task:
            plain.cfg.task[key] = off
    net = copy.deepcopy(task.net)
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | StochasticDepth):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    with isolate_rng():
        own = build_task(plain, net).to(trainer.strategy.root_device).train()
        own.on_fit_start()
        fresh, may_freeze = not (run.cfg.init_from or run.cfg.model.pretrained), run.cfg.model.freeze is not None
        subject = preflight.Subject(own, data, fresh, may_freeze)
        examples, figure = preflight.look_at_examples(subject, run.folder)
        preflight.report([examples, *preflight.inspect(subject)])
    for logger in trainer.loggers if figure else ():
        if isinstance(logger, TensorBoard):
            logger.experiment.add_figure("preflight/examples", figure, 0)


def fit(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> None:
    """Train from the start or from last.ckpt, or with trainer.max_epochs=0 only validate what there is.

    Leaves the best weights in model.safetensors.
    """
    if run.cfg.data.batch_size == "auto":
        run.cfg.data.batch_size = data.batch_size = settled_batch_size(trainer, task, data)
        log.info("Batches are of %d samples.", data.batch_size)
    _check_norms(run, task, data)
    callback_of(trainer, BestProduct).facts = {
        "config": OmegaConf.to_container(run.cfg, resolve=True),
        "recipe": read_recipe(run),
        "data": asdict(data.load()),
        **provenance(),
    }
    callback_of(trainer, TrainingMonitor), callback_of(trainer, ResumeCheckpoint)
    _check_limits(run.cfg, data)
    _check_metrics(run.cfg, task)
    if ranks.rank():
        torch.manual_seed(run.cfg.seed + ranks.rank())  # for dropout; the first goes on as a process alone would
    else:  # all is built, so what resume changed is sound
        write_config(run.folder / CONFIG, OmegaConf.to_yaml(run.cfg))
    try:
        if trainer.max_epochs == 0:
            trainer.validate(task, datamodule=data, verbose=False)
            return
        trainer.fit(task, datamodule=data, ckpt_path=run.last_checkpoint, weights_only=True)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise ZooError(
                f"{trainer.strategy.root_device.type} ran out of memory with data.batch_size={data.batch_size}; "
                "data.batch_size=auto finds one that fits, and trainer.precision=bf16-mixed needs half as much"
            ) from error
        if "not implemented for" in reason(error):
            raise BadInput(
                f"trainer.precision={trainer.precision} does not suit this net here: {reason(error)}"
            ) from error
        if reason(error).startswith("Error(s) in loading state_dict"):
            net = run.cfg.choices.model
            raise BadInput(f"{run.last_checkpoint} is of another net than {net}; train anew") from error
        _blame_checkpoint(run, trainer, error)
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        _blame_checkpoint(run, trainer, error)
        raise


def _blame_checkpoint(run: Run, trainer: lightning.Trainer, error: Exception) -> None:
    """Raise BadInput where a run that was to go on has not made one step with what it has loaded."""
    if run.last_checkpoint is not None and not callback_of(trainer, ResumeCheckpoint).has_begun:
        raise BadInput(
            f"{run.last_checkpoint} does not hold the state of this run ({reason(error)}); without it, train anew"
        ) from error


def _check_norms(run: Run, task: Task, data: ResidentData) -> None:
    """Refuse batches of one sample if a batch norm would get one value a channel, which has no deviation."""
    together = run.cfg.trainer.sync_batchnorm and ranks.world_size() > 1
    if together or data.batch_size // ranks.world_size() > 1 or run.cfg.trainer.max_epochs == 0:
        return
    ghost = copy.deepcopy(task.net).to("meta", torch.float32).train()
    hold_frozen_norms(ghost)
    try:
        with torch.compiler.set_stance("force_eager"):
            ghost(*data.example())
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInput(
            f"data.batch_size={data.batch_size}: expected at least {2 * ranks.world_size()} with "
            f"model={run.cfg.choices.model}, in which a batch norm would get one value of each channel"
        ) from error


def _check_limits(cfg: DictConfig, data: ResidentData) -> None:
    """Refuse shares of the batches that are less than one batch, and a validation after more than an epoch has."""
    for split in SPLITS:
        key, limit = f"trainer.limit_{split}_batches", cfg.trainer[f"limit_{split}_batches"]
        if isinstance(limit, float) and 0 < limit * (num := len(data.loader(split, "cpu"))) < 1:
            raise BadInput(f"{key}: expected at least {1 / num:.2g}, which is one batch of {num}, got {limit}")
    interval, limit = cfg.trainer.get("val_check_interval"), cfg.trainer.limit_train_batches
    if isinstance(interval, int) and cfg.trainer.get("check_val_every_n_epoch", 1) is not None:
        num = len(data.loader("train", "cpu"))
        num = num if limit is None else limit if isinstance(limit, int) else int(limit * num)
        if interval > num:
            raise BadInput(
                f"trainer.val_check_interval: expected at most {num}, the batches of an epoch, got {interval}"
            )


def _check_metrics(cfg: DictConfig, task: Task) -> None:
    """Refuse callbacks that watch a metric that no validation measures, before there has been one."""
    known = {"train/accuracy", *(f"val/{name}" for name in task.meter.compute())}
    if (cfg.model.get("num_classes") or math.inf) <= TOP:
        known.discard("val/top5")
    if "ema" in cfg.callbacks:
        known |= {"val/raw_accuracy", "val/raw_loss"}
    for name, node in cfg.callbacks.items():
        for key in ("metric", "monitor"):
            watched = node.get(key) if node else None
            if watched is not None and watched not in known:
                near = choices(watched, known)
                raise BadInput(f"callbacks.{name}.{key}: expected a metric that is measured, got '{watched}'; {near}")


def settled_batch_size(trainer: lightning.Trainer, task: Task, data: ResidentData) -> int:
    """Try out, on a copy of the task and with made-up samples, which batch is fastest; of all processes together.

    An epoch is left 20 steps at least. The copy trains eagerly even where the net is to be compiled.
    """
    device = trainer.strategy.root_device
    precision = trainer.precision_plugin
    copied: Any = precision.convert_module(copy.deepcopy(task)).to(device).train()
    optimizer = copied.optimizer(parameter_groups(copied.net, copied.head_lr))

    before, tried = memory.reset_peak(), 0

    def step(num_samples: int) -> None:
        nonlocal tried
        if device.type == "cpu" and num_samples > tried > 0:  # where a step that does not fit would end the run
            expected = (memory.peak_bytes() - before) * num_samples / tried
            if expected > TOO_FULL * memory.available_bytes():
                raise torch.OutOfMemoryError(f"{num_samples} samples need {expected / 1e9:.1f} GB")
        tried = max(tried, num_samples)
        inputs, *wanted = data.made_up(num_samples, device)
        with precision.forward_context():
            loss = copied.training_step((precision.convert_input(inputs), *wanted), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    largest = max(1, data.load().num_samples["train"] // 20 // ranks.world_size())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        mine = fastest_batch_size(step, largest, device)
    return min(ranks.of_all(mine)) * ranks.world_size()


def measure_product(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> dict[str, Any]:
    """Read the product back from its file, test that, and write result.json and the HParams table's row."""
    ranks.of_first(None)  # which has written it by now
    product, told = after_fit(run, read_product(run.folder / PRODUCT), task, data)
    whole, precision = task.net, str(trainer.precision)
    monitor, facts, cfg = callback_of(trainer, TrainingMonitor), data.load(), run.cfg
    with _put_back(trainer, task):
        is_quantized = in_integers(product.facts["recipe"])
        if is_quantized or ranks.world_size() > 1:
            whole = bare_net(run.cfg.model)  # that of training may be in parts
            replay(whole, product.facts["recipe"])
            task.net = laid_out(whole, run.cfg)
        sizes = {
            "params": count_parameters(whole),
            "macs": count_macs_of(whole, data.example()),
            "product_bytes": product.path.stat().st_size,
        }
        if is_quantized:
            task.net = laid_out(net_of(product), run.cfg)
            trainer.strategy.precision_plugin = Precision()  # sums of int8 products are exact in fp32, and not in bf16
        else:
            load_weights(task.net, product)
        with trainer.precision_plugin.forward_context():
            latency = latency_ms(task.net, data.example(), trainer.strategy.root_device)
        # A compiled net would pass over the hook by which callbacks.predictions sees what the last layer takes.
        eager = torch.compiler.set_stance("force_eager") if cfg.compile else contextlib.nullcontext()
        with eager:
            test = trainer.test(task, datamodule=data, verbose=False)[0]
    metrics = product.facts["best"]["metrics"].items()
    validation = {name: math.nan if value is None else value for name, value in metrics}  # as JSON has no NaN
    num_validated = validation.pop("val/num_samples", facts.num_samples["val"] if validation else 0)
    result = {
        "name": cfg.name,
        "net": cfg.choices.model,
        "data": cfg.choices.data,
        **sizes,
        "latency_ms": latency,
        "settings": report.hyperparameters(cfg),
        "seed": cfg.seed,
        "epochs": trainer.current_epoch,
        "best_epoch": min(product.facts["best"]["epoch"] + 1, trainer.current_epoch),  # 0 where none was trained
        "seconds": sum(monitor.epoch_seconds),
        "epoch_seconds": monitor.epoch_seconds,
        "images_per_second": monitor.images_per_second,
        "device": _device_name(trainer.strategy.root_device),
        "processes": ranks.world_size(),
        "precision": precision,
        "validation": {k.removeprefix("val/"): v for k, v in validation.items()},
        "test": {k.removeprefix("test/"): v for k, v in test.items()},
        "compress": {**told, **summaries(trainer)},
        "num_samples": {
            **facts.num_samples,
            "val": int(num_validated),
            "test": int(trainer.callback_metrics["test/num_samples"]),
        },
        "split_sizes": facts.num_samples,
        "split_hash": facts.split_hash,
        "test_hash": data.test_hash(),
        "folder": str(run.folder),
        **{key: product.facts[key] for key in ("commit", "versions")},
    }
    result = report.without_nan(result)
    for logger in trainer.loggers:
        for values in told.values():
            logger.log_metrics(values.pop("scalars", {}), step=trainer.global_step)
        settings = {**result["settings"], "format": "safetensors"}  # exported files have rows of their own
        logger.log_hyperparams(report.short_names(settings), metrics=report.headline(result))
        logger.finalize("success")
    result["bytes"] = {f.name: f.stat().st_size for f in sorted(run.folder.glob("[!.]*")) if f.is_file()}
    if ranks.rank() == 0:
        write_result(run.folder / "result.json", result)
        _warn_of_outdated(run, product)
    return result


def _warn_of_outdated(run: Run, product: Product) -> None:
    """Name the evaluations in the folder that were written before the product, and so are of an earlier one."""
    written = product.path.stat().st_mtime_ns
    outdated = [file.name for file in sorted(run.folder.glob("evaluation*.json")) if file.stat().st_mtime_ns < written]
    if outdated:
        log.warning("%s: of the product before this one; run evaluate.py again.", ", ".join(outdated))


@contextlib.contextmanager
def _put_back(trainer: lightning.Trainer, task: Task) -> Iterator[None]:
    """Put back the net and the precision that were trained with, in whose place a quantized product is tested."""
    net, precision = task.net, trainer.strategy.precision_plugin
    try:
        yield
    finally:
        task.net, trainer.strategy.precision_plugin = net, precision


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
