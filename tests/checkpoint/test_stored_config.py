"""The config of a run folder: what it may call and read on resume, and what only with the user's permission."""

import json

import pytest
from conftest import compose_run
from omegaconf import OmegaConf

from zoo.checkpoint.stored_config import check_run
from zoo.cli.settings import check_saved
from zoo.errors import BadInput
from zoo.instantiate import trusting


def config(*overrides):
    plain = OmegaConf.to_container(compose_run(*overrides), resolve=True)
    return {**plain, "choices": {"model": "lenet5", "data": "mnist_5k", "task": "classification"}}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data=fashion_mnist", "callbacks=ema", "compress=deep_compression", "optim=muon"),
        ("data=cmudict", "callbacks=diagnostics"),
        ("data=image_folder", "data.root=my_pictures", "callbacks=early_stopping"),
        ("data=pairs", "data.path=pairs.tsv"),
        ("task=distill", "task.teacher=[runs/a/b/model.safetensors]"),
        ("optim._target_=torch.optim.Rprop", "runs=/mnt/runs"),
        (
            "+data.augment.policy={_target_: zoo.data.policies.TrivialAugment}",
            "data.mix={_target_: zoo.data.mix.CutMix}",
        ),
    ],
)
def test_what_the_project_has_is_resumed_without_a_word(overrides):
    check_run(config(*overrides), [])


@pytest.mark.parametrize(
    ("overrides", "key", "trusted"),
    [
        (("data=image_folder", "data.root=/mnt/pictures"), "data.root", "/mnt"),
        (("data=image_folder", "data.root=../elsewhere"), "data.root", "../elsewhere"),
        (("data=image_folder", "data.root='~/pictures'"), "data.root", "~/pictures"),
        (("data=pairs", "data.path=/dev/zero"), "data.path", "/dev/zero"),
        (("data=fashion_mnist", "data_root=/mnt/data"), "data", "/mnt/data"),
        (("task=distill", "task.teacher=/mnt/x.safetensors"), "task.teacher", "/mnt"),
        (("init_from=/mnt/x.safetensors",), "init_from", "/mnt"),
        (("model.pretrained=/mnt/vgg16.pth",), "model.pretrained", "/mnt"),
        (("optim._target_=os.mkdir",), "optim", "os"),
        (("schedule._target_=builtins.exec",), "schedule", "builtins"),
        (("task._target_=zoo.tasks.classification.torch.load",), "task", "zoo"),
        (
            ("+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: x}",),
            "callbacks.x",
            "lightning",
        ),
        (("model._target_=my_package.Net",), "model", None),
        (("data.source._target_=os.mkdir",), "data.source", None),
        (("task._target_=lightning.Trainer",), "task", "lightning"),
        (("task._target_=zoo.models.decoding.greedy",), "task", "zoo"),
        (("schedule._target_=torch.optim.SGD",), "schedule", "torch"),
        (("optim._target_=torch.optim.Optimizers",), "optim", "torch"),
        (("optim._target_=torch.optim.lr_scheduler",), "optim", "torch"),
        (("trainer._target_=zoo.run.pack_product.pack",), "trainer", "zoo"),
        (("+callbacks.x={_target_: zoo.run.pack_product.pack}",), "callbacks.x", "zoo"),
        (("+compress.before_fit.x={_target_: zoo.run.pack_product.pack}",), "compress.before_fit.x", "zoo"),
        (("+optim.x={_target_: torch.optim.SGD}",), "optim.x", "torch"),
    ],
)
def test_what_leads_out_of_it_is_refused_by_its_key_and_allowed_by_name(overrides, key, trusted):
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        check_run(config(*overrides), [])
    if trusted:
        with trusting([trusted]):
            check_run(config(*overrides), [trusted])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"compile": "text"}, "compile: expected true or false or one of"),
        ({"tf32": 1}, "tf32: expected true or false, got 1"),
        ({"channels_last": None}, "channels_last: expected true or false, got null"),
        ({"preflight": "yes"}, "preflight: expected true or false"),
        ({"init_from": 7}, "init_from: expected a text"),
        ({"seeds": 1}, "there is no setting 'seeds' of a run; did you mean seed"),
        ({"choice": {"_target_": "os.mkdir"}}, "there is no setting 'choice' of a run"),
        ({"tf32": ...}, "tf32: is needed"),
    ],
)
def test_a_saved_setting_is_held_against_its_range(change, sentence):
    plain = {key: value for key, value in {**config(), **change}.items() if value is not ...}
    with pytest.raises(BadInput, match=sentence):
        check_saved(OmegaConf.create(plain))


def test_runs_of_earlier_versions_lack_settings():
    plain = config()
    check_saved(OmegaConf.create({key: value for key, value in plain.items() if key not in ("trusted", "preflight")}))


def test_a_setting_that_no_run_has_is_refused_before_it_begins(command):
    done = command("train", "+notes=mine")
    assert (done.code, "there is no setting 'notes' of a run" in done.sentence) == (2, True)


def test_a_folder_that_calls_what_is_not_the_zoos_is_not_resumed(command, tmp_path):
    folder = tmp_path / "runs" / "evil" / "one"
    folder.mkdir(parents=True)
    evil = config()
    evil["callbacks"]["progress"] = {"_target_": "os.mkdir", "path": str(tmp_path / "MARK")}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(evil))
    done = command("train", f"resume={folder}")
    assert (done.code, "trusted=[os]" in done.sentence) == (2, True)
    evil["callbacks"]["progress"] = json.loads(json.dumps({"_target_": "zoo.callbacks.progress.ProgressBar"}))
    evil["data"]["source"] = {"_target_": "os.mkdir", "_partial_": True, "path": str(tmp_path / "MARK")}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(evil))
    done = command("train", f"resume={folder}", "trusted=[os]")
    assert done.code == 2
    assert not (tmp_path / "MARK").exists()
