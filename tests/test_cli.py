"""What a person types wrong gets one sentence that says what came and what would do."""

import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from zoo import cli


@pytest.mark.parametrize(
    ("arguments", "came", "would_do"),
    [
        (["model=lenet6"], "model=lenet6", "lenet5"),
        (["model=zzz"], "model=zzz", "resnet18, resnet20"),
        (["modle=lenet5"], "modle", "did you mean model"),
        (
            ["compress=share", "compress.share={bit: 4}"],
            "'compress.share' has no such keys",
            "~compress.share '+compress.share={...}' replaces it",
        ),
        (["optim.lrr=0.1"], "optim.lrr", "optim.lr"),
        (["trainer.max_epoch=3"], "trainer.max_epoch", "trainer.max_epochs"),
        (["seeed=3"], "seeed", "seed"),
        (["data.augment.crop.pading=3"], "data.augment.crop.pading", "data.augment.crop.padding"),
        (["model.activation=rellu"], "model.activation=rellu", "did you mean relu"),
        (["model.c3=3"], "model.c3=3", "full, table"),
        (["optim.lr=fast"], "optim.lr=fast", "number"),
        (["optim.momentum=0.9"], "optim.momentum", "optim.lr"),
        (["+optim.momentum=0.9"], "optim.momentum", "of torch.optim.AdamW"),
        (["data.batch_size=many"], "data.batch_size=many", "whole number"),
        (["trainer.precision=bf61-mixed"], "trainer.precision=bf61-mixed", "bf16-mixed"),
        (["trainer.precision=16-true"], "trainer.precision=16-true", "16-mixed"),
        (["trainer.precision=bf16-true", "callbacks=ema"], "trainer.precision=bf16-true", "bf16-mixed will do"),
        (["trainer.precision=bf16-true", "trainer=smoke", "model=alexnet_2012"], "precision=bf16-true", "BFloat16"),
        (["trainer.accelerator=gppu"], "gppu", "cuda"),
        (["schedule.warmup=much"], "schedule.warmup=much", "number"),
        (["callbacks=ema", "callbacks.ema.decay=2"], "decay=2", "0.999"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0", "at least 1"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1", "at least 1"),
        (["trainer.max_epochs=2.5"], "trainer.max_epochs=2.5", "whole number"),
        (["optim.lr=0"], "optim.lr=0", "above 0"),
        (["optim.lr=-0.1"], "optim.lr=-0.1", "above 0"),
        (["optim.lr=.nan"], "optim.lr=.nan", "number"),
        (["data.batch_size=0"], "data.batch_size=0", "at least 1"),
        (["data.batch_size=-4"], "data.batch_size=-4", "at least 1"),
        (["data.batch_size=100000"], "data.batch_size=100000", "3500 training images"),
        (["data.num_classes=7"], "num_classes=7", "10 classes"),
        (["seed=abc"], "seed=abc", "whole number"),
        (["seed=-1"], "seed=-1", "from 0"),
        (["name="], "name=", "name of a folder"),
        (["channels_last=maybe"], "channels_last=maybe", "true or false"),
        (["tf32=high"], "tf32=high", "true or false"),
        (["compile=reduce-overhed"], "compile=reduce-overhed", "did you mean reduce-overhead?"),
        (["compile=cudagraphs"], "compile=cudagraphs", "false, max-autotune, reduce-overhead, true"),
        (["compile=max-autotune", "trainer.accumulate_grad_batches=2"], "accumulate_grad_batches=2", "max-autotune"),
        (["data.augment.crop.padding=-1"], "padding=-1", "at least 1"),
        (["task.label_smoothing=2"], "label_smoothing=2", "between 0 and 1"),
        (["schedule.warmup=3"], "warmup=3", "share of all steps"),
        (["optim.weight_decay=-1"], "weight_decay", "-1"),
        (["trainer.gradient_clip_val=-1"], "gradient_clip_val=-1", "null for none"),
        (["trainer.gradient_clip_val=abc"], "gradient_clip_val=abc", "null for none"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches=0", "at least 1"),
        (["compress.before_fit=[x]"], "compress.before_fit", "Cannot merge DictConfig with ListConfig"),
        (["callbacks.product.metric=val/acc"], "val/acc", "did you mean val/accuracy"),
        (["resume=runs/none/x"], "resume=runs/none/x", "no run folder"),
        (["init_from=none.safetensors"], "none.safetensors", "no file"),
        (["=5"], "=5", "choose from"),
        (["model=5"], "model=5", "lenet5"),
        (["model"], "model", "key=value"),
        (["trainer.max_epochs=[1"], "trainer.max_epochs=[1", "key=value"),
        (["~callbacks.product"], "BestProduct", "configs/callbacks/default.yaml"),
        (["model.init=xavier"], "model.init=xavier", "glorot"),
        (["model.activation=rellu"], "model.activation=rellu", "relu"),
        (["model=resnet20", "model.activation=maxout"], "maxout", "any other"),
        (["model=resnet20", "model.stochastic_depth=1"], "stochastic_depth=1", "below 1"),
        (["model.freeze=clasifier"], "no part 'clasifier'", "classifier"),
        (["model.freeze=5"], "model.freeze=5", "backbone"),
        (["model.freeze=[1,2]"], "model.freeze=[1, 2]", "backbone"),
        (["model.freeze={untill: layer3}"], "untill", "{until: layer3}"),
        (["model=resnet18", "model.pretrained=true"], "data.image_size=28", "75 px"),
        (["model=resnet18", "data=imagenet", "model.pretrained=1"], "imagenet/train", "data.root"),
        (["task.head_lr=-1"], "head_lr=-1", "above 0"),
        (["task.head_lr=fast"], "task.head_lr=fast", "a number"),
        (["data.mean=[1,2]", "data.std=[1,2]"], "data.mean=[1, 2]", "a number a channel"),
        (["data.distinct_epochs=0"], "data.distinct_epochs=0", "at least 1"),
        (["data.mean=[100]"], "data.mean", "give mean and std"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_sentence(command, tmp_path, arguments, came, would_do):
    outcome = command("train", "trainer=smoke", *arguments) if "trainer=" not in arguments[0] else command(*arguments)
    assert outcome.code == 2, outcome
    assert came in outcome.sentence
    assert would_do in outcome.sentence


@pytest.mark.parametrize(
    ("arguments", "came", "would_do"),
    [
        ([], "checkpoint is not given", "checkpoint=..."),
        (["checkpont=x"], "checkpont", "checkpoint"),
        (["checkpoint=none.safetensors"], "none.safetensors", "runs/<name>/<stamp>"),
    ],
)
def test_so_is_one_in_an_evaluation(command, arguments, came, would_do):
    outcome = command("evaluate", *arguments)
    assert outcome.code == 2
    assert came in outcome.sentence
    assert would_do in outcome.sentence


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model=lenet6"], ["--cfg", "job", "optim.lrr=1"]])
@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_help_and_typos_are_answered_without_importing_torch(script, arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script + '.py'!r}, *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / (script + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'matplotlib', 'numpy'} & sys.modules.keys()\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("HEAVY []"), done.stdout[-500:]


def test_a_traceback_is_shown_to_who_asks_for_it(process, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    running = process("train", "model=lenet6")
    _, err = running.communicate()
    assert running.returncode == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    "started_by",
    [{"RANK": "1", "WORLD_SIZE": "2"}, {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}],
    ids=["torchrun", "srun"],
)
def test_a_sweep_in_processes_that_others_started_is_refused(command, monkeypatch, tmp_path, started_by):
    for name, value in started_by.items():
        monkeypatch.setenv(name, value)
    outcome = command("train", "-m", "seed=1,2")
    assert outcome.code == 2
    assert ("trainer.devices=N" in outcome.err) == ("RANK" not in started_by)  # the first process says it for all
    assert not list(tmp_path.iterdir())


def test_a_thread_leaves_a_full_disk_to_the_main_one_and_shows_what_nobody_foresaw(monkeypatch, capfd):
    """TensorBoard's writer raises an error in its thread, and the same one in the main thread at the next write."""

    def fail(error):
        raise error

    @cli.command("train")
    def main(cfg):
        for error in (FileNotFoundError(2, "No such file or directory"), ValueError("a fault of ours")):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
        raise OSError(28, "No space left on device", b"runs/x/events.out")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit):
        main()
    err = capfd.readouterr().err
    assert err.count("Traceback") == 1
    assert "ValueError: a fault of ours" in err
    assert "No such file" not in err
    assert err.splitlines()[-1].startswith("error: No space left on device: runs/x/events.out;")
