"""A wrong command line gets one sentence with the bad value and the accepted ones."""

import os
import shlex
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, sentence_of

from zoo.cli import command, messages
from zoo.errors import BadInput
from zoo.instantiate import build


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
        (["model.activation=rellu"], "model.activation: expected", "did you mean relu"),
        (["model.c3=3"], "model.c3: expected", "full, table"),
        (["optim.lr=fast"], "optim.lr: expected", "number"),
        (["optim.momentum=0.9"], "optim.momentum", "optim.lr"),
        (["+optim.momentum=0.9"], "optim.momentum", "of torch.optim.AdamW"),
        (["data.batch_size=many"], "data.batch_size: expected", "whole number"),
        (["trainer.precision=bf61-mixed"], "trainer.precision: expected", "bf16-mixed"),
        (["task.l1=1e13"], "task.l1: expected a number between", "got 10000000000000.0"),
        (["trainer.precision=16-true"], "trainer.precision: expected", "16-mixed"),
        (["trainer.precision=bf16-true", "callbacks=ema"], "trainer.precision=bf16-true", "use bf16-mixed"),
        (["trainer.accelerator=gppu"], "gppu", "cuda"),
        (["schedule.warmup=much"], "schedule.warmup: expected", "number"),
        (["callbacks=ema", "callbacks.ema.decay=2"], "decay: expected", "below 1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs: expected", "at least 1"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs: expected", "at least 0"),
        (["trainer.max_epochs=2.5"], "trainer.max_epochs: expected", "whole number"),
        (["optim.lr=0"], "optim.lr: expected", "above 0"),
        (["optim.lr=-0.1"], "optim.lr: expected", "above 0"),
        (["optim.lr=.nan"], "optim.lr: expected", "number"),
        (["data.batch_size=0"], "data.batch_size: expected", "at least 1"),
        (["data.batch_size=-4"], "data.batch_size: expected", "at least 1"),
        (["data.batch_size=100000"], "data.batch_size=100000", "3500 training images"),
        (["data.num_classes=7"], "num_classes=7", "10 classes"),
        (["seed=abc"], "seed: expected", "whole number"),
        (["seed=-1"], "seed: expected", "from 0"),
        (["name="], "name: expected", "name of a folder"),
        (["channels_last=maybe"], "channels_last: expected", "true or false"),
        (["tf32=high"], "tf32: expected", "true or false"),
        (["compile=reduce-overhed"], "compile: expected", "mean reduce-overhead?"),
        (["compile=cudagraphs"], "compile: expected", "reduce-overhead, max-autotune"),
        (
            ["compile=max-autotune", "trainer.accumulate_grad_batches=2"],
            "accumulate_grad_batches: expected",
            "max-autotune",
        ),
        (["data.augment.crop.padding=-1"], "padding: expected", "at least 1"),
        (["task.label_smoothing=2"], "label_smoothing: expected", "below 1"),
        (["schedule.warmup=3"], "warmup: expected", "below 1"),
        (["optim.weight_decay=-1"], "weight_decay", "-1"),
        (["trainer.gradient_clip_val=-1"], "gradient_clip_val: expected", "or null"),
        (["trainer.gradient_clip_val=abc"], "gradient_clip_val: expected", "or null"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches: expected", "at least 1"),
        (["compress.before_fit=[x]"], "compress.before_fit", "Cannot merge DictConfig with ListConfig"),
        (["callbacks.product.metric=val/acc"], "val/acc", "did you mean val/accuracy"),
        (["name=.."], "name: expected", "'..'"),
        (["name=."], "name: expected", "'.'"),
        (["name=a/b"], "name: expected", "'a/b'"),
        (["name=[a]"], "name: expected", "['a']"),
        (["runs="], "runs: expected", "''"),
        (["runs=null"], "runs: expected", "null"),
        (["resume=5"], "resume: expected", "5"),
        (["init_from=[a]"], "init_from: expected", "['a']"),
        (["~model"], "model: is needed", "~model"),
        (["~optim"], "optim: is needed", "~optim"),
        (["~trainer.max_epochs"], "trainer.max_epochs: is required", "does not have it"),
        (["callbacks.graph=5"], "callbacks.graph: expected", "null"),
        (["trainer=gpu"], "trainer.accelerator: expected auto or cpu", "trainer=cpu"),
        (["trainer.accelerator=meta"], "trainer.accelerator: expected", "cuda"),
        (["trainer.strategy=ddp_spawn"], "trainer.strategy: expected", "fsdp2"),
        (["model.in_channels=3"], "model.in_channels: expected 1", "data.in_channels"),
        (["model.image_size=20"], "model.image_size: expected 28", "data.image_size"),
        (["optim.lr=true"], "optim.lr: expected", "true"),
        (["lr=0.1"], "no setting 'lr'", "mean optim.lr?"),
        (["epochs=3"], "no setting 'epochs'", "mean trainer.max_epochs?"),
        (["batch_size=64"], "no setting 'batch_size'", "mean data.batch_size?"),
        (["name=größe"], "name=größe", """'name="größe"'"""),
        (["data.root=a=b"], "data.root=a=b", """'data.root="a=b"'"""),
        (["name=a#b"], "name=a#b", """'name="a#b"'"""),
        (["name=a,b"], "name: expected one value, got a,b", """'name="a,b"'"""),
        (["seed=abc", "-m"], "seed: expected", "whole number"),
        (["resume=runs/none/x"], "resume=runs/none/x", "not a run folder"),
        (["init_from=none.safetensors"], "none.safetensors", "no file"),
        (["=5"], "=5", "choose from"),
        (["model=5"], "model=5", "lenet5"),
        (["model"], "model", "key=value"),
        (["trainer.max_epochs=[1"], "trainer.max_epochs=[1", "key=value"),
        (["~callbacks.product"], "BestProduct", "configs/callbacks/base/standard.yaml"),
        (["model.init=xavier"], "model.init=xavier", "glorot"),
        (["model.activation=rellu"], "model.activation: expected", "relu"),
        (["model=resnet20", "model.activation=maxout"], "maxout", "use another"),
        (["model=resnet20", "model.stochastic_depth=1"], "stochastic_depth: expected", "below 1"),
        (["model.freeze=clasifier"], "no part 'clasifier'", "classifier"),
        (["model.freeze=5"], "model.freeze=5", "backbone"),
        (["model.freeze=[1,2]"], "model.freeze=[1, 2]", "backbone"),
        (["model.freeze={untill: layer3}"], "untill", "{until: layer3}"),
        (["model=resnet18", "model.pretrained=true"], "data.image_size=28", "75 px"),
        (
            ["model=resnet18", "data=imagenet", "model.pretrained=1"],
            "data/imagenet, which cannot be opened",
            "data.root",
        ),
        (["task.head_lr=-1"], "head_lr: expected", "above 0"),
        (["task.head_lr=fast"], "task.head_lr: expected", "a number"),
        (["data.mean=[1,2]", "data.std=[1,2]"], "data.mean=[1, 2]", "one number per channel"),
        (["data.distinct_epochs=0"], "data.distinct_epochs: expected", "at least 1"),
        (["data.mean=[100]"], "data.mean", "set both mean and std"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_sentence(command, tmp_path, arguments, came, would_do):
    chosen = [] if arguments[0].startswith("trainer=") else ["trainer=smoke"]
    outcome = command("train", *chosen, *arguments)
    assert outcome.code == 2, outcome
    assert came in outcome.sentence
    assert would_do in outcome.sentence


def test_a_setting_that_was_meant_is_named_once(command):
    outcome = command("evaluate", "checkpont=model.safetensors")
    assert outcome.sentence == "error: there is no setting 'checkpont'; did you mean checkpoint?"


@pytest.mark.parametrize(
    ("arguments", "came", "would_do"),
    [
        ([], "checkpoint is required", "checkpoint=..."),
        (["checkpont=x"], "checkpont", "checkpoint"),
        (["checkpoint=none.safetensors"], "none.safetensors", "newest run"),
        (["checkpoint=null"], "checkpoint: expected", "null"),
        (["checkpoint=x", "split=foo"], "split: expected", "test, val"),
        (["checkpoint=x", "accelerator=meta"], "accelerator: expected", "auto, cpu"),
        (["checkpoint=x", "out=5"], "out: expected", "null"),
        (["checkpoint=x", "trainer=gpu"], "no setting 'trainer'", "choose from"),
        (["checkpoint=x", "model=lenet5"], "no setting 'model'", "choose from"),
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


def test_what_an_override_says_in_quotes_is_taken_as_it_stands(compose):
    for value in ("größe", "a=b", "a#b", "a,b", "~a", "it's", "(a"):
        written = shlex.split(messages._quoted("name", value))[0]
        assert compose(written).name == value


def test_a_setting_of_another_group_is_found_by_its_last_word(command):
    """The whole list of settings was 1,600 characters."""
    outcome = command("train", "no_such_thing=3")
    assert outcome.code == 2
    assert len(outcome.sentence) < 300


def test_flags_may_stand_anywhere():
    line = ["model=lenet5", "-m", "seed=1,2", "--cfg", "job", "optim.lr=1"]
    assert command._flags_first(line) == ["-m", "--cfg", "job", "model=lenet5", "seed=1,2", "optim.lr=1"]


@pytest.mark.parametrize("experiment", ["transformer_cmudict", "fast_fashion_mnist", "qat_int8_resnet20"])
def test_a_smoke_run_of_an_experiment_is_two_batches(compose, experiment):
    trainer = compose("trainer=smoke", f"experiment={experiment}").trainer
    assert (trainer.max_epochs, trainer.limit_train_batches, trainer.limit_val_batches) == (1, 2, 2)
    assert compose("trainer=smoke", f"experiment={experiment}", "trainer.max_epochs=3").trainer.max_epochs == 3
    assert compose(f"experiment={experiment}").trainer.max_epochs > 2


@pytest.mark.parametrize(
    ("environment", "came"),
    [
        ({"RANK": "x"}, "RANK: expected a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE: expected a whole number"),
        ({"RANK": "1"}, "LOCAL_RANK: expected in the environment with RANK"),
        ({"WORLD_SIZE": "2"}, "RANK: expected in the environment with WORLD_SIZE"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, "SLURM_PROCID: expected in the environment with SLURM_NTASKS"),
        ({"SLURM_NTASKS": "two", "SLURM_STEP_ID": "0"}, "SLURM_NTASKS: expected a whole number"),
        (
            dict(RANK="2", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="a", MASTER_PORT="1"),
            "RANK: expected a number below WORLD_SIZE=2, got 2",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_an_environment_that_makes_no_process_of_several_is_refused_by_name(command, monkeypatch, environment, came):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = command("train")
    assert outcome.code == 2
    assert came in outcome.sentence


@pytest.mark.parametrize("answer", [None, SystemExit(1)], ids=["print", "rich"])
def test_output_that_nobody_reads_any_more_is_said_in_one_sentence(monkeypatch, capfd, answer):
    """As with `train.py | head -1`; the first is raised by print, the second by Rich."""
    read, write = os.pipe()
    os.close(read)

    def story(cfg):
        try:
            print("a line", flush=True)
        except BrokenPipeError as error:
            raise answer or error from None

    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "checkpoint=x"])
        with pytest.raises(SystemExit) as exit_:
            command.command("evaluate")(story)()
    assert exit_.value.code == 1
    assert "closed" in sentence_of(capfd.readouterr().err)


class Broken:
    """A user's net with a mistake in it."""

    def __init__(self, in_channels: int, kind: str) -> None:
        if kind == "attribute":
            self.in_channels.to(in_channels)
        elif kind == "type":
            in_channels + kind
        elif kind == "index":
            [][in_channels]
        raise ValueError(f"kind={kind} is not known")


@pytest.mark.parametrize(("kind", "error"), [("attribute", AttributeError), ("type", TypeError), ("index", IndexError)])
def test_a_bug_in_a_constructor_keeps_its_traceback(kind, error):
    with pytest.raises(error) as raised:
        build({"_target_": f"{__name__}.Broken", "in_channels": 1, "kind": kind}, "model")
    assert any(entry.name == "__init__" and str(entry.path) == __file__ for entry in raised.traceback)


def test_a_value_that_a_constructor_refuses_and_one_it_lacks_are_sentences():
    with pytest.raises(BadInput, match=r"^model: kind=other is not known"):
        build({"_target_": f"{__name__}.Broken", "in_channels": 1, "kind": "other"}, "model")
    with pytest.raises(BadInput, match=r"^model: .*missing 1 required positional argument: 'kind'"):
        build({"_target_": f"{__name__}.Broken", "in_channels": 1}, "model")


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
    assert ("trainer.devices=N" in outcome.err) == ("RANK" not in started_by)  # only the first process reports it
    assert not list(tmp_path.iterdir())


def test_a_thread_leaves_a_full_disk_to_the_main_one_and_shows_what_nobody_foresaw(monkeypatch, capfd):
    """TensorBoard's writer raises an error in its thread, and again in the main thread at the next write."""

    def fail(error):
        raise error

    @command.command("train")
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
