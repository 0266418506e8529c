"""The same photographs in every form that the zoo reads give the same batches, and nets of the same test accuracy.

They are cuttings of the photographs that scikit-learn (china.jpg, flower.jpg) and matplotlib (grace_hopper.jpg) ship,
as JPEG and PNG files; scipy ships none, but downloads them, and scikit-image is not needed for the tests.
"""

import json
from pathlib import Path

import pytest
import torch
from photographs import write_arrow, write_folders, write_shards, write_table

from zoo.data.arrow_folders import ArrowFolder
from zoo.data.augment import RandomFlip, RandomResizedCrop
from zoo.data.folders import ImageFolders
from zoo.data.image_tables import ImageTable
from zoo.data.shards import Shards

SIDE = 28
AUGMENT = {"crop": RandomResizedCrop(size=SIDE), "flip": RandomFlip()}
COMMON = {"image_size": SIDE, "num_classes": None, "in_channels": 3, "batch_size": 8, "num_validation": 6}


def forms_of(root: Path) -> dict[str, list[str]]:
    """Write all forms of the pictures in root/folders; return the settings of each but its class, as on a command line.

    Arrow and Parquet are left out if pyarrow is not installed.
    """
    folders = str(root / "folders")
    table = write_table(root / "folders", root / "labels.csv")
    shards = write_shards(root / "folders", root / "shards")
    forms = {
        "image_folder": {"root": folders},
        "image_table": {"table": table, "images": folders, "split": "split"},
        "several": {"table": table, "images": folders, "split": "split", "separator": "|"},
        "shards": {"urls": f"{shards}/train-*.tar", "test_urls": f"{shards}/test-0.tar"},
    }
    try:
        forms["arrow_folder"] = {"root": str(write_arrow(root / "folders", root / "arrow"))}
        forms["parquet"] = {"root": str(write_arrow(root / "folders", root / "parquet", parquet=True))}
    except ImportError:
        pass
    return forms


DATA = {
    "image_folder": ImageFolders,
    "image_table": ImageTable,
    "several": ImageTable,
    "shards": Shards,
    "arrow_folder": ArrowFolder,
    "parquet": ArrowFolder,
}


@pytest.mark.parametrize(
    ("workers", "num", "most"), [(0, 6, 48), pytest.param(1, 24, 300, marks=pytest.mark.slow)], ids=["small", "worker"]
)
def test_every_form_gives_the_same_batches_bit_for_bit(tmp_path, workers, num, most):
    write_folders(tmp_path / "folders", num, 4, most=most)
    forms = forms_of(tmp_path)
    data = {
        name: DATA[name](**settings, augment=AUGMENT, cache="none", num_workers=workers, **COMMON)
        for name, settings in forms.items()
    }
    expected = {split: list(data["image_folder"].loader(split, "cpu")) for split in ("train", "val", "test")}
    assert all(expected.values())
    for name, one in data.items():
        assert one.load().mean == data["image_folder"].load().mean
        for split, batches in expected.items():
            found = list(one.loader(split, "cpu"))
            assert len(found) == len(batches)
            for (images, labels), (x, y) in zip(found, batches, strict=True):
                assert torch.equal(images, x), name
                assert torch.equal(labels.argmax(1) if name == "several" else labels, y), name


@pytest.mark.slow
def test_nets_trained_on_every_form_have_the_same_test_accuracy_and_are_evaluated_again(command, tmp_path):
    write_folders(tmp_path / "folders", 40, 20, most=120)
    usual = ["data.num_validation=12", "trainer=cpu", "trainer.max_epochs=2", "model=lenet5", "optim.lr=0.003"]
    usual += ["trainer.log_every_n_steps=2", "callbacks.graph=null", "data.image_size=28", "data.batch_size=8"]
    usual += ["data.num_workers=1", "data.cache=none"]
    results = {}
    for name, settings in forms_of(tmp_path).items():
        if name == "several":
            continue
        line = [f"data={'arrow_folder' if name == 'parquet' else name}"]
        line += [f'data.{key}="{value}"' for key, value in settings.items()]
        outcome = command("train", *line, *usual, f"name={name}")
        assert outcome.code == 0, outcome.err
        (file,) = tmp_path.glob(f"runs/{name}/*/result.json")
        results[name] = json.loads(file.read_text())["test"]
        assert results[name] == results["image_folder"], name
        root = settings.get("root") or Path(settings.get("urls") or settings["table"]).parent
        outcome = command("evaluate", f"checkpoint=runs/{name}", f"data_root={root}")
        assert outcome.code == 0, outcome.err
        (file,) = tmp_path.glob(f"runs/{name}/*/evaluation.json")
        assert json.loads(file.read_text())["accuracy"] == results[name]["accuracy"]
    assert 1 / 3 < results["shards"]["accuracy"] <= 1
